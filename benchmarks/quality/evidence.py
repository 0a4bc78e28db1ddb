"""What a selection keeps of the object that a question asks for: a measure that needs no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.objects.held_out import HeldOutScene
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.encoded import EncodedBatch
from mmtok.evaluation.metrics import Interval, TaskOutcomes, retention, retention_lead
from mmtok.evaluation.selectors import ModelPruning, Selector
from mmtok.tiny.questions import is_there


@dataclass(frozen=True)
class Evidence:
    """For each question and each way of pruning, whether the object asked for kept a token.

    Attributes:
        scenes: (Q,) which scene a question is about.
        shown: (method, budget) -> (Q,) bool.
        shares: (method, budget) -> the share of the kept tokens on the object asked for, and on any object.
    """

    scenes: list[str]
    shown: dict[tuple[str, int], NDArray[np.bool_]]
    shares: dict[tuple[str, int], tuple[float, float]]

    def cells(self, *, resamples: int = 1000) -> list[dict[str, Any]]:
        """For each method and budget `method`, `budget`; `shown`, the share of the questions with its interval; and
        `on_asked` and `on_objects`, the shares of the kept tokens."""
        return [
            {
                "method": method,
                "budget": budget,
                "shown": _rounded(retention([self._task(flags[None])], resamples=resamples)),
                "on_asked": round(self.shares[method, budget][0], 4),
                "on_objects": round(self.shares[method, budget][1], 4),
            }
            for (method, budget), flags in self.shown.items()
        ]

    def compared(
        self, budgets: Sequence[int], *, reference: str = "MMTok", resamples: int = 1000
    ) -> list[dict[str, Any]]:
        """For each method the mean over `budgets`, and by how much `reference` shows more on the same draws."""

        def task(method: str) -> TaskOutcomes:
            return self._task(np.stack([self.shown[method, budget] for budget in budgets]))

        rows = []
        for method in dict.fromkeys(name for name, _ in self.shown):
            row = {"method": method, "shown": _rounded(retention([task(method)], resamples=resamples))}
            if (reference, budgets[0]) in self.shown:
                row["reference_lead"] = _rounded(retention_lead([task(reference)], [task(method)], resamples=resamples))
            rows.append(row)
        return rows

    def _task(self, shown: NDArray[np.bool_]) -> TaskOutcomes:
        """With all tokens every object is shown: the share that is kept is the share that is shown."""
        table: NDArray[np.int64] = np.zeros((*shown.shape, 4), dtype=np.int64)
        table[..., 0], table[..., 3] = shown, ~shown
        full: NDArray[np.int64] = np.tile(np.array([1, 0, 0, 0], dtype=np.int64), (len(self.scenes), 1))
        return TaskOutcomes("accuracy", self.scenes, full, table)


@torch.no_grad()
def kept_evidence(
    checkpoint: Checkpoint,
    scenes: Sequence[HeldOutScene],
    methods: Sequence[Selector | ModelPruning],
    budgets: Sequence[int],
    *,
    batch_size: int = 50,
    progress: bool = True,
) -> Evidence:
    """Asks for every object of every scene, "Is there a kite in the image?", and looks at what is kept.

    Args:
        checkpoint: the model.
        scenes: images with ground truth; objects that no token shows are not asked for.
        methods: what selects.
        budgets: tokens kept per crop.
        batch_size: questions at once.
        progress: whether to show a bar.
    """
    asked = [
        (number, index)
        for number, item in enumerate(scenes)
        for index in range(len(item.scene.objects))
        if (item.labels == index).any()
    ]
    needs = {need for method in methods if isinstance(method, Selector) for need in method.needs}
    found: dict[tuple[str, int], list[tuple[bool, float, float]]] = {}
    for start in tqdm(range(0, len(asked), batch_size), desc="evidence", disable=not progress, mininterval=5):
        batch = asked[start : start + batch_size]
        texts = [is_there(scenes[number].scene.names[index]) for number, index in batch]
        inputs = checkpoint.inputs(texts, [scenes[number].image for number, _ in batch])
        encoded = EncodedBatch.of(checkpoint.model, inputs, needs, range(start, start + len(batch)))
        for method in methods:
            for budget in budgets:
                kept = kept_tokens(checkpoint, inputs, encoded, method, budget)
                found.setdefault((method.name, budget), []).extend(
                    where_they_lie(scenes[number].labels[tokens], index)
                    for tokens, (number, index) in zip(kept, batch, strict=True)
                )
    rows = {cell: np.array(rows) for cell, rows in found.items()}
    return Evidence(
        [str(number) for number, _ in asked],
        {cell: values[:, 0].astype(bool) for cell, values in rows.items()},
        {cell: (float(values[:, 1].mean()), float(values[:, 2].mean())) for cell, values in rows.items()},
    )


def where_they_lie(labels: NDArray[np.int64], asked: int) -> tuple[bool, float, float]:
    """Of kept tokens with these labels: whether one shows the object, and the shares that show it and any object."""
    return bool((labels == asked).any()), float((labels == asked).mean()), float((labels >= 0).mean())


def kept_tokens(
    checkpoint: Checkpoint,
    inputs: dict[str, torch.Tensor],
    encoded: EncodedBatch,
    method: Selector | ModelPruning,
    budget: int,
) -> list[NDArray[np.bool_]]:
    """For each prompt (T,), which of its vision tokens are kept."""
    if isinstance(method, Selector):
        mask = encoded.pruned(checkpoint.model, method, budget).kept
    else:
        mask = checkpoint.model.select_vision_tokens(**inputs, **method.options, vision_token_budget=budget).kept_mask
    places = encoded.prompt.image_mask
    return [row[place].numpy() for row, place in zip(mask.cpu(), places, strict=True)]


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(interval).items()}
