"""Held-out accuracy of a checkpoint in POPE's form, per method and budget.

    python -m benchmarks.embedded_model.held_out FOLDER

The checkpoint answers through `mmtok.evaluation`, as any LLaVA does: with its own processor and chat template, and in
its own words.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmtok.evaluation import FULL, RunSettings, run
from mmtok.evaluation.metrics import Counts
from mmtok.evaluation.questions import Question, write_questions
from mmtok.evaluation.selectors import METHODS
from mmtok.tiny.questions import existence_question
from mmtok.tiny.scenes import SceneSettings, sample_scene

HELD_OUT_SEED = 20_261_121
HELD_OUT = SceneSettings(min_objects=2)
BUDGETS = (64, 32, 16, 8, 4)
QUESTIONS = 2000
COMPARED = ("MMTok", "text rows", "vision rows", "uniform", "random")


@dataclass(frozen=True)
class Score:
    """Shares from 0 to 1; "yes" is the positive class."""

    accuracy: float
    f1: float
    yes_ratio: float


def write_held_out(folder: Path, count: int, seed: int = HELD_OUT_SEED) -> Path:
    """Writes `count` scenes as PNG and a file with one question each: in turn one that is true and a hard negative."""
    questions = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        scene = sample_scene(HELD_OUT, rng)
        asked = existence_question(scene, rng, present=number % 2 == 0)
        image = f"scene-{number:04}.png"
        scene.image().save(folder / image)
        questions.append(Question("held_out", number, image, asked.text, asked.answer))
    path = folder / "held_out.json"
    write_questions(path, questions)
    return path


def evaluate(folder: Path, questions: int = QUESTIONS, budgets: Sequence[int] = BUDGETS) -> dict[str, dict[str, Score]]:
    """Scores a checkpoint: {"all tokens": {"all": score}, method: {budget: score}}, methods as in `COMPARED`."""
    with TemporaryDirectory(prefix="held-out-") as place:
        path = write_held_out(Path(place), questions)
        result = run(
            RunSettings(
                model=folder,
                questions=[path],
                images=place,
                budgets=budgets,
                output=Path(place) / "answers",
                methods=[METHODS[name] for name in COMPARED],
                instruction="",  # the model answers in one word without being asked to
                batch_size=50,
                max_new_tokens=1,
            )
        )
    labels = [question.label for question in result.questions]
    texts: dict[tuple[str, str], list[str]] = {}
    for answer in result.answers:
        name = "all tokens" if answer.method == FULL else answer.method
        texts.setdefault((name, "all" if answer.budget is None else str(answer.budget)), []).append(answer.text)
    scores: dict[str, dict[str, Score]] = {}
    for (name, budget), given in texts.items():
        counts = Counts.of(given, labels)
        scores.setdefault(name, {})[budget] = Score(counts.accuracy, counts.f1, counts.yes_ratio)
    return scores


def as_json(scores: dict[str, dict[str, Score]]) -> dict[str, dict[str, dict[str, float]]]:
    """Rounds the scores to four digits."""
    return {
        name: {budget: {key: round(value, 4) for key, value in asdict(score).items()} for budget, score in row.items()}
        for name, row in scores.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the scores of a checkpoint as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the checkpoint's folder")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--update-report", action="store_true", help="write the scores into training_report.json too")
    options = parser.parse_args(arguments)
    scores = as_json(evaluate(options.folder, options.questions))
    print(json.dumps(scores, indent=2))
    if options.update_report:
        path = options.folder / "training_report.json"
        report = json.loads(path.read_text(encoding="utf-8"))
        report["held_out"] = {"seed": HELD_OUT_SEED, "questions": options.questions, "scores": scores}
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
