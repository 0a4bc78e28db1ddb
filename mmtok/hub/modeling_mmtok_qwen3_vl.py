"""Qwen3-VL that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Kept tokens keep their positions in time,
height and width, and what DeepStack adds to them. Weights, their names and everything behind the prompt are
`Qwen3VLForConditionalGeneration`'s own.
"""

from __future__ import annotations

from transformers import GenerationMixin, Qwen3VLForConditionalGeneration

from .grids import DeepStackModel


class MMTokQwen3VLForConditionalGeneration(DeepStackModel, Qwen3VLForConditionalGeneration, GenerationMixin):
    """`Qwen3VLForConditionalGeneration` that prunes the vision tokens of images and of the frames of videos."""
