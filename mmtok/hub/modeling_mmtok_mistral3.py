"""Mistral 3 that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. The token that ends a row of an image goes
with the last token of its row. Weights, their names and everything behind the prompt are
`Mistral3ForConditionalGeneration`'s own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationMixin, Mistral3ForConditionalGeneration

from .devices import to_device
from .images import EncodedVision, Geometry, Layout, checked_sizes, encode, require_pixels
from .options import PruningOptions
from .prompt import Prompt
from .pruned_model import PrunedModel
from .releases import projected_features


class Mistral3Geometry(Geometry):
    """An image of any size is one crop; sizes are (height, width) in pixels. A separator stands between two rows."""

    @property
    def side(self) -> int:
        """Pixels along the side of a vision token."""
        return int(self.config.vision_config.patch_size) * int(self.config.spatial_merge_size)

    @property
    def examples(self) -> Mapping[str, Sequence[int]]:
        sizes = ((16, 16), (24, 32), (36, 48), (55, 55))
        return {f"{columns * self.side} x {rows * self.side} pixels": (rows * self.side, columns * self.side)
                for rows, columns in sizes}  # fmt: skip

    @property
    def about(self) -> str:
        return (
            f"An image is one crop of its own size: a vision token for each {self.side} x {self.side} pixels.\n"
            "A number keeps as many tokens of every image, a share as large a part."
        )

    def pictures(self, inputs: Mapping[str, Any]) -> list[tuple[list[torch.Tensor], tuple[int, int]]]:
        sizes = [[side // self.side * self.side for side in size] for size in checked_sizes(inputs["image_sizes"])]
        pixels = inputs["pixel_values"]
        return [([own[:, :rows, :columns]], (0, 0)) for own, (rows, columns) in zip(pixels, sizes, strict=True)]

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of vision tokens."""
        return size[0] // self.side, size[1] // self.side

    def layout(self, size: Sequence[int], tiled: bool = True) -> Layout:
        rows, _ = self.grid(size)
        return self.rows_layout(size, [True] * (rows - 1))

    def rows_layout(self, size: Sequence[int], ended: Sequence[bool]) -> Layout:
        """Where the tokens of an image come from, of whose rows but the last these end with a separator."""
        rows, columns = self.grid(size)
        separators = [row for row, there in enumerate(ended) if there]
        source, start = [], 0
        for row in separators:
            source += [*range(start, (row + 1) * columns), -1]
            start = (row + 1) * columns
        source += range(start, rows * columns)
        tokens = rows * columns
        return Layout.of(torch.tensor(source), crops=1, tokens_per_crop=tokens, columns=columns, ends_rows=True)


class MMTokMistral3ForConditionalGeneration(PrunedModel, Mistral3ForConditionalGeneration, GenerationMixin):
    """`Mistral3ForConditionalGeneration` that prunes the vision tokens of images."""

    geometry_class = Mistral3Geometry
    geometry: Mistral3Geometry
    image_arguments = ("pixel_values", "image_sizes", "vision_feature_layer")
    towers = ("pixtral",)

    def encode(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """One crop an image, a grid of its own size.

        A vision token is projected from a square of patches; what it is before the projector is the mean of those.
        Images are filled up at the right and below, and stock reads none of that.

        Args:
            inputs: `pixel_values` (images, channels, height, width) and `image_sizes` (images, 2).

        Raises:
            ValueError: pixels that are not images, NaN or infinite; sizes that do not belong to them.
        """
        pixels = inputs["pixel_values"]
        require_pixels(pixels, ("images, channels, height, width",))
        # Read here, so that nothing waits for the vision tower later.
        sizes = checked_sizes(inputs.get("image_sizes"))
        if len(sizes) != len(pixels):
            raise ValueError(
                f"image_sizes has {len(sizes)} rows, but pixel_values holds {len(pixels)} images: give one (height, "
                "width) for each image."
            )
        for size in sizes:
            if any(not self.geometry.side <= own <= most for own, most in zip(size, pixels.shape[2:], strict=True)):
                raise ValueError(
                    f"image_sizes contains {size}, and pixel_values has images of {tuple(pixels.shape[2:])}: give "
                    f"(height, width) of each image, {self.geometry.side} pixels at least, as the processor does."
                )
        inputs = {**inputs, "image_sizes": torch.tensor(sizes)}
        outputs, patches, _ = encode(self, self.model.multi_modal_projector, inputs)
        merged, patch = int(self.config.spatial_merge_size), int(self.config.vision_config.patch_size)
        grids = [(height // patch, width // patch) for height, width in sizes]
        raws = []
        for own, (rows, columns) in zip(patches.split([rows * columns for rows, columns in grids]), grids, strict=True):
            squares = own.view(rows, columns, -1)[: rows // merged * merged, : columns // merged * merged]
            squares = squares.unflatten(1, (-1, merged)).unflatten(0, (-1, merged))
            raws.append(squares.mean((1, 3)).flatten(0, 1))
        layouts = [self.geometry.rows_layout(size, ()) for size in sizes]
        return EncodedVision(projected_features(outputs), raws, layouts, outputs=outputs)

    def arrange(self, prompt: Prompt, encoded: EncodedVision) -> tuple[Prompt, EncodedVision]:
        """The token of the prompt that stands between two rows of an image belongs to the image."""
        if any(bool((layout.source < 0).any()) for layout in encoded.layouts):
            return prompt, encoded
        prompt.rows_of_images(encoded.lengths)
        places = prompt.image_mask.flatten().nonzero()[:, 0]
        image_mask = prompt.image_mask.flatten().clone()
        projected, layouts = [], []
        for tokens, layout, own in zip(encoded.projected, encoded.layouts, places.split(encoded.lengths), strict=True):
            rows, columns = (int(part.max()) + 1 for part in (layout.row, layout.column))
            ends = own.view(rows, columns)[:, -1]
            # One token stands between this row and the next.
            between = own.view(rows, columns)[1:, 0] - ends[:-1] == 2
            ended = (ends[:-1] + 1)[between]
            image_mask[ended] = True
            size = (rows * self.geometry.side, columns * self.geometry.side)
            layouts.append(self.geometry.rows_layout(size, between.tolist()))
            separator = layouts[-1].source < 0
            filled = tokens.new_empty(len(separator), tokens.shape[1])
            filled[to_device(~separator, tokens.device)] = tokens
            at = to_device(ended, prompt.device)
            if prompt.inputs_embeds is not None:
                between_rows = prompt.inputs_embeds.flatten(0, 1)[at]
            else:
                assert prompt.input_ids is not None, "Prompt.read lets no prompt pass that has neither"
                between_rows = self.get_input_embeddings()(prompt.input_ids.flatten()[at])
            filled[to_device(separator, tokens.device)] = between_rows.to(tokens)
            projected.append(filled)
        prompt = replace(prompt, image_mask=image_mask.view(prompt.image_mask.shape))
        return prompt, replace(encoded, projected=projected, layouts=layouts)
