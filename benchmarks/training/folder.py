"""The checkpoint folder of an embedded model, in the layout of the published ones.

Its settings and its tokenizer are kept by hand, in the embedded checkpoint itself: `save_pretrained` spells them in
another way in each version of transformers, and in this form every version from 4.57 on reads them. A new word is added
to `tokenizer.json`, and counted in `config.json`.
"""

from __future__ import annotations

import argparse
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

from mmtok.measuring import machine

from .loop import Run, Stage, compute_dtype, snapshot_path

WEIGHTS, REPORT = "model.safetensors", "training_report.json"


def published_key(key: str, names: Mapping[str, str]) -> str:
    """Translate the name of a parameter in memory to its published name; `names`: beginning -> published beginning."""
    for ours, theirs in names.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    raise ValueError(f"Parameter {key!r} has no published name; the table of this model has to give it one.")


def write_checkpoint(model: nn.Module, folder: Path, base: Path, names: Mapping[str, str], dtype: torch.dtype) -> None:
    """Write the weights by their published names, with the settings and the tokenizer of the embedded checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        published_key(key, names): value.detach().to(dtype).contiguous() for key, value in model.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    for path in base.iterdir():
        if path.name not in (WEIGHTS, REPORT):
            shutil.copy(path, folder)


def train_command(about: str | None, runs: str) -> tuple[Path, Run]:
    """The arguments of a training: the checkpoint's folder, and the run, whose snapshots lie in `runs` if not told."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--run-folder", type=Path, default=Path(runs), help="where snapshots are kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return options.output, Run(options.run_folder, seed=options.seed)


def write_report(folder: Path, command: str, run: Run, stages: Sequence[Stage], batch_sizes: Mapping[str, int]) -> None:
    """Write how each stage was run, how many of its steps were done, where, and how long it took."""
    where = {"dtype": str(compute_dtype()).removeprefix("torch."), "processor": machine()["processor"]}
    ends = [torch.load(snapshot_path(run, stage), weights_only=True) for stage in stages]
    reports = [
        {**asdict(stage), "steps_done": end["step"], "seconds": round(end["seconds"]), **where}
        for stage, end in zip(stages, ends, strict=True)
    ]
    told = {"command": command, "seed": run.seed, "stages": reports, "batch_sizes": batch_sizes, "machine": machine()}
    write_json(folder / REPORT, told)


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
