"""Compares a newly trained model with the embedded one: `python -m benchmarks.quality.trained CHECKPOINT`.

`make tiny` puts the new one into the package; `python -m benchmarks.objects.train --output CHECKPOINT` trains the same
beside it. Both answer questions about the same images, which no other table shows. Writes
benchmarks/results/training.json with the training's own report.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.objects.held_out import CROWDED, SEED, USUAL, unseen_sheets, write_held_out
from mmtok.evaluation import FULL, summarize
from mmtok.evaluation.selectors import MMTOK
from mmtok.machine import machine
from mmtok.model_content import model_content
from mmtok.tiny import checkpoint_path

from .cases import POPE, RESULTS, ROOT
from .runs import answered

BUDGETS = (16, 4)
_SEED = SEED + 71
_QUESTIONS = (*POPE, "what", "count")
SETS = {
    "scenes": (USUAL, 200, _QUESTIONS, False),
    "crowded": (CROWDED, 60, _QUESTIONS[:-1], False),
    "unseen": (USUAL, 60, _QUESTIONS, True),
}


def right_answers(checkpoint: Path, folder: Path, batch_size: int = 100) -> dict[str, Any]:
    """Accuracy on every set: by budget, of all questions of POPE's form together and of the other tasks."""
    found: dict[str, Any] = {}
    for name, (settings, count, tasks, unseen) in SETS.items():
        images = write_held_out(
            folder / name / "set", settings, count, seed=_SEED, sheets=unseen_sheets() if unseen else None
        )
        answers = folder / name / model_content(checkpoint)[-8:]
        result = answered(checkpoint, images, tasks, [MMTOK], BUDGETS, answers, batch_size)
        cells = summarize(result, resamples=1)["cells"]
        found[name] = {
            str(cell["budget"] or FULL): {
                "yes/no": sum(cell["metrics"][task]["accuracy"] for task in POPE) / len(POPE),
                **{task: values["accuracy"] for task, values in cell["metrics"].items() if task not in POPE},
            }
            for cell in cells
        }
    return found


def wall_seconds(report: Mapping[str, Any]) -> int:
    """How long all stages take with two cores: the first two parts run side by side."""
    seconds = {stage["name"]: int(stage["seconds"]) for stage in report["stages"]}
    return max(seconds["sight"], seconds["words"] + seconds["language"]) + seconds["tuning"]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the newly trained one")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "trained", help="images and answers")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    report = json.loads((options.checkpoint / "training_report.json").read_text(encoding="utf-8"))
    results = {
        "machine": machine("mmtok", "transformers"),
        "training": {**report, "wall_seconds": wall_seconds(report)},
        "trained": right_answers(options.checkpoint, options.runs),
        "embedded": right_answers(checkpoint_path(), options.runs),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "training.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
