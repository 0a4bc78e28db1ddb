"""Rules published after MMTok, on its two similarity matrices: measured before any of them becomes an option.

Written from the descriptions of StackTok (arXiv 2609.16841), EADP (2607.02484) and SCOPE (2510.24214).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmtok.evaluation.selectors import CropView, Kept, Need, Selector
from mmtok.evaluation.selectors.base import required
from mmtok.hub.objective import coverage_matrix

# The bounds of beta, the share of the image's coverage that comes before the text.
_BETA = (0.3, 0.9)
# Budgets up to which a selection is improved by swaps, and swaps at most.
_SWAPPED_UP_TO = 16


@dataclass(frozen=True)
class Rows:
    """A coverage matrix in its two parts, unweighted: every row is a softmax over the n vision tokens.

    Attributes:
        text: (m, n) float32.
        vision: (n, n) float32.
        text_weights: (m,) float32, of sum 1, or empty.
        vision_weights: (n,) float32, of sum alpha.
    """

    text: torch.Tensor
    vision: torch.Tensor
    text_weights: torch.Tensor
    vision_weights: torch.Tensor

    @classmethod
    def of(cls, crop: CropView, settings: Mapping[str, Any]) -> Rows:
        """The paper's rows, or with other `settings` of `coverage_matrix`."""
        weight = settings.get("vision_weight", 0.5)
        plain = {name: value for name, value in settings.items() if name != "vision_weight"}
        matrix = coverage_matrix(crop.text, crop.vision, crop.raw_vision, vision_weight=1.0, **plain)
        words, tokens = len(crop.text), len(crop.vision)
        text, vision = matrix[:words] * words, matrix[words:] * tokens
        return cls(text, vision, torch.full((words,), 1 / max(words, 1)), torch.full((tokens,), weight / tokens))

    @property
    def entropies(self) -> torch.Tensor:
        """(m,) entropy of each text row as a share of the largest possible."""
        entropy = -torch.xlogy(self.text, self.text).sum(-1)
        return entropy / torch.tensor(float(self.text.shape[1])).log()

    @property
    def weighted(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.text * self.text_weights[:, None], self.vision * self.vision_weights[:, None]


def greedy(matrix: torch.Tensor, budget: int) -> list[int]:
    """Columns in the order in which the greedy maximiser picks them."""
    best = matrix.new_zeros(len(matrix))
    picked: list[int] = []
    for _ in range(budget):
        gains = _gains(matrix, best)
        gains[picked] = -1.0
        picked.append(int(gains.argmax()))
        best = torch.maximum(best, matrix[:, picked[-1]])
    return picked


def staged(text: torch.Tensor, vision: torch.Tensor, budget: int, beta: float, *, text_picks: int) -> list[int]:
    """`text_picks` columns that gain most for the text, then the best for the image while it is covered less than
    beta of what the image's own greedy selection covers, then for the text again."""
    goal = beta * float(vision[:, greedy(vision, budget)].amax(1).sum())
    best_text, best_vision = text.new_zeros(len(text)), vision.new_zeros(len(vision))
    picked: list[int] = []
    for step in range(budget):
        gains = _gains(text, best_text)
        if (step >= text_picks and float(best_vision.sum()) < goal) or not bool((gains > 0).any()):
            gains = _gains(vision, best_vision)
        gains[picked] = -1.0
        picked.append(int(gains.argmax()))
        best_text = torch.maximum(best_text, text[:, picked[-1]])
        best_vision = torch.maximum(best_vision, vision[:, picked[-1]])
    return picked


def swapped(matrix: torch.Tensor, picked: list[int]) -> list[int]:
    """Exchanges one pick for another column, the best exchange first, until none covers more."""
    picked = list(picked)
    while True:
        whole, swap = float(matrix[:, picked].amax(1).sum()), None
        for place in range(len(picked)):
            others = picked[:place] + picked[place + 1 :]
            best = matrix[:, others].amax(1) if others else matrix.new_zeros(len(matrix))
            value = _gains(matrix, best) + best.sum()
            value[picked] = -1.0
            if float(value.max()) > whole * (1 + 1e-6):
                whole, swap = float(value.max()), (place, int(value.argmax()))
        if swap is None:
            return picked
        picked[swap[0]] = swap[1]


def _gains(matrix: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    return (matrix - best[:, None]).clamp_min(0).sum(0)


class LaterRule(Selector):
    """One of the rules on one setting of the rows."""

    def __init__(
        self,
        name: str,
        *,
        stages: int | None = None,
        swaps: bool = False,
        entropy_weights: bool = False,
        saliency: bool = False,
        **settings: Any,
    ) -> None:
        """
        Args:
            name: what results call it.
            stages: picks for the text before `staged` turns to the image; None for MMTok's one objective.
            swaps: improve selections of few tokens by swaps.
            entropy_weights: text rows count the more the fewer vision tokens they point to.
            saliency: vision rows count as much as the class token attends to them.
            settings: of `coverage_matrix`.
        """
        self.name = name  # type: ignore[misc]
        self.stages, self.swaps, self.entropy_weights, self.saliency = stages, swaps, entropy_weights, saliency
        self.settings = settings
        if saliency:
            self.needs = frozenset[Need]({"cls_attention"})  # type: ignore[misc]

    def select(self, crop: CropView, budget: int) -> Kept:
        rows = Rows.of(crop, self.settings)
        if self.entropy_weights and len(rows.text):
            weights = (1 - rows.entropies).clamp_min(1e-6)
            rows = replace(rows, text_weights=weights / weights.sum())
        if self.saliency:
            attention = required(crop.cls_attention, "cls_attention", self).float()
            rows = replace(rows, vision_weights=rows.vision_weights.sum() * attention / attention.sum())
        text, vision = rows.weighted
        whole = torch.cat([text, vision])
        budget = min(budget, whole.shape[1])
        if self.stages is None:
            picked = greedy(whole, budget)
        else:
            beta = float(rows.entropies.mean().clamp(*_BETA)) if len(text) else 1.0
            picked = staged(text, vision, budget, beta, text_picks=self.stages)
        if self.swaps and budget <= _SWAPPED_UP_TO:
            picked = swapped(whole, picked)
        return Kept(torch.tensor(picked))
