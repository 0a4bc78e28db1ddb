"""Coverage of one kind of rows with raw cosines: the paper's ablation of its softmax (section 4, table 6)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn.functional import normalize

from mmtok.evaluation.selectors import CropView, Kept, Selector
from mmtok.hub.coverage import greedy_coverage


class RawCosineCoverage(Selector):
    """Greedy coverage of cosines instead of their softmax; a negative cosine covers nothing.

    Subclasses weight the text rows and the vision rows; without any text token the vision rows count.
    """

    text_weight: ClassVar[float]
    vision_weight: ClassVar[float]

    def select(self, crop: CropView, budget: int) -> Kept:
        vision, raw = normalize(crop.vision.float(), dim=-1), normalize(crop.raw_vision.float(), dim=-1)
        rows = []
        if self.text_weight and len(crop.text):
            rows.append(normalize(crop.text.float(), dim=-1) @ vision.T * (self.text_weight / len(crop.text)))
        if self.vision_weight or not rows:
            rows.append(raw @ raw.T * ((self.vision_weight or 1.0) / len(raw)))
        return Kept(greedy_coverage(torch.cat(rows).clamp_min(0), min(budget, len(vision))).indices)


class RawTextCoverage(RawCosineCoverage):
    """Text rows alone."""

    name = "raw cosine, text"
    text_weight, vision_weight = 1.0, 0.0


class RawVisionCoverage(RawCosineCoverage):
    """Vision rows alone."""

    name = "raw cosine, vision"
    text_weight, vision_weight = 0.0, 1.0


class RawCoverage(RawCosineCoverage):
    """Both, weighted as in the paper's objective."""

    name = "raw cosine, both"
    text_weight, vision_weight = 1.0, 0.5
