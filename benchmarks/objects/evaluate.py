"""Measure the embedded model on held-out scenes: `python -m benchmarks.objects.evaluate FOLDER --output FILE`.

    usual      2 to 5 objects in the styles of training
    crowded    8 to 11 smaller ones
    unseen     2 to 5 objects in a style that training did not draw

All stand on backgrounds that training did not draw. Answers come from `mmtok.evaluation`, as of any LLaVA.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from mmtok.evaluation import FULL, INSTRUCTION, RunSettings, run
from mmtok.evaluation.metrics import outcomes, score
from mmtok.evaluation.selectors import METHODS, Method
from mmtok.machine import machine

from .held_out import CROWDED, SEED, USUAL, YES_NO, HeldOutScene, write_held_out
from .picks import share_of_picks
from .scenes import SceneSettings
from .sprites import SpriteSheet, load_sheets
from .train import MORE_DRAWINGS, UNSEEN_STYLE, training_sheets

# A word or two and </s>.
ANSWER_TOKENS = 3
SETS: dict[str, SceneSettings] = {"usual": USUAL, "crowded": CROWDED, "unseen": USUAL}


def sheets_of(name: str) -> dict[str, SpriteSheet]:
    """The styles that a set of scenes is drawn in."""
    return {UNSEEN_STYLE: load_sheets(MORE_DRAWINGS)[UNSEEN_STYLE]} if name == "unseen" else training_sheets()


def accuracies(
    model: Path,
    images: Path,
    answers: Path,
    tasks: Sequence[str],
    methods: Sequence[Method],
    budgets: Sequence[int],
    instruction: str = "",
) -> list[dict[str, Any]]:
    """Answer the questions of some tasks and score them.

    Returns:
        A cell for all tokens and for each method and budget: `method`, `budget`, the accuracy of each task, and the
        mean of POPE's three tasks as `yes/no`.
    """
    settings = RunSettings(
        model=model,
        questions=[images / f"{task}.json" for task in tasks],
        images=images,
        budgets=budgets,
        output=answers,
        methods=methods,
        instruction=instruction,
        batch_size=50,
        max_new_tokens=ANSWER_TOKENS,
    )
    result = run(settings)
    labels = {(question.task, question.question_id): question.label for question in result.questions}
    cells = []
    for method, budget in dict.fromkeys((answer.method, answer.budget) for answer in result.answers):
        cell: dict[str, Any] = {"method": method, "budget": budget}
        for task in tasks:
            given = [a for a in result.answers if (a.method, a.budget, a.task) == (method, budget, task)]
            table = outcomes([a.text for a in given], [labels[task, a.question_id] for a in given])
            cell[task] = round(float(score(table.sum(0), "accuracy")), 4)
        if set(YES_NO) <= set(tasks):
            cell["yes/no"] = round(float(np.mean([cell[task] for task in YES_NO])), 4)
        cells.append(cell)
    return cells


def measure(
    name: str, model: Path, scenes: int, methods: Sequence[Method], budgets: Sequence[int], runs: Path
) -> dict[str, Any]:
    """Measure a set of scenes: the tasks' sizes, accuracies without and with the instruction, and picks."""
    with TemporaryDirectory(prefix="objects-") as place:
        held_out = write_held_out(Path(place), SETS[name], sheets_of(name), scenes)
        tasks = list(dict.fromkeys(task for item in held_out for task in item.questions))
        plain = accuracies(model, Path(place), runs / name, tasks, methods, budgets)
        instructed = accuracies(
            model, Path(place), runs / f"{name}-instructed", tasks, [METHODS["MMTok"]], budgets, INSTRUCTION
        )
        picks = share_of_picks(model, Path(place), held_out, methods, budgets)
    return {
        "scenes": scenes,
        "questions": {task: _count(held_out, task) for task in tasks},
        "cells": plain,
        "with_instruction": instructed,
        "picks_on_asked_object": picks,
    }


def _count(scenes: Sequence[HeldOutScene], task: str) -> int:
    return sum(len(item.questions.get(task, [])) for item in scenes)


def shown(cells: Sequence[dict[str, Any]]) -> str:
    """The cells as lines of text, in percent."""
    lines = []
    for cell in cells:
        budget = FULL if cell["budget"] is None else cell["budget"]
        scores = (f"{name} {100 * value:.1f}" for name, value in cell.items() if name not in ("method", "budget"))
        lines.append(f"{cell['method']:>12} {budget:>4}  " + "  ".join(scores))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the checkpoint's folder")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file with the results")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--scenes", type=int, default=200, help="in each set")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=int, default=[64, 32, 16, 8, 4, 2])
    parser.add_argument("--run-folder", type=Path, default=Path("runs/objects/answers"), help="where answers are kept")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    methods = [METHODS[name] for name in options.methods]
    results: dict[str, Any] = {"command": "python -m benchmarks.objects.evaluate", "seed": SEED, "machine": machine()}
    for name in options.sets:
        results[name] = measure(name, options.model, options.scenes, methods, options.budgets, options.run_folder)
        print(f"{name}\n{shown(results[name]['cells'])}\nwith the instruction")
        print(f"{shown(results[name]['with_instruction'])}\npicks on the object asked for")
        print(shown(results[name]["picks_on_asked_object"]), flush=True)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
