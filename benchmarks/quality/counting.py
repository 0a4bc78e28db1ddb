"""What is kept of each object when objects are counted: why other methods count better with many tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.objects.held_out import USUAL, HeldOutScene
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.encoded import EncodedBatch
from mmtok.evaluation.selectors import METHODS, Selector
from mmtok.machine import machine
from mmtok.model_content import model_content
from mmtok.tiny.questions import COUNT

from .cases import ANSWER_SEED
from .evidence import kept_tokens
from .runs import drawn

SCENES = 150
BUDGETS = (64, 32, 16, 8)
COMPARED = ("MMTok", "CDPruner", "DivPrune", "uniform")


@torch.no_grad()
def measure_counting(checkpoint: Path) -> dict[str, Any]:
    """For each method and budget what `of_objects` says, on the images of the table of answers."""
    started = time.perf_counter()
    scenes = drawn(USUAL, SCENES, ANSWER_SEED)
    model = Checkpoint.load(checkpoint)
    methods = [METHODS[name] for name in COMPARED]
    inputs = model.inputs([COUNT] * SCENES, [item.image for item in scenes])
    needs = {need for method in methods if isinstance(method, Selector) for need in method.needs}
    encoded = EncodedBatch.of(model.model, inputs, needs, range(len(scenes)))
    cells = [
        {
            "method": method.name,
            "budget": budget,
            **of_objects(kept_tokens(model, inputs, encoded, method, budget), scenes),
        }
        for method in methods
        for budget in BUDGETS
    ]
    return {
        "case": "counting",
        "machine": machine("mmtok", "transformers"),
        "checkpoint": model_content(checkpoint),
        "seconds": round(time.perf_counter() - started),
        "scenes": SCENES,
        "cells": cells,
    }


def of_objects(kept: Sequence[NDArray[np.bool_]], scenes: Sequence[HeldOutScene]) -> dict[str, float]:
    """Of the kept tokens and of the objects that the tokens of some images show.

    Args:
        kept: for each image (tokens,), which of its vision tokens are kept.
        scenes: the images.

    Returns:
        `on_objects`, the share of the kept tokens that show an object, a mean over the images; `missed`, the share of
        the objects that kept no token; `tokens`, kept tokens of an object on average.
    """
    counts = [
        int((flags & (item.labels == index)).sum())
        for flags, item in zip(kept, scenes, strict=True)
        for index in range(len(item.scene.objects))
        if (item.labels == index).any()
    ]
    shares = [float((item.labels[flags] >= 0).mean()) for flags, item in zip(kept, scenes, strict=True)]
    return {
        "on_objects": round(float(np.mean(shares)), 4),
        "missed": round(float(np.mean([count == 0 for count in counts])), 4),
        "tokens": round(float(np.mean(counts)), 2),
    }
