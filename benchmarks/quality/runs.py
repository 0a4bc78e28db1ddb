"""Runs a case: prepares its images and its model, and returns the results as JSON values."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from benchmarks.embedded_model.architecture import CROWDED
from benchmarks.embedded_model.held_out import HELD_OUT
from mmtok.evaluation import RunResult, RunSettings, compare, lead, run, summarize
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.questions import Question
from mmtok.evaluation.recorded_answers import Key, RecordedAnswer
from mmtok.evaluation.selectors import Method, ModelPruning
from mmtok.machine import machine
from mmtok.model_content import model_content
from mmtok.tiny.scenes import Scene, SceneSettings, sample_scene

from .cases import (
    ALL,
    CASES,
    CROPS,
    DEVELOPMENT_SEED,
    EVIDENCE_SEED,
    FEW,
    ONE_CROP,
    PRESET,
    RAW,
    SWEPT,
    TILE_BUDGETS,
)
from .crops_reader import CLUTTERED, make_cluttered_checkpoint, token_labels
from .evidence import kept_evidence
from .place_probe import place_kept
from .scene_sets import SceneSet


def measure_evidence(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """What selections keep of the object asked for."""
    started = time.perf_counter()
    embedded = Checkpoint.load(checkpoint)
    tiles_folder = folder / "tiles"
    # Selections need no language model: the embedded weights in the layout of LLaVA-NeXT are enough.
    make_cluttered_checkpoint(checkpoint, tiles_folder, steps=0)
    methods = (*ALL, *RAW, ONE_CROP)
    found = {
        "scenes": kept_evidence(embedded, _scenes(HELD_OUT, 80, EVIDENCE_SEED), methods, (32, *FEW)),
        "crowded": kept_evidence(embedded, _scenes(CROWDED, 30, EVIDENCE_SEED), methods, (32, *FEW)),
        "development": kept_evidence(embedded, _scenes(CROWDED, 20, DEVELOPMENT_SEED), (*SWEPT, *ALL[:3], *RAW), FEW),
        "tiles": kept_evidence(
            Checkpoint.load(tiles_folder),
            _scenes(CLUTTERED, 10, EVIDENCE_SEED),
            (*ALL, CROPS),
            TILE_BUDGETS,
            labels=token_labels,
            batch_size=25,
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


def _scenes(settings: SceneSettings, count: int, seed: int) -> list[Scene]:
    return [sample_scene(settings, np.random.default_rng([seed, number])) for number in range(count)]


def measure(name: str, checkpoint: Path, folder: Path, batch_size: int) -> dict[str, Any]:
    """Runs a case and returns its results."""
    case = CASES[name]
    state = PartialState(cpu=not torch.cuda.is_available())
    with state.main_process_first():
        rendered = case.prepare(folder)
        reader, taught = taught_reader(checkpoint, folder, case.teach) if case.teach else (checkpoint, {})
    started = time.perf_counter()

    def answer(tasks: Sequence[str], methods: Sequence[Method], budgets: Sequence[int], place: str) -> RunResult:
        return answered(reader, rendered, tasks, methods, budgets, folder / place, batch_size)

    questions: list[Question] = []
    answers: dict[Key, RecordedAnswer] = {}
    for methods, budgets in case.groups:
        result = answer(case.tasks, methods, budgets, "answers")
        questions = result.questions
        answers.update((given.key, given) for given in result.answers)
    aside = summarize(answer(case.aside, (), (), "aside"), resamples=1)["cells"][0]["metrics"] if case.aside else {}
    seconds = time.perf_counter() - started
    stages = {"before": checkpoint, "after": reader} if case.place else {}
    place = {stage: place_kept(path, seed=EVIDENCE_SEED) for stage, path in stages.items()}
    whole = RunResult(questions, list(answers.values()))
    compared = [method.name for methods, budgets in case.groups for method in methods if len(budgets) > 1]
    return {
        "case": name,
        "machine": machine("mmtok", "transformers"),
        "checkpoint": model_content(checkpoint),
        **taught,
        "seconds": round(seconds),
        "small_budgets": list(case.small_budgets),
        "options": {
            method.name: dict(method.options)
            for m, _ in case.groups
            for method in m
            if isinstance(method, ModelPruning)
        },
        **summarize(whole, resamples=1000),
        "aside": aside,
        "place": place,
        "compared": compare(whole, compared, case.small_budgets, reference="MMTok", resamples=1000),
    }


def answered(
    reader: Path,
    rendered: SceneSet,
    tasks: Sequence[str],
    methods: Sequence[Method],
    budgets: Sequence[int],
    output: Path,
    batch_size: int,
) -> RunResult:
    """The answers of a reader to the questions of a scene set."""
    return run(
        RunSettings(
            model=reader,
            questions=[path for path in rendered.files if path.stem in tasks],
            images=rendered.images,
            budgets=budgets,
            output=output,
            methods=methods,
            instruction="",  # the embedded model answers in one word without being asked to
            batch_size=batch_size,
            max_new_tokens=1,  # every answer is one word, and every word one token
        )
    )


def measure_preset(checkpoint: Path, folder: Path, tiles: Path, batch_size: int) -> dict[str, Any]:
    """The lead of LLaVA-1.5's recommended settings over the paper's at every budget, and what they would do in five
    crops, for which they are not recommended; `tiles` is the folder of that case."""
    state = PartialState(cpu=not torch.cuda.is_available())
    with state.main_process_first():
        rendered = {name: fresh.prepare(folder / name) for name, fresh in PRESET.items()}
        taught, _ = taught_reader(checkpoint, tiles, make_cluttered_checkpoint)
    started = time.perf_counter()
    runs: dict[str, tuple[RunResult, Sequence[int]]] = {}
    for name, fresh in PRESET.items():
        reader = taught if fresh.teach else checkpoint
        [(methods, budgets)] = fresh.groups
        place = folder / name / "answers"
        runs[name] = answered(reader, rendered[name], fresh.tasks, methods, budgets, place, batch_size), budgets
    sets: dict[str, Any] = {}
    for name, (result, budgets) in runs.items():
        parts = {str(budget): [(result, [budget])] for budget in budgets} | {"mean": [(result, budgets)]}
        sets[name] = {
            **summarize(result, resamples=1000),
            "lead": {at: lead(part, "recommended", "MMTok", resamples=1000) for at, part in parts.items()},
        }
    return {
        "case": "preset",
        "machine": machine("mmtok", "transformers"),
        "checkpoint": model_content(checkpoint),
        "seconds": round(time.perf_counter() - started),
        "options": dict(ONE_CROP.options),
        "sets": sets,
        # In five crops these are not the recommended settings.
        "lead": lead([runs["scenes"], runs["crowded"]], "recommended", "MMTok", resamples=1000),
    }


def taught_reader(
    checkpoint: Path, folder: Path, teach: Callable[[Path, Path], dict[str, float]]
) -> tuple[Path, dict[str, Any]]:
    """The embedded model after teaching, from an earlier run if it learned from the same weights."""
    reader, record = folder / "reader", folder / "reader.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    if known.get("from") != model_content(checkpoint):
        started = time.perf_counter()
        found = teach(checkpoint, reader)
        known = {"from": model_content(checkpoint), "seconds": round(time.perf_counter() - started), **found}
        record.write_text(json.dumps(known), encoding="utf-8")
    return reader, {"taught": known}
