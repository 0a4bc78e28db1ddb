"""Qwen2-VL that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Kept tokens keep their positions in time,
height and width. Weights, their names and everything behind the prompt are `Qwen2VLForConditionalGeneration`'s own.
"""

from __future__ import annotations

from transformers import GenerationMixin, Qwen2VLForConditionalGeneration

from .grids import GridModel


class MMTokQwen2VLForConditionalGeneration(GridModel, Qwen2VLForConditionalGeneration, GenerationMixin):
    """`Qwen2VLForConditionalGeneration` that prunes the vision tokens of images and of the frames of videos."""

    video_arguments = ("pixel_values_videos", "video_grid_thw")
