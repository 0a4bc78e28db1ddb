"""Qwen2.5-VL that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Kept tokens keep their positions in time,
height and width. Weights, their names and everything behind the prompt are `Qwen2_5_VLForConditionalGeneration`'s own.
"""

from __future__ import annotations

from transformers import GenerationMixin, Qwen2_5_VLForConditionalGeneration

from .grids import GridModel
from .options import SPREAD_OPTIONS


class MMTokQwen2_5_VLForConditionalGeneration(GridModel, Qwen2_5_VLForConditionalGeneration, GenerationMixin):
    """`Qwen2_5_VLForConditionalGeneration` that prunes the vision tokens of images and of the frames of videos."""

    recommended_options = SPREAD_OPTIONS  # see docs/reports/text.md
