"""Qwen3-VL, dense and with experts, that reads only the vision tokens which cover the question and the image.

A modification of transformers' models: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Kept tokens keep their positions in time,
height and width, and what DeepStack adds to them. Weights, their names and everything behind the prompt are
`Qwen3VLForConditionalGeneration`'s and `Qwen3VLMoeForConditionalGeneration`'s own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import GenerationMixin, Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

from .grids import TimestampModel
from .images import EncodedVision
from .releases import deepstack_features


class DeepStackModel(TimestampModel):
    """As `TimestampModel`, with features of the tower's middle layers for the first layers of the language model."""

    def _encode_grids(self, kind: str, inputs: Mapping[str, Any], scale: float | None) -> EncodedVision:
        encoded = super()._encode_grids(kind, inputs, scale)
        outputs = encoded.video_outputs if kind == "video" else encoded.outputs
        return replace(encoded, deepstack=deepstack_features(outputs, encoded.lengths, f"get_{kind}_features"))


class MMTokQwen3VLForConditionalGeneration(DeepStackModel, Qwen3VLForConditionalGeneration, GenerationMixin):
    """`Qwen3VLForConditionalGeneration` that prunes the vision tokens of images and of the frames of videos."""


class MMTokQwen3VLMoeForConditionalGeneration(DeepStackModel, Qwen3VLMoeForConditionalGeneration, GenerationMixin):
    """`Qwen3VLMoeForConditionalGeneration` that prunes the vision tokens of images and of the frames of videos."""
