"""VisionZip (Yang et al., CVPR 2025, arXiv 2412.04467): the tokens that the class token attends to, and averages."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from .base import CropView, Kept, Selector, required

# 10 of 64, 20 of 128 and 30 of 192 tokens in the paper.
_CONTEXTUAL_SHARE = 10 / 64


class VisionZip(Selector):
    """Dominant tokens by CLS attention, the others merged into a few contextual ones.

    Dominant tokens have the most attention of the tower's class token in the layer that LLaVA reads. Of the rest, every
    (rest / contextual)-th token is a target; every other token joins the target with the most similar key, and each
    group is replaced by its mean before the projector. The question plays no part.
    """

    name = "VisionZip"
    needs = frozenset({"cls_attention"})

    def select(self, crop: CropView, budget: int) -> Kept:
        attention = required(crop.cls_attention, "cls_attention", self)
        keys = required(crop.keys, "cls_attention", self)
        total = len(attention)
        if budget >= total:
            return Kept(torch.arange(total, device=attention.device))
        contextual = round(budget * _CONTEXTUAL_SHARE)
        dominant = attention.topk(budget - contextual).indices.sort().values
        if contextual == 0:
            return Kept(dominant)
        rest = torch.ones(total, dtype=torch.bool, device=attention.device)
        rest[dominant] = False
        others = torch.nonzero(rest)[:, 0]
        targets = others[:: max(1, len(others) // contextual)][:contextual]
        merged = _merged(crop.raw_vision, normalize(keys.float(), dim=-1), others, targets)
        return Kept(torch.cat((dominant, targets)), torch.cat((crop.raw_vision[dominant], merged)))


def _merged(features: torch.Tensor, keys: torch.Tensor, others: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(contextual, d_raw): the mean of each target's group; a target always belongs to its own."""
    group = (keys[others] @ keys[targets].T).argmax(-1)
    for index, target in enumerate(targets):
        group[others == target] = index
    sums = features.new_zeros(len(targets), features.shape[1]).index_add(0, group, features[others])
    return sums / torch.bincount(group, minlength=len(targets))[:, None].to(sums.dtype)
