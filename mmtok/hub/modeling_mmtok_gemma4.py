"""Gemma 4 that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Where the tokens of an image see each other
in both directions, those that were kept still do. Videos and sounds are not pruned. Weights, their names and everything
behind the prompt are `Gemma4ForConditionalGeneration`'s own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Gemma4ForConditionalGeneration, GenerationMixin

from .images import EncodedVision, Geometry, Layout, encode, require_pixels
from .options import PruningOptions
from .pruned_model import PrunedModel
from .releases import projected_features


class Gemma4Geometry(Geometry):
    """An image is one crop of its own shape. A size is (rows, columns) of tokens, each of a square of patches."""

    @property
    def side(self) -> int:
        """Pixels along the side of a vision token."""
        return int(self.config.vision_config.patch_size) * int(self.config.vision_config.pooling_kernel_size)

    @property
    def largest_image(self) -> Sequence[int]:
        """Of the most tokens that the processor makes by default."""
        return (14, 20)

    @property
    def examples(self) -> Mapping[str, Sequence[int]]:
        return {f"{rows} x {columns} tokens": (rows, columns) for rows, columns in ((16, 16), (14, 20), (10, 26))}

    @property
    def about(self) -> str:
        return (
            "An image is one crop of about 280 vision tokens, or as many as the processor is asked for, in its shape."
        )

    @staticmethod
    def require_supported(config: Mapping[str, Any]) -> None:
        """Raises a ValueError for a language model that looks the ids of the prompt up in each of its layers."""
        if (config.get("text_config") or {}).get("hidden_size_per_layer_input"):
            raise ValueError(
                "text_config.hidden_size_per_layer_input in config.json: each layer of such a language model reads the "
                "ids of the prompt, also of images, beside their features. Give a checkpoint without, such as 26B or "
                "31B."
            )

    def pictures(self, inputs: Mapping[str, Any]) -> list[tuple[list[torch.Tensor], tuple[int, int]]]:
        patch, drawn = int(self.config.vision_config.patch_size), []
        for patches, positions in zip(inputs["pixel_values"], inputs["image_position_ids"], strict=True):
            columns, rows = (positions.amax(0) + 1).tolist()
            own = patches[(positions >= 0).all(-1)].view(rows, columns, patch, patch, -1)
            drawn.append(([own.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)], (0, 0)))
        return drawn

    def layout(self, size: Sequence[int], tiled: bool = True) -> Layout:
        rows, columns = size
        source = torch.arange(rows * columns)
        return Layout.of(source, crops=1, tokens_per_crop=rows * columns, columns=columns)


class MMTokGemma4ForConditionalGeneration(PrunedModel, Gemma4ForConditionalGeneration, GenerationMixin):
    """`Gemma4ForConditionalGeneration` that prunes the vision tokens of images."""

    sees_both_ways = True
    geometry_class = Gemma4Geometry
    image_arguments = ("pixel_values", "image_position_ids")

    def encode(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """One crop an image; what a vision token is before the projector is already pooled.

        Args:
            inputs: `pixel_values` (images, patches, values) and `image_position_ids` (images, patches, 2), column and
                row of each patch, -1 for fillers.

        Raises:
            ValueError: pixels that are not patches, NaN or infinite; positions that do not belong to them; a model that
                reads the ids of the prompt in each layer.
        """
        pixels, positions = inputs["pixel_values"], inputs.get("image_position_ids")
        self.geometry.require_supported({"text_config": vars(self.config.get_text_config())})
        require_pixels(pixels, ("images, patches, values",))
        if not isinstance(positions, torch.Tensor) or positions.shape != (*pixels.shape[:2], 2):
            shape = tuple(positions.shape) if isinstance(positions, torch.Tensor) else type(positions).__name__
            raise ValueError(
                f"image_position_ids is {shape}: give {(*pixels.shape[:2], 2)}, column and row of each patch, as the "
                "processor does."
            )
        # Read here, so that nothing waits for the vision tower later.
        side = int(self.config.vision_config.pooling_kernel_size)
        layouts = [
            self.geometry.layout((row // side, column // side)) for column, row in (positions.amax(1) + 1).tolist()
        ]
        outputs, raw, _ = encode(self, self.model.embed_vision, inputs)
        raws = raw.split([len(layout.source) for layout in layouts])
        return EncodedVision(projected_features(outputs), raws, layouts, outputs=outputs)
