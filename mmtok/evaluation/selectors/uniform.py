"""A uniform grid: the baseline that uses only the places of the tokens."""

from __future__ import annotations

import math

import torch

from .base import CropView, Kept, Selector


class UniformGrid(Selector):
    """Tokens spread evenly: over rows first, then within each row. Tokens without a grid are spread in their order."""

    name = "uniform"

    def select(self, crop: CropView, budget: int) -> Kept:
        total = len(crop.vision)
        budget = min(budget, total)
        placed = bool((crop.row >= 0).all())
        lines = [torch.nonzero(crop.row == row)[:, 0] for row in crop.row.unique()] if placed else []
        widest = max((len(line) for line in lines), default=0)
        if not lines or any(len(line) != widest for line in lines):
            return Kept(_spread(budget, total).to(crop.vision.device))
        used = min(len(lines), max(round(math.sqrt(budget * len(lines) / widest)), math.ceil(budget / widest)))
        chosen = [lines[index] for index in _spread(used, len(lines)).tolist()]
        shares = [budget // used + (index < budget % used) for index in range(used)]
        picked = [line[_spread(share, widest)] for line, share in zip(chosen, shares, strict=True)]
        return Kept(torch.cat(picked).to(crop.vision.device))


def _spread(count: int, total: int) -> torch.Tensor:
    """(count,) int64: the middles of `count` equal parts of `total` places."""
    return ((torch.arange(count) + 0.5) * total / count).long()
