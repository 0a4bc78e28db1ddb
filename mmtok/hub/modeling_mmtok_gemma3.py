"""Gemma 3 that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. The tokens of an image see each other in
both directions; those that were kept still do. Weights, their names and everything behind the prompt are
`Gemma3ForConditionalGeneration`'s own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers import Gemma3ForConditionalGeneration, GenerationMixin

from .images import EncodedVision, Geometry, encode, require_pixels
from .options import PruningOptions
from .pruned_model import PrunedModel
from .releases import projected_features


class Gemma3Geometry(Geometry):
    """An image is one crop, a grid whose tokens are pooled; crops of "pan and scan" are images of their own."""

    @property
    def tokens_per_crop(self) -> int:
        return int(self.config.mm_tokens_per_image)

    def columns(self, tokens: int) -> int:
        return math.isqrt(tokens)


class MMTokGemma3ForConditionalGeneration(PrunedModel, Gemma3ForConditionalGeneration, GenerationMixin):
    """`Gemma3ForConditionalGeneration` that prunes the vision tokens of images."""

    sees_both_ways = True
    geometry_class = Gemma3Geometry
    image_arguments = ("pixel_values",)
    towers = ("siglip_vision_model",)

    def encode(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """One crop an image.

        The projector pools squares of patches; what a vision token is before the projector is the same mean.

        Args:
            inputs: `pixel_values` (images, channels, height, width).

        Raises:
            ValueError: pixels that are not images, NaN or infinite.
        """
        require_pixels(inputs["pixel_values"], ("images, channels, height, width",))
        projector = self.model.multi_modal_projector
        outputs, patches, _ = encode(self, projector, inputs)
        side = projector.patches_per_image
        raw = projector.avg_pool(patches.transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)
        projected = projected_features(outputs)
        layouts = [self.geometry.crop_layout(len(tokens)) for tokens in projected]
        return EncodedVision(projected, raw.unbind(), layouts, outputs=outputs)
