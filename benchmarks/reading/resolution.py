"""Shrinking, pruning and both, on images with more pixels than the questions need.

    python -m benchmarks.reading.resolution --checkpoint FOLDER

Pages and photographs with print, drawn at the size that the model was trained with and at 2 and 4 times that, are read
with equal shares of their tokens in three ways. The time to the first token is measured beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import RESULTS, milliseconds, save, side_by_side, times_faster
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.image_cache import EncodedImageCache
from mmtok.measuring import prompt_lengths
from mmtok.record_store import model_content
from mmtok.tiny.reading import HELD_OUT, Kind, reading_questions, sample_reading_scene
from mmtok.tiny.scenes import Scene

from .evaluate import SEED, load_qwen, right_of, scores_of

CASES: dict[str, Kind] = {"pages": "page", "photographs": "mixed"}
ENLARGED = (1, 2, 4)
SHARES = (0.5, 0.25, 0.1, 0.05)
ALL: Mapping[str, Any] = {"vision_token_budget": None, "image_scale": None}
# Rows and columns of vision tokens of a scene that is not enlarged.
SIDES = (8, 10)


def ways(share: float) -> dict[str, dict[str, Any]]:
    """Options with which about this share of the tokens is read; between the two the tower sees its square root."""
    return {
        "pruned": {"image_scale": None, "vision_token_budget": share},
        "shrunk, then pruned": {"image_scale": share**0.25, "vision_token_budget": share**0.5},
        "shrunk": {"image_scale": share**0.5, "vision_token_budget": None},
    }


def scenes_of(case: str, count: int) -> list[Scene]:
    """Draw scenes of a case that something can be asked about."""
    scenes: list[Scene]
    rng, scenes = np.random.default_rng([SEED, 2, list(CASES).index(case)]), []
    while len(scenes) < count:
        rows, columns = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
        scene = sample_reading_scene(HELD_OUT, rows, columns, rng, kind=CASES[case])
        scenes += [scene] if scene.objects or scene.prints else []
    return scenes


def load(folder: Path) -> Checkpoint:
    """Load a checkpoint whose processor leaves enlarged images as large as they are."""
    checkpoint = load_qwen(folder)
    checkpoint.processor.image_processor.size = {"shortest_edge": 1, "longest_edge": 2**30}
    return checkpoint


def answers(checkpoint: Checkpoint, scenes: Sequence[Scene], enlarged: int) -> dict[str, Any]:
    """Ask about scenes with all tokens and in each way with each share.

    Returns:
        "all", and for each share each way: what is right of each kind and the mean length of the prompt; and for each
        way but the first, by how much more is right than with the first.
    """
    cache = EncodedImageCache(checkpoint.model)

    def asked(options: Mapping[str, Any]) -> tuple[dict[str, list[tuple[int, float]]], dict[str, Any]]:
        with prompt_lengths(checkpoint.model) as lengths:
            scores = scores_of(checkpoint, scenes, options, cache, enlarged)
        told = {kind: asdict(right_of(found)) for kind, found in scores.items()}
        return scores, {"prompt_tokens": round(float(np.mean(lengths)), 1), "right": told}

    results: dict[str, Any] = {"all": asked(ALL)[1]}
    for share in SHARES:
        results[str(share)] = {}
        first: dict[str, list[tuple[int, float]]] = {}
        for way, options in ways(share).items():
            scores, told = asked(options)
            first = first or scores
            if first is not scores:
                told["more_than_pruned"] = {
                    kind: asdict(
                        right_of([(n, new - old) for (n, new), (_, old) in zip(own, first[kind], strict=True)])
                    )
                    for kind, own in scores.items()
                }
            results[str(share)][way] = told
    return results


def first_token(checkpoint: Checkpoint, scene: Scene, enlarged: int, rounds: int) -> dict[str, Any]:
    """Time the first token of one question in each way: vision tower, selection and prefill, CPU time of one thread."""
    [question, *_] = [each for asked in reading_questions(scene, np.random.default_rng(0)).values() for each in asked]
    inputs = checkpoint.inputs([question.text], [scene.image(enlarged)])
    named = {"all": ALL}
    named |= {f"{share} {way}": options for share in SHARES for way, options in ways(share).items()}
    calls = {
        name: partial(checkpoint.model.generate, **inputs, **options, max_new_tokens=1, do_sample=False)
        for name, options in named.items()
    }
    times = side_by_side(calls, rounds=rounds, seconds=600, clock=time.process_time)
    tokens = int((inputs["input_ids"] == checkpoint.model.config.image_token_id).sum())
    return {"vision_tokens": tokens, "ms": milliseconds(times), "times_faster": times_faster(times, than="all")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that benchmarks.reading.train wrote")
    parser.add_argument("--scenes", type=int, default=100, help="of each case")
    parser.add_argument("--rounds", type=int, default=7, help="of the timing")
    parser.add_argument("--name", default="resolution", help=f"of the file in {RESULTS.name}")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    checkpoint = load(options.checkpoint)
    found, timed = {}, {}
    for case in CASES:
        scenes = scenes_of(case, options.scenes)
        found[case] = {str(enlarged): answers(checkpoint, scenes, enlarged) for enlarged in ENLARGED}
        timed[case] = {
            str(enlarged): first_token(checkpoint, scenes[0], enlarged, options.rounds) for enlarged in ENLARGED
        }
    told = {"seed": SEED, "checkpoint": model_content(options.checkpoint), "scenes_of_each_case": options.scenes}
    path = save(options.name, {**told, "answers, in %": found, "first token": timed})
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
