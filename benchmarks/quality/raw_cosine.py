"""Coverage with raw cosines: the paper's ablation of its softmax (section 4, table 6)."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from mmtok.evaluation.selectors import CropView, Kept, Selector
from mmtok.hub.coverage import greedy_coverage


class RawCoverage(Selector):
    """Greedy coverage of cosines instead of their softmax; a negative cosine covers nothing."""

    def __init__(self, name: str, text_weight: float, vision_weight: float) -> None:
        """
        Args:
            name: what results call it.
            text_weight, vision_weight: of the rows; without any text token the vision rows count.
        """
        self.name = name  # type: ignore[misc]
        self.text_weight, self.vision_weight = text_weight, vision_weight

    def select(self, crop: CropView, budget: int) -> Kept:
        vision, raw = normalize(crop.vision.float(), dim=-1), normalize(crop.raw_vision.float(), dim=-1)
        rows = []
        if self.text_weight and len(crop.text):
            rows.append(normalize(crop.text.float(), dim=-1) @ vision.T * (self.text_weight / len(crop.text)))
        if self.vision_weight or not rows:
            rows.append(raw @ raw.T * ((self.vision_weight or 1.0) / len(raw)))
        return Kept(greedy_coverage(torch.cat(rows).clamp_min(0), min(budget, len(vision))).indices)


RAW: tuple[RawCoverage, ...] = (
    RawCoverage("raw cosine, text", 1.0, 0.0),
    RawCoverage("raw cosine, vision", 0.0, 1.0),
    # Weighted as in the paper's objective.
    RawCoverage("raw cosine, both", 1.0, 0.5),
)
