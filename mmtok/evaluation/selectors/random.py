"""Random tokens: the baseline that uses no information."""

from __future__ import annotations

import torch

from .base import CropView, Kept, Selector


class RandomTokens(Selector):
    """Tokens drawn without replacement, seeded by the question; a smaller budget keeps a part of a larger one's."""

    name = "random"

    def select(self, crop: CropView, budget: int) -> Kept:
        generator = torch.Generator().manual_seed(crop.seed)
        order = torch.randperm(len(crop.vision), generator=generator)
        return Kept(order[:budget].to(crop.vision.device))
