"""Qwen3-VL with experts that reads only the vision tokens which cover the question and the image.

A modification of transformers' model, whose images are those of Qwen3-VL: see `modeling_mmtok_qwen3_vl`. Weights, their
names and everything behind the prompt are `Qwen3VLMoeForConditionalGeneration`'s own.
"""

from __future__ import annotations

from transformers import GenerationMixin, Qwen3VLMoeForConditionalGeneration

from .grids import DeepStackModel


class MMTokQwen3VLMoeForConditionalGeneration(DeepStackModel, Qwen3VLMoeForConditionalGeneration, GenerationMixin):
    """`Qwen3VLMoeForConditionalGeneration` that prunes the vision tokens of images and of the frames of videos."""
