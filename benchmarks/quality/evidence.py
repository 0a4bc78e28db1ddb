"""What a selection keeps of the object that a question asks for: a measure that needs no answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mmtok.evaluation.bootstrap import Interval, TaskOutcomes, retention, retention_lead
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.encoded import EncodedBatch
from mmtok.evaluation.selectors import Method, Selector
from mmtok.tiny.questions import with_article
from mmtok.tiny.scenes import Scene


@dataclass(frozen=True)
class Evidence:
    """For each question and each way of pruning, whether the object asked for kept a token.

    Attributes:
        scenes: (Q,) which scene a question is about.
        shown: (method, budget) -> (Q,) bool.
    """

    scenes: list[str]
    shown: dict[tuple[str, int], NDArray[np.bool_]]

    def cells(self, *, resamples: int = 1000) -> list[dict[str, Any]]:
        """For each method and budget `method`, `budget`, and `shown`, the share of the questions with its interval."""
        return [
            {
                "method": method,
                "budget": budget,
                "shown": _rounded(retention([self._task(flags[None])], resamples=resamples)),
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
    scenes: Sequence[Scene],
    methods: Sequence[Method],
    budgets: Sequence[int],
    *,
    labels: Callable[[Scene], NDArray[np.int64]] = Scene.patch_labels,
    batch_size: int = 50,
    progress: bool = True,
) -> Evidence:
    """Asks for every object of every scene, "Is there a red circle in the image?", and looks at what is kept.

    Args:
        checkpoint: the model.
        scenes: images with ground truth.
        methods: what selects.
        budgets: tokens kept per crop.
        labels: for a scene (T,), what each of its vision tokens shows: an index into its objects, negative for none.
            Objects that no token shows are not asked for.
        batch_size: questions at once.
        progress: whether to show a bar.
    """
    shows = [labels(scene) for scene in scenes]
    asked = [
        (number, index)
        for number, scene in enumerate(scenes)
        for index in range(len(scene.objects))
        if (shows[number] == index).any()
    ]
    needs = {need for method in methods if isinstance(method, Selector) for need in method.needs}
    found: dict[tuple[str, int], list[bool]] = {}
    for start in tqdm(range(0, len(asked), batch_size), desc="evidence", disable=not progress, mininterval=5):
        batch = asked[start : start + batch_size]
        texts = [f"Is there {with_article(scenes[n].objects[index].name)} in the image?" for n, index in batch]
        inputs = checkpoint.inputs(texts, [scenes[number].image() for number, _ in batch])
        encoded = EncodedBatch.of(checkpoint.model, inputs, needs, range(start, start + len(batch)))
        for method in methods:
            for budget in budgets:
                kept = _kept(checkpoint, inputs, encoded, method, budget)
                flags = [
                    bool(tokens[shows[number] == index].any())
                    for tokens, (number, index) in zip(kept, batch, strict=True)
                ]
                found.setdefault((method.name, budget), []).extend(flags)
    return Evidence([str(number) for number, _ in asked], {cell: np.array(flags) for cell, flags in found.items()})


def _kept(
    checkpoint: Checkpoint, inputs: dict[str, torch.Tensor], encoded: EncodedBatch, method: Method, budget: int
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
