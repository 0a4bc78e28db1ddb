"""Measures how much of the answers survives pruning: `python benchmarks/quality.py`, or with names of cases.

    evidence     whether a token of the object that is asked for is kept, on all kinds of pictures, and settings swept
    scenes       answers of the embedded model on pictures like those it learned from, other ones
    crowded      its answers on pictures with 8 to 12 smaller objects
    padded       its answers on small pictures on a grey canvas, for the exclusion of padding
    preset       the settings recommended for one crop against the paper's, on more pictures of three kinds that none
                 of the other cases shows
    tiles        answers in the layout of LLaVA-NeXT, five crops of cluttered pictures, with relations between objects,
                 after teaching the embedded model to read them (a quarter of an hour; kept in runs/quality)
    relations    questions about where two objects stand to each other, after teaching the embedded model to keep a
                 token's place and to compare (ten minutes; kept in runs/quality)

Each case writes benchmarks/results/quality-CASE.json; answers are kept in runs/quality, so that an interrupted run goes
on. `python benchmarks/quality_report.py` makes docs/quality.md and its figures of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from mmtok.evaluation import RunResult, RunSettings, compare, lead, machine, run, summarize
from mmtok.evaluation.answers import Answer, Key
from mmtok.evaluation.checkpoint import Checkpoint, fingerprint
from mmtok.evaluation.cluttered import CLUTTERED, make_cluttered_checkpoint, token_labels
from mmtok.evaluation.evidence import kept_evidence
from mmtok.evaluation.place import place_kept
from mmtok.evaluation.questions import Question
from mmtok.evaluation.related import make_related_checkpoint
from mmtok.evaluation.scene_sets import SCENES, SceneSet, write_scene_set
from mmtok.evaluation.selectors import (
    METHODS,
    PAPER_KNOBS,
    RECOMMENDED,
    Method,
    ModelPruning,
    RawCoverage,
    RawTextCoverage,
    RawVisionCoverage,
    SharedCoverage,
)
from mmtok.tiny import checkpoint_path
from mmtok.tiny.architecture import CROWDED
from mmtok.tiny.evaluation import HELD_OUT, HELD_OUT_SEED
from mmtok.tiny.scenes import Scene, SceneSettings, sample_scene

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SMALL = SceneSettings(size=64, min_objects=2, max_objects=3, min_radius=7.0, max_radius=10.0)
POPE = ("random", "popular", "adversarial")
BUDGETS = (64, 32, 16, 8, 4, 2)
FEW = (16, 8, 4, 2)
TILE_BUDGETS = (8, 4, 2, 1)
TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
ALPHAS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
TEXT_TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
VISION_TEMPERATURES = (0.05, 0.1, 0.2, 0.4, 0.8)
SPREADS = (0.25, 0.5, 1.0, 1.5, 2.0)
# Seeds of pictures on which settings are tried, and of those on which the chosen ones are shown.
DEVELOPMENT_SEED, EVIDENCE_SEED = HELD_OUT_SEED + 1, HELD_OUT_SEED + 2
# The preset was chosen on pictures of HELD_OUT_SEED + 11 to 13 and is compared on these.
PRESET_SEED = HELD_OUT_SEED + 21


def variant(name: str, **knobs: Any) -> ModelPruning:
    """MMTok with the paper's settings but for `knobs`."""
    return ModelPruning(name, {**PAPER_KNOBS, **knobs})


ALL = tuple(METHODS.values())
# The recommended settings for LLaVA-1.5 and for LLaVA-NeXT.
ONE_CROP, CROPS = RECOMMENDED["mmtok_llava"], RECOMMENDED["mmtok_llava_next"]
RAW: tuple[Method, ...] = (RawTextCoverage(), RawVisionCoverage(), RawCoverage())
CENTRED = variant("centred", center_features=True)
IMAGE_SCOPE = variant("image scope", budget_scope="image")
FLOORS = (SharedCoverage(0.5), SharedCoverage(1.0))
EXCLUDE_PADDING = variant("exclude padding", exclude_padding=True)
ADAPTIVE = tuple(variant(f"target {target:g}", coverage_target=target) for target in TARGETS)
SWEPT = (
    *(variant(f"alpha {alpha:g}", vision_coverage_weight=alpha) for alpha in ALPHAS),
    *(
        variant(f"tau_t {text:g} tau_v {vision:g}", text_temperature=text, vision_temperature=vision)
        for text in TEXT_TEMPERATURES
        for vision in VISION_TEMPERATURES
    ),
    *(variant(f"spread {spread:g}", text_temperature=spread, text_temperature_unit="spread") for spread in SPREADS),
)


@dataclass(frozen=True)
class Case:
    """What is run on which pictures.

    Attributes:
        prepare: writes pictures and questions into a folder.
        groups: methods with their budgets.
        tasks: of the scene set.
        small_budgets: over which methods are compared.
        teach: what makes the reader of the embedded model; None for the embedded model itself.
        place: whether to measure if tokens say where in the picture they were, before and after teaching.
        aside: tasks that are answered with all tokens only, to say how far the reader has learned them.
    """

    prepare: Callable[[Path], SceneSet]
    groups: Sequence[tuple[Sequence[Method], Sequence[int]]]
    tasks: Sequence[str] = (*POPE, "color", "shape")
    small_budgets: Sequence[int] = FEW
    teach: Callable[[Path, Path], dict[str, float]] | None = None
    place: bool = False
    aside: Sequence[str] = ()


def _rendered(settings: SceneSettings, scenes: int = SCENES, **extra: Any) -> Callable[[Path], SceneSet]:
    return lambda folder: write_scene_set(folder / "set", settings, scenes=scenes, **extra)


CASES = {
    "scenes": Case(_rendered(HELD_OUT), [((*ALL, ONE_CROP), BUDGETS)], (*POPE, "color", "shape", "count")),
    "crowded": Case(_rendered(CROWDED), [((*ALL, ONE_CROP), BUDGETS), (ADAPTIVE, (64,))]),
    "padded": Case(_rendered(SMALL, canvas=HELD_OUT.size), [((METHODS["MMTok"], EXCLUDE_PADDING, ONE_CROP), FEW)]),
    "tiles": Case(
        _rendered(CLUTTERED, scenes=100, relations=True),
        [((*ALL, IMAGE_SCOPE, *FLOORS, CROPS), (16, *TILE_BUDGETS))],
        small_budgets=TILE_BUDGETS,
        teach=make_cluttered_checkpoint,
        aside=("relation",),
    ),
    "relations": Case(
        _rendered(HELD_OUT, scenes=150, relations=True),
        [((*ALL, ONE_CROP), BUDGETS)],
        ("relation", *POPE, "color", "shape"),
        teach=make_related_checkpoint,
        place=True,
    ),
}

_PAIR = (METHODS["MMTok"], ONE_CROP)
PRESET = {
    "scenes": Case(
        _rendered(HELD_OUT, scenes=400, seed=PRESET_SEED), [(_PAIR, BUDGETS)], (*POPE, "color", "shape", "count")
    ),
    "crowded": Case(_rendered(CROWDED, scenes=400, seed=PRESET_SEED + 1), [(_PAIR, BUDGETS)]),
    "tiles": Case(
        _rendered(CLUTTERED, scenes=150, seed=PRESET_SEED + 2, relations=True),
        [(_PAIR, (16, *TILE_BUDGETS))],
        teach=make_cluttered_checkpoint,
    ),
}


def measure_evidence(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """What selections keep of the object asked for."""
    started = time.perf_counter()
    embedded = Checkpoint.load(checkpoint)
    tiles_folder = folder / "tiles"
    # Selections need no language model: the embedded weights in the layout of LLaVA-NeXT are enough.
    make_cluttered_checkpoint(checkpoint, tiles_folder, steps=0)
    methods = (*ALL, *RAW, CENTRED, ONE_CROP)
    found = {
        "scenes": kept_evidence(embedded, _scenes(HELD_OUT, 80, EVIDENCE_SEED), methods, (32, *FEW)),
        "crowded": kept_evidence(embedded, _scenes(CROWDED, 30, EVIDENCE_SEED), methods, (32, *FEW)),
        "development": kept_evidence(
            embedded, _scenes(CROWDED, 20, DEVELOPMENT_SEED), (*SWEPT, *ALL[:3], *RAW, CENTRED), FEW
        ),
        "tiles": kept_evidence(
            Checkpoint.load(tiles_folder),
            _scenes(CLUTTERED, 10, EVIDENCE_SEED),
            (*ALL, IMAGE_SCOPE, *FLOORS, CROPS),
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
        "machine": machine(),
        "checkpoint": fingerprint(checkpoint),
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
    answers: dict[Key, Answer] = {}
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
        "machine": machine(),
        "checkpoint": fingerprint(checkpoint),
        **taught,
        "seconds": round(seconds),
        "small_budgets": list(case.small_budgets),
        "knobs": {
            method.name: dict(method.knobs) for m, _ in case.groups for method in m if isinstance(method, ModelPruning)
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
        "machine": machine(),
        "checkpoint": fingerprint(checkpoint),
        "seconds": round(time.perf_counter() - started),
        "knobs": dict(ONE_CROP.knobs),
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
    if known.get("from") != fingerprint(checkpoint):
        started = time.perf_counter()
        found = teach(checkpoint, reader)
        known = {"from": fingerprint(checkpoint), "seconds": round(time.perf_counter() - started), **found}
        record.write_text(json.dumps(known), encoding="utf-8")
    return reader, {"taught": known}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all if none is named")
    parser.add_argument("--checkpoint", type=Path, default=checkpoint_path(), help="the embedded one if not given")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality", help="pictures and answers")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    known = ["evidence", *CASES, "preset"]
    unknown = sorted(set(options.cases) - set(known))
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}: choose from {', '.join(known)}")
    torch.set_num_threads(options.threads)
    for name in options.cases or known:
        folder = options.runs / name
        if name == "evidence":
            results = measure_evidence(options.checkpoint, folder)
        elif name == "preset":
            results = measure_preset(options.checkpoint, folder, options.runs / "tiles", options.batch_size)
        else:
            results = measure(name, options.checkpoint, folder, options.batch_size)
        if PartialState().is_main_process:
            RESULTS.mkdir(parents=True, exist_ok=True)
            path = RESULTS / f"quality-{name}.json"
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(path, f"{results['seconds']} s")


if __name__ == "__main__":
    main()
