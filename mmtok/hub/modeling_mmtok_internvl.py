"""InternVL 3 and 3.5 that read only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Weights, their names and everything behind
the prompt are `InternVLForConditionalGeneration`'s own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationMixin, InternVLForConditionalGeneration

from .images import EncodedVision, Geometry, Layout, encode, require_pixels
from .options import PruningOptions
from .prompt import Prompt
from .pruned_model import PrunedModel
from .releases import projected_features


class InternVLGeometry(Geometry):
    """An image is its tiles and, behind them, the whole image, which is crop 0. A size is (crops,).

    How an image is cut is not known from its pixels, but that is not asked for: each crop is a grid of its own.
    """

    @property
    def tokens_per_crop(self) -> int:
        vision = self.config.vision_config
        side = vision.image_size[0] // vision.patch_size[0]
        return int(side * self.config.downsample_ratio) ** 2

    @property
    def largest_image(self) -> Sequence[int]:
        """Of a processor that cuts at most 12 tiles, as the published ones do."""
        return (13,)

    @property
    def examples(self) -> Mapping[str, Sequence[int]]:
        return {f"{count} crop{'s' if count > 1 else ''}": (count,) for count in (1, 3, 5, 7, 13)}

    @property
    def about(self) -> str:
        return (
            f"One crop is {self.tokens_per_crop} vision tokens. An image is one crop, or its tiles, as many as the "
            "processor may cut, and itself."
        )

    def columns(self, tokens: int) -> int:
        return math.isqrt(tokens)

    def pictures(self, inputs: Mapping[str, Any]) -> list[tuple[list[torch.Tensor], tuple[int, int]]]:
        """The whole image and its tiles; how these were cut is the way in which together they look most like it."""
        marks = torch.nn.functional.pad(inputs["input_ids"] == self.config.image_token_id, (0, 1)).flatten().cpu()
        kinds, counts = marks.unique_consecutive(return_counts=True)
        drawn = []
        for own in inputs["pixel_values"].split((counts[kinds] // self.tokens_per_crop).tolist()):
            *tiles, whole = own
            drawn.append(([whole, *tiles], _likeliest_grid(own[:-1], whole) if tiles else (0, 0)))
        return drawn

    def crops(self, size: Sequence[int], tiled: bool = True) -> int:
        return size[0]

    def layout(self, size: Sequence[int], tiled: bool = True) -> Layout:
        return self.crops_layout(size[0], self.tokens_per_crop)

    def crops_layout(self, crops: int, tokens: int) -> Layout:
        """Where the tokens of an image of so many crops, each of so many tokens, come from."""
        layout = self.crop_layout(tokens, crops)
        return replace(layout, crop=(layout.crop + 1) % crops)


def _likeliest_grid(tiles: torch.Tensor, whole: torch.Tensor) -> tuple[int, int]:
    """Rows and columns in which the tiles, put together and shrunk, look like the whole image."""

    def difference(grid: tuple[int, int]) -> float:
        joined = tiles.float().unflatten(0, grid).permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)
        shrunk = torch.nn.functional.interpolate(joined[None], whole.shape[-2:], mode="area")[0]
        return float((shrunk - whole.float()).square().mean())

    grids = [(rows, len(tiles) // rows) for rows in range(1, len(tiles) + 1) if len(tiles) % rows == 0]
    return min(grids, key=difference)


class MMTokInternVLForConditionalGeneration(PrunedModel, InternVLForConditionalGeneration, GenerationMixin):
    """`InternVLForConditionalGeneration` that prunes the vision tokens of images; frames of a video are images."""

    geometry_class = InternVLGeometry
    geometry: InternVLGeometry
    image_arguments = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")
    towers = ("internvl_vision",)

    def encode_images(self, *, tiles: Sequence[int] | None = None, **image_inputs: Any) -> EncodedVision:
        """As `PrunedModel.encode_images`, one item for each image where `tiles` says how many crops it has.

        Without, there is one item for each crop, and the prompt says which of them form an image.

        Args:
            tiles: the number of crops of each image, the whole image among them.
            **image_inputs: `pixel_values` (crops, channels, height, width) and further arguments of `forward`.

        Raises:
            ValueError: numbers that do not add up to the crops; as `PrunedModel.encode_images`.
        """
        encoded = super().encode_images(**image_inputs)
        if tiles is None:
            return encoded
        counts = [int(count) for count in tiles]
        if sum(counts) != len(encoded) or min(counts) < 1:
            raise ValueError(
                f"tiles is {counts}, and pixel_values holds {len(encoded)} crops: give the number of crops of each "
                "image."
            )
        return self._joined(encoded, counts)

    def encode(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """One item for each crop of all images.

        Args:
            inputs: `pixel_values` (crops, channels, height, width) and further arguments of `get_image_features`.

        Raises:
            ValueError: pixels that are not images, NaN or infinite.
        """
        require_pixels(inputs["pixel_values"], ("crops, channels, height, width",))
        outputs, raw, _ = encode(self, self.model.multi_modal_projector, inputs)
        projected = projected_features(outputs)
        layouts = [self.geometry.crops_layout(1, len(tokens)) for tokens in projected]
        return EncodedVision(projected, raw.unbind(), layouts, outputs=outputs)

    def arrange(self, prompt: Prompt, encoded: EncodedVision) -> tuple[Prompt, EncodedVision]:
        """The crops whose tokens stand in one run of the prompt are an image.

        Raises:
            ValueError: tokens and crops that do not belong together.
        """
        prompt.rows_of_images(encoded.lengths)
        tiles, waiting = [], list(encoded.lengths)
        for row in prompt.image_mask:
            kinds, counts = row.unique_consecutive(return_counts=True)
            for run in counts[kinds].tolist():
                count, left = 0, run
                while left > 0:
                    left -= waiting.pop(0)
                    count += 1
                if left < 0:
                    raise ValueError(
                        f"A run of {run} image tokens ends within a crop: let the tokens of a crop stand together."
                    )
                tiles.append(count)
        return prompt, self._joined(encoded, tiles)

    def _joined(self, encoded: EncodedVision, tiles: Sequence[int]) -> EncodedVision:
        """One item for each image of so many crops."""
        if all(count == 1 for count in tiles):
            return encoded
        ends = torch.tensor(tiles).cumsum(0).tolist()
        parts = [encoded[end - count : end] for end, count in zip(ends, tiles, strict=True)]
        counts = [sum(part.lengths) // self.geometry.tokens_per_crop for part in parts]
        return replace(
            encoded,
            projected=[torch.cat(list(part.projected)) for part in parts],
            raw=[torch.cat(list(part.raw)) for part in parts],
            layouts=[self.geometry.crops_layout(count, self.geometry.tokens_per_crop) for count in counts],
        )
