"""Qwen3.5, dense and with experts, that reads only the vision tokens which cover the question and the image.

A modification of transformers' models: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Kept tokens keep their positions in time,
height and width. Three of four language layers are recurrent: they see fewer tokens. What stock refuses for such
layers, an assistant model for instance, stays refused. Weights, their names and everything behind the prompt are
`Qwen3_5ForConditionalGeneration`'s and `Qwen3_5MoeForConditionalGeneration`'s own.
"""

from __future__ import annotations

from transformers import GenerationMixin, Qwen3_5ForConditionalGeneration, Qwen3_5MoeForConditionalGeneration

from .grids import TimestampModel


class MMTokQwen3_5ForConditionalGeneration(TimestampModel, Qwen3_5ForConditionalGeneration, GenerationMixin):
    """`Qwen3_5ForConditionalGeneration` that prunes the vision tokens of images and of the frames of videos."""


class MMTokQwen3_5MoeForConditionalGeneration(TimestampModel, Qwen3_5MoeForConditionalGeneration, GenerationMixin):
    """`Qwen3_5MoeForConditionalGeneration` that prunes the vision tokens of images and of the frames of videos."""
