"""DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175): the most diverse tokens."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from .base import CropView, Kept, Selector


class DivPrune(Selector):
    """Max-min diversity of the projected vision tokens, greedily.

    The distance of two tokens is 1 - cosine. The first pick is the token whose nearest neighbour is farthest away;
    each further pick is the token whose nearest picked token is farthest away. The question plays no part.
    """

    name = "DivPrune"

    def select(self, crop: CropView, budget: int) -> Kept:
        directions = normalize(crop.vision.float(), dim=-1)
        distance = 1 - directions @ directions.T
        return Kept(max_min_diversity(distance, min(budget, len(directions))))


def max_min_diversity(distance: torch.Tensor, count: int) -> torch.Tensor:
    """Greedy max-min diversity.

    Args:
        distance: (n, n) float, symmetric.
        count: picks, from 1 to n.

    Returns:
        (count,) int64 in the order of the picks; ties go to the smallest index.
    """
    to_others = distance.masked_fill(torch.eye(len(distance), dtype=torch.bool, device=distance.device), torch.inf)
    # A single token has no neighbour, and nothing to be far from.
    nearest = to_others.amin(0)
    picked = [int(nearest.argmax())]
    nearest = distance[picked[0]].clone()
    for _ in range(count - 1):
        nearest[picked[-1]] = -torch.inf
        picked.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distance[picked[-1]])
    return torch.tensor(picked, device=distance.device)
