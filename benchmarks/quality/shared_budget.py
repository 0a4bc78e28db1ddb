"""One budget for all crops of a picture, of which each crop keeps a floor: what `budget_scope="image"` might want."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmtok.evaluation.selectors import CropView, Kept, Selector
from mmtok.hub.objective import coverage_matrix


class SharedCoverage(Selector):
    """The paper's coverage over all crops together, maximised greedily under a lower bound for each crop.

    A token is taken while the picks that are left can still bring every crop to its floor; such sets are the
    independent sets of a matroid, so that greedy reaches at least half of the best (Fisher et al., 1978).
    """

    def __init__(self, floor: float) -> None:
        """
        Args:
            floor: share of the budget for one crop that each crop keeps at least, 0 to 1.
        """
        self.floor = floor
        self.name = f"image scope, floor {floor:g}"  # type: ignore[misc]

    def select(self, crop: CropView, budget: int) -> Kept:
        return self.select_picture([crop], budget)[0]

    def select_picture(self, crops: Sequence[CropView], budget: int) -> list[Kept]:
        sizes = torch.tensor([len(crop.vision) for crop in crops])
        owner = torch.repeat_interleave(torch.arange(len(crops)), sizes)
        coverage = coverage_matrix(
            crops[0].text, torch.cat([crop.vision for crop in crops]), torch.cat([crop.raw_vision for crop in crops])
        ).cpu()
        steps = int(sizes.clamp_max(budget).sum())
        missing = sizes.clamp_max(round(self.floor * min(budget, int(sizes.max()))))
        best, taken, picks = torch.zeros(len(coverage)), torch.zeros(len(owner), dtype=torch.bool), []
        for step in range(steps):
            gains = (coverage - best[:, None]).clamp_min(0).sum(0).masked_fill(taken, -1.0)
            if steps - step <= int(missing.sum()):
                gains = gains.masked_fill(missing[owner] == 0, -1.0)
            pick = int(gains.argmax())
            picks.append(pick)
            taken[pick] = True
            missing[owner[pick]] = max(int(missing[owner[pick]]) - 1, 0)
            best = torch.maximum(best, coverage[:, pick])
        chosen = torch.tensor(picks)
        starts = sizes.cumsum(0) - sizes
        return [Kept(chosen[owner[chosen] == number] - starts[number]) for number in range(len(crops))]
