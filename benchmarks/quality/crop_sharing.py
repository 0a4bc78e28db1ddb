"""Ways to share an image's budget between its crops: measured before any of them becomes an option.

The best nominee is a part of StackTok (arXiv 2609.16841), written from its description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from mmtok.evaluation.selectors import CropView, Kept
from mmtok.hub.coverage import greedy_coverage

from .later_rules import LaterRule, Rows


class BestNominee(LaterRule):
    """At every step each crop nominates its best token, and the one with the largest gain is kept.

    A crop's gains never rise from one of its picks to the next, so these are the largest gains of all crops' greedy
    selections, each made for itself.
    """

    def select_together(self, crops: Sequence[CropView], budget: int) -> list[Kept]:
        total = sum(min(budget, len(crop.vision)) for crop in crops)
        picks, gains, owners = [], [], []
        for number, crop in enumerate(crops):
            text, vision = Rows.of(crop, self.settings).weighted
            found = greedy_coverage(torch.cat([text, vision]), min(total, len(crop.vision)))
            picks.append(found.indices)
            gains.append(found.gains)
            owners.append(torch.full_like(found.indices, number))
        best = torch.cat(gains).sort(descending=True, stable=True).indices[:total]
        owner, pick = torch.cat(owners)[best], torch.cat(picks)[best]
        return [Kept(pick[owner == number]) for number in range(len(crops))]


class OneObjective(LaterRule):
    """All tokens of an image are candidates of one selection, whose text rows compare them across crops."""

    def select_together(self, crops: Sequence[CropView], budget: int) -> list[Kept]:
        lengths = [len(crop.vision) for crop in crops]
        joined: Mapping[str, torch.Tensor] = {
            name: torch.cat([getattr(crop, name) for crop in crops])
            for name in ("vision", "raw_vision", "row", "column")
        }
        total = sum(min(budget, length) for length in lengths)
        picked = self.select(replace(crops[0], **joined), total).indices
        owner = torch.repeat_interleave(torch.arange(len(crops)), torch.tensor(lengths))[picked]
        starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
        return [Kept(picked[owner == number] - starts[number]) for number in range(len(crops))]
