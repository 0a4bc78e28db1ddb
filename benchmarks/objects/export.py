"""The checkpoint folder: stock LLaVA, in the key layout of the llava-hf repos.

The small files are written here and not by `save_pretrained`, whose spelling of them changes between versions of
transformers: in this form every version from 4.57 on reads them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

from mmtok.tiny.backgrounds import SIDE
from mmtok.tiny.scenes import PATCH

from .architecture import config_values
from .vocabulary import BOS, CHAT_TEMPLATE, EOS, IMAGE, PAD, UNK, build_tokenizer

# From the names in memory to those of the llava-hf repos. Some versions have dropped the tower's inner "vision_model".
_LLAVA_HF_KEYS = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.vision_model.": "vision_tower.vision_model.",
    "model.vision_tower.": "vision_tower.vision_model.",
}


def export_checkpoint(model: LlavaForConditionalGeneration, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write everything that `from_pretrained` needs into a folder.

    In float16 the weights take 5 MB. The configuration names float32, which they are read as: few processors compute
    with float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {llava_hf_key(key): value.detach().to(dtype).contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    values = config_values()
    ids = {name: values["text_config"][name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    heading = {"architectures": ["LlavaForConditionalGeneration"], "dtype": "float32"}
    _write(folder / "config.json", {**heading, **values, **ids})
    _write(folder / "generation_config.json", ids)
    export_processor(folder)


def export_processor(folder: Path) -> None:
    """Write the tokenizer, the image processor and the chat template, as `AutoProcessor` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": UNK}
    build_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "special_tokens_map.json", tokens)
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "LlavaProcessor",
            "padding_side": "left",
            "model_max_length": config_values()["text_config"]["max_position_embeddings"],
            "model_input_names": ["input_ids", "attention_mask"],  # transformers 4.57 adds token_type_ids otherwise
            "clean_up_tokenization_spaces": False,
            "image_token": IMAGE,
            **tokens,
        },
    )
    _write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": SIDE},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": SIDE, "width": SIDE},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )
    _write(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": IMAGE,
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def llava_hf_key(key: str) -> str:
    """Translate the name of a parameter in memory to its name in the llava-hf repos."""
    for ours, theirs in _LLAVA_HF_KEYS.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    raise ValueError(f"Parameter {key!r} has no name in the llava-hf layout; _LLAVA_HF_KEYS has to give it one.")


@contextmanager
def replaced_when_complete(folder: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `folder` when the block ends without an error."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
