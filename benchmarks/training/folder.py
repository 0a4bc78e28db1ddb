"""The checkpoint folder of an embedded model, in the layout of the published ones.

The small files are written here and not by `save_pretrained`, whose spelling of them changes between versions of
transformers: in this form every version from 4.57 on reads them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from mmtok.measuring import machine

from .loop import Run, Stage, compute_dtype, snapshot_path

# Images as the towers read them: -1 ... 1.
PIXELS = {
    "do_convert_rgb": True,
    "do_resize": True,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def published_key(key: str, names: Mapping[str, str]) -> str:
    """Translate the name of a parameter in memory to its published name; `names`: beginning -> published beginning."""
    for ours, theirs in names.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    raise ValueError(f"Parameter {key!r} has no published name; the table of this model has to give it one.")


def write_model(
    model: nn.Module, folder: Path, names: Mapping[str, str], config: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write weights, configuration and generation configuration.

    The configuration names float32, which the weights are read as: few processors compute with 16 bits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        published_key(key, names): value.detach().to(dtype).contiguous() for key, value in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    text = {**config, **config.get("text_config", {})}
    ids = {name: text[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    heading = {"architectures": [type(model).__name__], "dtype": "float32"}
    write_json(folder / "config.json", {**heading, **config, **ids})
    write_json(folder / "generation_config.json", ids)


def write_processor(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    template: str,
    files: Mapping[str, Mapping[str, Any]],
    **settings: Any,
) -> None:
    """Write tokenizer and chat template, and the JSON files given by their names, as `AutoProcessor` reads them.

    `settings`: further fields of the tokenizer's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("pad_token", "bos_token", "eos_token", "unk_token")
    tokens = {name: token for name in names if (token := getattr(tokenizer, name)) is not None}
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    written = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": "left",
        "model_max_length": tokenizer.model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],  # transformers 4.57 adds token_type_ids otherwise
        "clean_up_tokenization_spaces": False,
        **settings,
        **tokens,
    }
    for name, values in {"special_tokens_map": tokens, "tokenizer_config": written, **files}.items():
        write_json(folder / f"{name}.json", values)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def stage_reports(run: Run, stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Say of each stage how it was run, how many of its steps were done, where, and how long it took."""
    where = {"dtype": str(compute_dtype()).removeprefix("torch."), "processor": machine()["processor"]}
    ends = [torch.load(snapshot_path(run, stage), weights_only=True) for stage in stages]
    return [
        {**asdict(stage), "steps_done": end["step"], "seconds": round(end["seconds"]), **where}
        for stage, end in zip(stages, ends, strict=True)
    ]


@contextmanager
def replaced_when_complete(folder: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `folder` when the block ends without an error."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as indented JSON."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
