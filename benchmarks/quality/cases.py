"""The cases: which methods are asked what about which images, at which budgets; and what comes of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.objects.held_out import CROWDED, SEED, USUAL, HeldOutSet, unseen_sheets, write_held_out
from mmtok.evaluation import RunResult, RunSettings, compare, run, summarize
from mmtok.evaluation.questions import Question
from mmtok.evaluation.runner import Key, RecordedAnswer
from mmtok.evaluation.selectors import METHODS, PAPER_SETTINGS, Method, ModelPruning
from mmtok.record_store import model_content
from mmtok.tiny.scenes import SceneSettings

from .crops import CLUTTERED, SCALE, train_crops_checkpoint

ROOT = Path(__file__).resolve().parents[2]
POPE = ("random", "popular", "adversarial")
BUDGETS = (64, 32, 16, 8, 4, 2)
FEW = (16, 8, 4, 2)
TILE_BUDGETS = (8, 4, 2, 1)
TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
# Seeds of images: those by which settings were chosen, and those of the answers that are reported.
DEVELOPMENT_SEED, ANSWER_SEED = SEED + 1, SEED + 3
# A word or two and </s>.
ANSWER_TOKENS = 3


def variant(name: str, **options: Any) -> ModelPruning:
    """MMTok with the paper's settings but for `options`."""
    return ModelPruning(name, {**PAPER_SETTINGS, **options})


ALL = tuple(METHODS.values())
SHARED_BUDGET = variant("shared budget", budget_scope="image")
ADAPTIVE = tuple(variant(f"target {target:g}", coverage_target=target) for target in TARGETS)


@dataclass(frozen=True)
class Case:
    """What is run on which images.

    Attributes:
        prepare: writes images and questions into a folder.
        groups: methods with their budgets.
        tasks: of the held-out set.
        small_budgets: over which methods are compared.
        reader: makes the model of the embedded one in a folder; None for the embedded model itself.
    """

    prepare: Callable[[Path], HeldOutSet]
    groups: Sequence[tuple[Sequence[Method], Sequence[int]]]
    tasks: Sequence[str] = (*POPE, "what")
    small_budgets: Sequence[int] = FEW
    reader: Callable[[Path, Path], Path] | None = None


def drawn_set(
    settings: SceneSettings, scenes: int, seed: int = ANSWER_SEED, *, unseen: bool = False, scale: int = 1
) -> Callable[[Path], HeldOutSet]:
    """What writes a held-out set into a folder."""

    def prepare(folder: Path) -> HeldOutSet:
        sheets = unseen_sheets() if unseen else None
        return write_held_out(folder / "set", settings, scenes, seed=seed, sheets=sheets, scale=scale)

    return prepare


_EVERY = [(ALL, BUDGETS)]
CASES = {
    "scenes": Case(drawn_set(USUAL, 150), _EVERY, (*POPE, "what", "count")),
    "crowded": Case(drawn_set(CROWDED, 150), [*_EVERY, (ADAPTIVE, (64,))]),
    "unseen": Case(drawn_set(USUAL, 50, unseen=True), _EVERY, (*POPE, "what", "count")),
    "tiles": Case(
        drawn_set(CLUTTERED, 60, scale=SCALE),
        [((*ALL, SHARED_BUDGET), TILE_BUDGETS)],
        small_budgets=TILE_BUDGETS,
        reader=train_crops_checkpoint,
    ),
}


def measure(name: str, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Runs a case and returns its results as JSON values."""
    case = CASES[name]
    started = time.perf_counter()
    images = case.prepare(folder)
    reader = case.reader(checkpoint, folder.parent / "reader") if case.reader else checkpoint
    questions: list[Question] = []
    answers: dict[Key, RecordedAnswer] = {}
    for methods, budgets in case.groups:
        result = answered(reader, images, case.tasks, methods, budgets, folder / "answers")
        questions = result.questions
        answers.update((given.key, given) for given in result.answers)
    seconds = time.perf_counter() - started
    whole = RunResult(questions, list(answers.values()))
    summary = summarize(whole, resamples=1000)
    compared = [method.name for methods, budgets in case.groups for method in methods if len(budgets) > 1]

    def against(budgets: Sequence[int]) -> Any:
        return compare(whole, compared, budgets, reference="MMTok", resamples=1000)

    return {
        "case": name,
        "checkpoint": model_content(checkpoint),
        "seconds": round(seconds),
        "small_budgets": list(case.small_budgets),
        **summary,
        "full": summary["cells"][0]["metrics"],
        "compared": against(case.small_budgets),
        "compared_at": {budget: against((budget,)) for budget in case.groups[0][1]},
    }


def answered(
    reader: Path,
    images: HeldOutSet,
    tasks: Sequence[str],
    methods: Sequence[Method],
    budgets: Sequence[int],
    output: Path,
) -> RunResult:
    """The answers of a reader to the questions of a held-out set."""
    return run(
        RunSettings(
            model=reader,
            questions=[path for path in images.files if path.stem in tasks],
            images=images.images,
            budgets=budgets,
            output=output,
            methods=methods,
            instruction="",
            batch_size=100,
            max_new_tokens=ANSWER_TOKENS,
        )
    )
