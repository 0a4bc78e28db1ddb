"""CDPruner (Zhang et al., NeurIPS 2025, arXiv 2506.10967): a determinantal point process that knows the question."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from .base import CropView, Kept, Selector

# What is left of a kernel of float32 cosines, relative to its diagonal, counts as zero below this.
ROUNDING = 1e-6


class CDPruner(Selector):
    """MAP of a DPP with the kernel diag(r) L diag(r), greedily.

    L holds the cosines of the projected vision tokens; r is each token's relevance to the question, the mean cosine to
    the text, scaled to 0 ... 1 over the tokens. The paper takes the relevance of LLaVA from CLIP's text tower, which
    LLaVA's checkpoints don't hold, and for models without one from the language model's own embeddings: those are
    used here, for the same words that the other methods see.
    """

    name = "CDPruner"

    def select(self, crop: CropView, budget: int) -> Kept:
        vision = normalize(crop.vision.float(), dim=-1)
        relevance = torch.ones(len(vision), device=vision.device)
        if len(crop.text):
            cosine = (vision @ normalize(crop.text.float(), dim=-1).T).mean(-1)
            low, high = cosine.aminmax()
            relevance = (cosine - low + 1e-6) / (high - low + 1e-6)
        kernel = relevance[:, None] * (vision @ vision.T) * relevance
        return Kept(greedy_map(kernel, min(budget, len(vision))))


def greedy_map(kernel: torch.Tensor, count: int) -> torch.Tensor:
    """Greedy MAP of a determinantal point process: each pick has the largest determinant with those before it.

    A Cholesky factor grows by one row a pick (Chen, Zhang and Zhou, NeurIPS 2018).

    Args:
        kernel: (n, n) float, positive semidefinite.
        count: picks, from 1 to n.

    Returns:
        (count,) int64 in the order of the picks. Beyond the kernel's rank every determinant is 0; the picks there have
        the largest of what rounding leaves.
    """
    kernel = kernel.double()
    noise = ROUNDING * kernel.diagonal().max()
    factors = kernel.new_zeros(count, len(kernel))
    remaining = kernel.diagonal().clone()
    picked: list[int] = []
    for step in range(count):
        index = int(remaining.argmax())
        picked.append(index)
        # Dividing by a residual that is only rounding would let the factors grow without end.
        if remaining[index] > noise:
            projection = kernel[index] - factors[:step, index] @ factors[:step]
            factors[step] = projection / remaining[index].sqrt()
            remaining = remaining - factors[step] ** 2
        remaining[picked] = -torch.inf
    return torch.tensor(picked, device=kernel.device)
