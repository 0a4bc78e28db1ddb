"""Runs a case: prepares its images and its model, and returns the results as JSON values."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from benchmarks.objects.held_out import (
    CROWDED,
    USUAL,
    HeldOutScene,
    HeldOutSet,
    held_out_scene,
    training_sheets,
    unseen_sheets,
)
from mmtok.evaluation import RunResult, RunSettings, compare, run, summarize
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.questions import Question
from mmtok.evaluation.runner import Key, RecordedAnswer
from mmtok.evaluation.selectors import Method, ModelPruning
from mmtok.measuring import machine
from mmtok.record_store import model_content
from mmtok.tiny.scenes import SceneSettings

from .cases import (
    ALL,
    CASES,
    DEVELOPMENT_SEED,
    EVIDENCE_SEED,
    FEW,
    TILE_BUDGETS,
)
from .crops import CLUTTERED, SCALE, make_crops_checkpoint
from .evidence import kept_evidence
from .raw_cosine import RAW

# A word or two and </s>.
ANSWER_TOKENS = 3


def measure_evidence(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """What selections keep of the object asked for."""
    started = time.perf_counter()
    embedded = Checkpoint.load(checkpoint)
    tiles = Checkpoint.load(make_crops_checkpoint(checkpoint, folder / "tiles"))
    methods, budgets = (*ALL, *RAW), (32, *FEW)
    found = {
        "scenes": kept_evidence(embedded, drawn(USUAL, 40, EVIDENCE_SEED), methods, budgets),
        "crowded": kept_evidence(embedded, drawn(CROWDED, 15, EVIDENCE_SEED), methods, budgets),
        "unseen": kept_evidence(embedded, drawn(USUAL, 40, EVIDENCE_SEED, unseen=True), methods, budgets),
        "development": kept_evidence(embedded, drawn(CROWDED, 10, DEVELOPMENT_SEED), (*ALL[:3], *RAW), FEW),
        "tiles": kept_evidence(
            tiles, drawn(CLUTTERED, 5, EVIDENCE_SEED, scale=SCALE), ALL, TILE_BUDGETS, batch_size=25
        ),
    }
    sets = {
        name: {
            "scenes": len(set(evidence.scenes)),
            "questions": len(evidence.scenes),
            "cells": evidence.cells(),
            "compared": evidence.compared(TILE_BUDGETS if name == "tiles" else FEW),
        }
        for name, evidence in found.items()
    }
    return {
        "case": "evidence",
        "machine": machine("mmtok", "transformers"),
        "checkpoint": model_content(checkpoint),
        "seconds": round(time.perf_counter() - started),
        "sets": sets,
    }


def drawn(
    settings: SceneSettings, count: int, seed: int, *, unseen: bool = False, scale: int = 1
) -> list[HeldOutScene]:
    """Scenes of a set that is not written."""
    sheets = unseen_sheets() if unseen else training_sheets()
    return [held_out_scene(settings, number, seed=seed, sheets=sheets, scale=scale) for number in range(count)]


def measure(name: str, checkpoint: Path, folder: Path, batch_size: int) -> dict[str, Any]:
    """Runs a case and returns its results."""
    case = CASES[name]
    state = PartialState(cpu=not torch.cuda.is_available())
    started = time.perf_counter()
    with state.main_process_first():
        images = case.prepare(folder)
        reader = case.reader(checkpoint, folder.parent / "reader") if case.reader else checkpoint
    questions: list[Question] = []
    answers: dict[Key, RecordedAnswer] = {}
    for methods, budgets in case.groups:
        result = answered(
            reader, images, case.tasks, methods, budgets, folder / "answers", batch_size, case.instruction
        )
        questions = result.questions
        answers.update((given.key, given) for given in result.answers)
    seconds = time.perf_counter() - started
    whole = RunResult(questions, list(answers.values()))
    full = summarize(whole, resamples=1)["cells"][0]["metrics"]
    compared = [method.name for methods, budgets in case.groups for method in methods if len(budgets) > 1]
    return {
        "case": name,
        "machine": machine("mmtok", "transformers"),
        "checkpoint": model_content(checkpoint),
        "seconds": round(seconds),
        "small_budgets": list(case.small_budgets),
        "options": {
            method.name: dict(method.options)
            for m, _ in case.groups
            for method in m
            if isinstance(method, ModelPruning)
        },
        **summarize(whole, resamples=1000),
        "full": full,
        "compared": compare(whole, compared, case.small_budgets, reference="MMTok", resamples=1000),
        "compared_at": {
            budget: compare(whole, compared, (budget,), reference="MMTok", resamples=1000)
            for budget in (case.groups[0][1] if len(compared) > 1 else ())
        },
    }


def answered(
    reader: Path,
    images: HeldOutSet,
    tasks: Sequence[str],
    methods: Sequence[Method],
    budgets: Sequence[int],
    output: Path,
    batch_size: int,
    instruction: str = "",
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
            instruction=instruction,
            batch_size=batch_size,
            max_new_tokens=ANSWER_TOKENS,
        )
    )
