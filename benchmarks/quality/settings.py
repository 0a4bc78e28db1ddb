"""Whether other temperatures and weights than the paper's keep more.

Every combination answers the questions about images that no other table shows, and its lead over the paper's settings
is a mean over all sets, tasks and budgets.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.objects.held_out import CROWDED, USUAL
from mmtok.evaluation import RunResult, lead, summarize
from mmtok.evaluation.selectors import MMTOK, ModelPruning
from mmtok.machine import machine
from mmtok.model_content import model_content

from .cases import BUDGETS, POPE, SETTINGS_SEED, Case, drawn_set, variant
from .runs import answered

TEXT_SETTINGS: tuple[dict[str, Any], ...] = (
    {"text_temperature": 0.02},
    {"text_temperature": 0.05},
    {"text_temperature": 0.5, "text_temperature_unit": "spread"},
    {"text_temperature": 1.0, "text_temperature_unit": "spread"},
)
VISION_TEMPERATURES = (0.2, 0.4, 1.6)
WEIGHTS = (0.5, 1.0, 2.0, 4.0)


def combinations() -> list[ModelPruning]:
    """Every combination of text temperature, vision temperature and weight of the vision rows but the paper's."""
    made = []
    for text, temperature, weight in itertools.product(TEXT_SETTINGS, VISION_TEMPERATURES, WEIGHTS):
        options = {**text, "vision_temperature": temperature, "vision_coverage_weight": weight}
        unit = " spread" if "text_temperature_unit" in text else ""
        made.append(variant(f"{text['text_temperature']:g}{unit}, {temperature:g}, {weight:g}", **options))
    return [method for method in made if method.options != MMTOK.options]


def sets() -> dict[str, Case]:
    """The images, with the methods to try."""
    groups = [((MMTOK, *combinations()), BUDGETS)]
    return {
        "scenes": Case(drawn_set(USUAL, 40, SETTINGS_SEED), groups, (*POPE, "what", "count")),
        "crowded": Case(drawn_set(CROWDED, 20, SETTINGS_SEED + 1), groups),
        "unseen": Case(drawn_set(USUAL, 20, SETTINGS_SEED + 2, unseen=True), groups, (*POPE, "what", "count")),
    }


def measure_settings(checkpoint: Path, folder: Path, batch_size: int) -> dict[str, Any]:
    """What each combination keeps, and its lead over the paper's settings, the best first."""
    started = time.perf_counter()
    runs: list[tuple[RunResult, Sequence[int]]] = []
    kept: dict[str, dict[str, dict[str, float]]] = {}
    for name, case in sets().items():
        images = case.prepare(folder / name)
        [(methods, budgets)] = case.groups
        result = answered(checkpoint, images, case.tasks, methods, budgets, folder / name / "answers", batch_size)
        runs.append((result, budgets))
        for cell in summarize(result, resamples=1)["cells"]:
            if cell["budget"] is not None:
                share = cell["retention"]["mean"]["estimate"]
                kept.setdefault(cell["method"], {}).setdefault(name, {})[str(cell["budget"])] = share
    leads = {method.name: lead(runs, method.name, "MMTok", resamples=500) for method in combinations()}
    ranked = sorted(leads, key=lambda name: -leads[name]["estimate"])
    return {
        "case": "settings",
        "machine": machine("mmtok", "transformers"),
        "checkpoint": model_content(checkpoint),
        "seconds": round(time.perf_counter() - started),
        "lead": {name: leads[name] for name in ranked},
        "kept": kept,
    }
