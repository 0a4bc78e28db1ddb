"""The cases: which methods are asked what about which images, at which budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.objects.held_out import CROWDED, SEED, USUAL, HeldOutSet, unseen_sheets, write_held_out
from mmtok.evaluation import INSTRUCTION
from mmtok.evaluation.selectors import METHODS, PAPER_SETTINGS, Method, ModelPruning
from mmtok.tiny.scenes import HELD_OUT_BACKGROUNDS, SIDE, SceneSettings
from mmtok.tiny.sprites import SpriteSheet

from .crops import CLUTTERED, SCALE, train_crops_checkpoint

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# On a canvas that is half as large again, objects are as large as usual.
PADDED = SceneSettings(2, 3, 50.0, 80.0, backgrounds=HELD_OUT_BACKGROUNDS)
CANVAS = SIDE * 3 // 2
# Images of 288 x 216, whose tiles are padded above and below.
WIDE, CUT = SceneSettings(4, 6, 26.0, 36.0, backgrounds=HELD_OUT_BACKGROUNDS), 36
POPE = ("random", "popular", "adversarial")
BUDGETS = (64, 32, 16, 8, 4, 2)
FEW = (16, 8, 4, 2)
TILE_BUDGETS = (8, 4, 2, 1)
INSTRUCTED_BUDGETS = (16, 4)
TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
# Seeds of images: those of the ablation, of the evidence and of the answers.
DEVELOPMENT_SEED, EVIDENCE_SEED, ANSWER_SEED = SEED + 1, SEED + 2, SEED + 3


def variant(name: str, **options: Any) -> ModelPruning:
    """MMTok with the paper's settings but for `options`."""
    return ModelPruning(name, {**PAPER_SETTINGS, **options})


ALL = tuple(METHODS.values())
EXCLUDE_PADDING = variant("exclude padding", exclude_padding=True)
SHARED_BUDGET = variant("shared budget", budget_scope="image")
BEFORE_UNPADDING = variant("paper", select_before_unpadding=True)
# What is kept without reading the question, so that all questions about an image share it.
SHARED_TEXT = variant("one shared text", covered_text="What objects are in the image?")
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
        instruction: stands behind every question.
    """

    prepare: Callable[[Path], HeldOutSet]
    groups: Sequence[tuple[Sequence[Method], Sequence[int]]]
    tasks: Sequence[str] = (*POPE, "what")
    small_budgets: Sequence[int] = FEW
    reader: Callable[[Path, Path], Path] | None = None
    instruction: str = ""


def drawn_set(
    settings: SceneSettings, scenes: int, seed: int = ANSWER_SEED, *, unseen: bool = False, **extra: Any
) -> Callable[[Path], HeldOutSet]:
    """What writes a held-out set into a folder."""

    def prepare(folder: Path) -> HeldOutSet:
        sheets: dict[str, SpriteSheet] | None = unseen_sheets() if unseen else None
        return write_held_out(folder / "set", settings, scenes, seed=seed, sheets=sheets, **extra)

    return prepare


_MMTOK = (METHODS["MMTok"],)
_EVERY = [(ALL, BUDGETS)]
_COVERED = [((*_MMTOK, METHODS["vision rows"], SHARED_TEXT), FEW)]
CASES = {
    "scenes": Case(drawn_set(USUAL, 150), _EVERY, (*POPE, "what", "count")),
    "crowded": Case(drawn_set(CROWDED, 150), [*_EVERY, (ADAPTIVE, (64,))]),
    "unseen": Case(drawn_set(USUAL, 50, unseen=True), _EVERY, (*POPE, "what", "count")),
    "instructed-scenes": Case(
        drawn_set(USUAL, 150), [(_MMTOK, INSTRUCTED_BUDGETS)], (*POPE, "what", "count"), (4,), instruction=INSTRUCTION
    ),
    "instructed-crowded": Case(
        drawn_set(CROWDED, 150), [(_MMTOK, INSTRUCTED_BUDGETS)], small_budgets=(4,), instruction=INSTRUCTION
    ),
    "covered-scenes": Case(drawn_set(USUAL, 150), _COVERED, (*POPE, "what", "count")),
    "covered-crowded": Case(drawn_set(CROWDED, 150), _COVERED),
    "padded": Case(drawn_set(PADDED, 50, canvas=CANVAS), [((*_MMTOK, EXCLUDE_PADDING), FEW)]),
    "tiles": Case(
        drawn_set(CLUTTERED, 60, scale=SCALE),
        [((*ALL, SHARED_BUDGET), TILE_BUDGETS)],
        small_budgets=TILE_BUDGETS,
        reader=train_crops_checkpoint,
    ),
    "padded-tiles": Case(
        drawn_set(WIDE, 100, scale=SCALE, cut=CUT),
        [((*_MMTOK, BEFORE_UNPADDING, SHARED_BUDGET), TILE_BUDGETS)],
        small_budgets=TILE_BUDGETS,
        reader=train_crops_checkpoint,
    ),
}
