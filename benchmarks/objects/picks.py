"""Where the kept tokens lie: on the object that a question asks for, on another one, or on the background."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.encoded import EncodedBatch
from mmtok.evaluation.selectors import Method, Selector
from mmtok.images import read_image

from .held_out import HeldOutScene, presence_questions

BATCH = 50


@torch.no_grad()
def share_of_picks(
    model: Path, images: Path, scenes: Sequence[HeldOutScene], methods: Sequence[Method], budgets: Sequence[int]
) -> list[dict[str, Any]]:
    """Ask for every object of every scene and look at the kept tokens.

    Returns:
        For each method and budget `method`, `budget`; `found`, the share of the questions with a token on the object
        asked for; `asked`, the share of the kept tokens on that object; and `objects`, the share on any object.
    """
    checkpoint = Checkpoint.load(model, dtype=torch.float32)
    asked = [(item, text, index) for item in scenes for text, index in presence_questions(item)]
    needs = {need for method in methods if isinstance(method, Selector) for need in method.needs}
    seen: dict[tuple[str, int], list[tuple[bool, float, float]]] = {}
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        inputs = checkpoint.inputs([text for _, text, _ in batch], [read_image(images / i.image) for i, _, _ in batch])
        encoded = EncodedBatch.of(checkpoint.model, inputs, needs, range(start, start + len(batch)))
        for method in methods:
            for budget in budgets:
                kept = kept_tokens(checkpoint, inputs, encoded, method, budget)
                seen.setdefault((method.name, budget), []).extend(
                    _where(item.labels[tokens], index) for (item, _, index), tokens in zip(batch, kept, strict=True)
                )
    return [
        {"method": name, "budget": budget, **dict(zip(("found", "asked", "objects"), _means(rows), strict=True))}
        for (name, budget), rows in seen.items()
    ]


def kept_tokens(
    checkpoint: Checkpoint, inputs: dict[str, torch.Tensor], encoded: EncodedBatch, method: Method, budget: int
) -> list[NDArray[np.bool_]]:
    """Say for each prompt which of its vision tokens are kept: (tokens,)."""
    if isinstance(method, Selector):
        mask = encoded.pruned(checkpoint.model, method, budget).kept
    else:
        mask = checkpoint.model.select_vision_tokens(**inputs, **method.options, vision_token_budget=budget).kept_mask
    places = encoded.prompt.image_mask
    return [row[place].numpy() for row, place in zip(mask.cpu(), places, strict=True)]


def _where(labels: NDArray[np.int64], asked: int) -> tuple[bool, float, float]:
    on_asked = labels == asked
    return bool(on_asked.any()), float(on_asked.mean()), float((labels >= 0).mean())


def _means(rows: Sequence[tuple[bool, float, float]]) -> list[float]:
    return [round(float(value), 4) for value in np.mean(np.array(rows, float), axis=0)]
