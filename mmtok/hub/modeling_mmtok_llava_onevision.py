"""LLaVA-OneVision that reads only the vision tokens which cover the question and the image.

A modification of transformers' model: `generate` and `forward` encode the images, keep the vision tokens that MMTok
selects (arXiv 2508.18264), and hand the shorter prompt to the stock class. Weights, their names and everything behind
the prompt are `LlavaOnevisionForConditionalGeneration`'s own.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from transformers import GenerationMixin, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel, image_size_to_num_patches

from .images import (
    EncodedVision,
    Geometry,
    Layout,
    by_image,
    candidates_outside,
    checked_sizes,
    encode,
    own_weights_loaded,
    require_crops,
    require_pixels,
)
from .options import PruningOptions
from .pruned_model import FIXED_GRID_TOWERS, PrunedModel
from .releases import projected_features


class LlavaOnevisionGeometry(Geometry):
    """A LLaVA-OneVision image: crop 0 is the whole image and crop 1 the mosaic of its tiles.

    Stock puts the tiles together, unpads the mosaic, shrinks it bilinearly where it is large, and ends each row with a
    separator. Without tiles, where a prompt has several images, there is crop 0 alone, with a separator at its end.

    The size of a video is (frames,). Its crops are the frames, pooled, with one separator behind the last.
    """

    # Reads nothing of its model but the configuration.
    pack_image_features = LlavaOnevisionModel.pack_image_features

    @property
    def largest_image(self) -> Sequence[int]:
        """The largest mosaic that is not shrunk: one that is has fewer tokens."""
        patch, side = self.config.vision_config.patch_size, self.config.vision_config.image_size
        most = 1.1**2 * int(self.config.vision_aspect_ratio.removeprefix("anyres_max_")) * side**2
        # Images of whole patches that fill one of the grids of tiles in one direction.
        filling = set()
        for height, width in self.config.image_grid_pinpoints:
            filling |= {(rows, width) for rows in range(patch, height + 1, patch)}
            filling |= {(height, columns) for columns in range(patch, width + 1, patch)}
        fits = [(height, width) for height, width in filling if height * width <= most]
        largest = heapq.nlargest(32, fits, key=lambda size: size[0] * (size[1] + patch))
        return max(largest, key=lambda size: len(self.layout(size).source))

    @property
    def examples(self) -> Mapping[str, Sequence[int]]:
        squares = sorted({height for height, width in self.config.image_grid_pinpoints if height == width})
        return {f"{side} x {side} pixels": (side, side) for side in (*squares[:3], *squares[3:][-1:])}

    @property
    def about(self) -> str:
        return (
            f"An image is two crops: the whole image, {self.tokens_per_crop} vision tokens, and the mosaic of its "
            "tiles, whose size is that of the image.\nA number keeps as many tokens of both, a share as large a part."
        )

    def tiled(self, images: int) -> bool:
        return images == 1

    def crops(self, size: Sequence[int], tiled: bool = True) -> int:
        if len(size) == 1:
            return size[0]
        side = self.config.vision_config.image_size
        return image_size_to_num_patches(list(size), self.config.image_grid_pinpoints, side) if tiled else 1

    def layout(self, size: Sequence[int], tiled: bool = True) -> Layout:
        if len(size) == 1:
            side = math.ceil(self.config.vision_config.image_size // self.config.vision_config.patch_size / 2)
            return self.video_layout(size[0], side * side)
        return self.layouts([size], [self.crops(size, tiled)], self.tokens_per_crop)[0]

    def layouts(self, sizes: Sequence[Sequence[int]], crops: Sequence[int], tokens: int) -> list[Layout]:
        """Where the tokens of images come from, of crops of so many in front of the projector; see `packed`."""
        separators = self.packed(torch.zeros(sum(crops), tokens, 1), torch.ones(1), sizes, crops)
        return [self._layout(each[:, 0] > 0.5, tokens) for each in separators]

    def packed(
        self,
        features: torch.Tensor,
        separator: torch.Tensor,
        sizes: Sequence[Sequence[int]],
        crops: Sequence[int],
    ) -> list[torch.Tensor]:
        """For each image (T, d), its tokens as they stand in the prompt.

        Args:
            features: (all crops, tokens, d), images one after another.
            separator: (d,), ends each row of a mosaic, or an image without tiles.
            sizes: (height, width) of each image in pixels.
            crops: number of crops of each image.
        """
        ratio, split = self.config.vision_aspect_ratio, features.split(list(crops))
        sizes = [list(size) for size in sizes]
        return self.pack_image_features(split, sizes, image_newline=separator, vision_aspect_ratio=ratio)[0]

    def _layout(self, separator: torch.Tensor, tokens: int) -> Layout:
        """Where the tokens of an image come from; `source` counts the packed tokens, separators included.

        Args:
            separator: (T,) bool, the row separators.
            tokens: of the whole image, which come first.
        """
        whole = self.crop_layout(tokens)
        place = torch.arange(len(separator))
        mosaic = place - tokens
        # Every row of the mosaic has its separator at the end, so the first one says how long the rows are. Of a very
        # long and narrow image stock leaves no row.
        width = int(separator[tokens:].long().argmax()) + 1 if bool(separator.any()) else 1
        none = separator[tokens:]

        def joined(first: torch.Tensor, behind: torch.Tensor) -> torch.Tensor:
            return torch.cat((first, behind[tokens:].masked_fill(none, -1)))

        return Layout(
            joined(whole.source, place),
            joined(whole.crop, torch.ones_like(place)),
            joined(whole.row, mosaic // width),
            joined(whole.column, mosaic % width),
            len(separator),
        )

    def video_layout(self, frames: int, tokens: int) -> Layout:
        """Where the tokens of a video come from: of each frame so many, pooled, and a separator at the end."""
        return Layout.of(
            torch.cat((torch.arange(frames * tokens), torch.tensor([-1]))),
            crops=frames,
            tokens_per_crop=tokens,
            columns=math.isqrt(tokens),
            is_video=True,
        )

    def candidates(self, pixels: torch.Tensor, size: Sequence[int], tiled: bool = True) -> torch.Tensor:
        """Of the whole image; stock takes the padding off the mosaic itself, and no token of a video is padding."""
        bands = self.bands(pixels)[: 0 if len(size) == 1 else 1]
        return candidates_outside(self.layout(size, tiled), bands)


class MMTokLlavaOnevisionForConditionalGeneration(PrunedModel, LlavaOnevisionForConditionalGeneration, GenerationMixin):
    """`LlavaOnevisionForConditionalGeneration` that prunes vision tokens: of images, their mosaics and frames."""

    geometry_class = LlavaOnevisionGeometry
    geometry: LlavaOnevisionGeometry
    towers = FIXED_GRID_TOWERS
    frame = "frame"
    image_arguments = (*PrunedModel.image_arguments, "batch_num_images")
    video_arguments = (
        "pixel_values_videos",
        "image_sizes_videos",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    )
    # The mosaic of tiles is put together and shrunk before anything can be selected: not before its padding is removed.
    own_options: ClassVar = {"padding": ("exclude",)}

    def encode(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """The whole image and the mosaic of its tiles.

        Stock's own packing does the same with the features before the projector, so that both sides agree.

        Args:
            inputs: `pixel_values` (crops, channels, height, width) or (images, crops, channels, height, width),
                `image_sizes` (images, 2), `batch_num_images` (samples,), and further arguments of `get_image_features`.

        Raises:
            ValueError: pixels that are not images, NaN or infinite; sizes or numbers that do not belong to them.
        """
        pixels, geometry, stock = inputs["pixel_values"], self.geometry, self.model
        require_pixels(pixels, ("crops, channels, height, width", "images, crops, channels, height, width"))
        # Read here, so that nothing waits for the vision tower later.
        sizes = checked_sizes(inputs.get("image_sizes"))
        tiled, numbers = [True] * len(sizes), inputs.get("batch_num_images")
        if numbers is not None:
            numbers = [int(number) for number in numbers]
            if sum(numbers) != len(sizes):
                raise ValueError(
                    f"batch_num_images is {numbers}, which makes {sum(numbers)} images, but image_sizes has "
                    f"{len(sizes)} rows: give the number of images of each sample."
                )
            # Only the one image of a sample has tiles.
            tiled = [geometry.tiled(number) for number in numbers for _ in range(number)]
        crops = list(map(geometry.crops, sizes, tiled))
        require_crops(pixels, crops)
        bands = by_image(geometry.bands(pixels), crops) if options.padding == "exclude" else None
        inputs = {**inputs, "image_sizes": torch.tensor(sizes)}
        # The outer get_image_features of transformers 4.57 does not know batch_num_images.
        outputs, raw, _ = encode(self, stock.multi_modal_projector, inputs, stock.get_image_features)
        layouts = geometry.layouts(sizes, crops, raw.shape[1])
        candidates = None
        if bands is not None:
            candidates = [candidates_outside(layout, own[:1]) for layout, own in zip(layouts, bands, strict=True)]
        raws = geometry.packed(raw, raw.new_zeros(raw.shape[-1]), sizes, crops)
        return EncodedVision(projected_features(outputs), raws, layouts, candidates, outputs=outputs)

    def encode_videos(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """One crop a frame.

        Stock pools the projected tokens of each frame, and ends the video with a separator. Its own pooling does the
        same with the features before the projector.

        Args:
            inputs: `pixel_values_videos` (videos, frames, channels, height, width) and further arguments of
                `get_video_features`.

        Raises:
            ValueError: pixels that are not videos, NaN or infinite.
        """
        pixels, stock = inputs["pixel_values_videos"], self.model
        require_pixels(pixels, ("videos, frames, channels, height, width",), "pixel_values_videos")
        videos, frames = pixels.shape[:2]
        # The method of transformers 4.57 has no defaults; the name of the pixels differs between releases.
        names = ("vision_feature_layer", "vision_feature_select_strategy")
        arguments = {name: inputs.get(name, getattr(self.config, name)) for name in names}
        get_features = partial(self.get_video_features, pixels)
        outputs, raw, _ = encode(self, stock.multi_modal_projector, arguments, get_features)
        pooled = stock.apply_pooling(raw)
        tokens = pooled.shape[1]
        projected = projected_features(outputs, "get_video_features")
        if len(projected[0]) == frames * tokens:
            # Before 5.23 the separator is put behind the features by stock's forward.
            with own_weights_loaded(stock):
                separator = stock.image_newline[None].to(projected[0])
            projected = [torch.cat((own, separator)) for own in projected]
        layout = self.geometry.video_layout(frames, tokens)
        raws = pooled.reshape(videos, frames * tokens, -1).unbind()
        return EncodedVision(projected, raws, [layout] * videos, video_outputs=outputs)
