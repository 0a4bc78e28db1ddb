"""What the plugin asks of the method layer: where the tokens of an image or video come from, and the selection."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from mmtok.hub.images import EncodedVision, ImageTokens
from mmtok.hub.llava_images import (
    candidates_outside,
    crop_count,
    llava_layout,
    llava_next_layouts,
    padding_of,
)
from mmtok.hub.onevision_images import (
    llava_onevision_layouts,
    llava_onevision_video_layout,
    packed_images,
    whole_candidates,
)
from mmtok.hub.options import PruningOptions
from mmtok.hub.qwen_images import checked_grids, grid_layout
from mmtok.hub.selection import crops_of, select


class Layout:
    """Where the tokens of an image come from, known without features or weights; an image of one crop."""

    # Options that mean nothing for the family.
    refused_options: tuple[str, ...] = ()

    def __init__(self, config: Any) -> None:
        self.config = config

    def tiled(self, images: int) -> bool:
        """Whether each image of a prompt with so many is seen in tiles, where the family has tiles."""
        return True

    def crops(self, size: Sequence[int], tiled: bool = True) -> int:
        """Crops of an image."""
        return 1

    def tokens(self, size: Sequence[int], tiled: bool = True) -> ImageTokens:
        """Where the tokens of an image come from."""
        raise NotImplementedError

    def candidates(self, pixels: torch.Tensor, size: Sequence[int], tiled: bool = True) -> torch.Tensor:
        """(T,) bool on the CPU: tokens outside of the bands of padding of (crops, channels, h, w) pixels."""
        raise NotImplementedError


class LlavaLayout(Layout):
    """A LLaVA-1.5 image; sizes are (height, width) in pixels."""

    @property
    def tokens_per_crop(self) -> int:
        """Tokens of a crop in front of the projector."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        first = vision.model_type == "clip_vision_model"  # CLS
        return side * side + first - (self.config.vision_feature_select_strategy == "default")

    @property
    def largest_image(self) -> Sequence[int]:
        """The size of an image of the most tokens."""
        return (self.config.vision_config.image_size,) * 2

    def tokens(self, size: Sequence[int], tiled: bool = True) -> ImageTokens:
        return llava_layout(self.config, self.tokens_per_crop)

    def candidates(self, pixels: torch.Tensor, size: Sequence[int], tiled: bool = True) -> torch.Tensor:
        candidates = candidates_outside([self.tokens(size)], [padding_of(self.config, pixels)])
        assert candidates is not None, "there is padding to look at"
        return candidates[0]


class LlavaNextLayout(LlavaLayout):
    """A LLaVA-NeXT image; sizes are (height, width) in pixels."""

    # Reads nothing of its model but the configuration.
    pack_image_features = LlavaNextModel.pack_image_features

    @property
    def largest_image(self) -> Sequence[int]:
        return max(self.config.image_grid_pinpoints, key=lambda size: len(self.tokens(size).source))

    def crops(self, size: Sequence[int], tiled: bool = True) -> int:
        return crop_count(self.config, size)

    def tokens(self, size: Sequence[int], tiled: bool = True) -> ImageTokens:
        strategy = self.config.vision_feature_select_strategy
        return llava_next_layouts(self, [list(size)], self.tokens_per_crop, strategy)[0]


class LlavaOnevisionLayout(LlavaLayout):
    """A LLaVA-OneVision image or video; sizes are (height, width) in pixels, of a video (frames,)."""

    # Reads nothing of its model but the configuration.
    pack_image_features = LlavaOnevisionModel.pack_image_features

    @property
    def largest_image(self) -> Sequence[int]:
        """The largest mosaic that is not shrunk: one that is has fewer tokens."""
        patch, side = self.config.vision_config.patch_size, self.config.vision_config.image_size
        most = 1.1**2 * int(self.config.vision_aspect_ratio.removeprefix("anyres_max_")) * side**2
        fits = [(height, width) for height, width in self._filling_sizes(patch) if height * width <= most]
        largest = heapq.nlargest(32, fits, key=lambda size: size[0] * (size[1] + patch))
        return max(largest, key=lambda size: len(self.tokens(size).source))

    def _filling_sizes(self, patch: int) -> set[tuple[int, int]]:
        """Images of whole patches that fill one of the grids of tiles in one direction."""
        sizes = set()
        for height, width in self.config.image_grid_pinpoints:
            sizes |= {(rows, width) for rows in range(patch, height + 1, patch)}
            sizes |= {(height, columns) for columns in range(patch, width + 1, patch)}
        return sizes

    def tiled(self, images: int) -> bool:
        return images == 1

    def crops(self, size: Sequence[int], tiled: bool = True) -> int:
        if len(size) == 1:
            return size[0]
        return crop_count(self.config, size) if tiled else 1

    def tokens(self, size: Sequence[int], tiled: bool = True) -> ImageTokens:
        if len(size) == 1:
            side = math.ceil(self.config.vision_config.image_size // self.config.vision_config.patch_size / 2)
            return llava_onevision_video_layout(size[0], side * side)
        return llava_onevision_layouts(self, [list(size)], [self.crops(size, tiled)], self.tokens_per_crop)[0]

    def candidates(self, pixels: torch.Tensor, size: Sequence[int], tiled: bool = True) -> torch.Tensor:
        if len(size) == 1:  # no token of a video is padding
            return torch.ones_like(self.tokens(size).source, dtype=torch.bool)
        return whole_candidates(self.tokens(size, tiled), padding_of(self.config, pixels)[0])

    def packed(self, crops: torch.Tensor, separator: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """(crops, tokens, d) features -> (T, d) as they stand in the prompt, with (d,) as row separator."""
        return packed_images(self, crops, separator, [list(size)], [len(crops)])[0]


class QwenLayout(Layout):
    """An image of Qwen-VL, a grid of its own size, or a video of such.

    Sizes are (rows, columns) of tokens, of a video (frames, rows, columns, seconds of a frame or None).
    """

    refused_options = ("keep_image_newline", "exclude_padding", "select_before_unpadding")

    def tokens(self, size: Sequence[int], tiled: bool = True) -> ImageTokens:
        if len(size) == 2:
            return grid_layout(1, *size)
        return grid_layout(*size[:3], is_video=True, seconds=size[3])

    def kept_of_frames(self, size: Sequence[Any], options: PruningOptions) -> list[int]:
        """For an image, or for each frame of a video, how many vision tokens stay."""
        layout = self.tokens(size)
        if not options.prunes:
            return layout.crop.bincount().tolist()
        return [crop.picks for crop in crops_of([layout], None, options)]

    def sizes(self, grids: torch.Tensor, patches: int, *, prunes: bool, seconds: Any = None) -> list[tuple[Any, ...]]:
        """The sizes of images, or with `seconds` of videos.

        Args:
            grids: `image_grid_thw` or `video_grid_thw`, (n, 3): frames, rows and columns of patches.
            patches: of all of them.
            prunes: whether the request does.
            seconds: of videos, from one frame to the next, one number or None for each.

        Raises:
            ValueError: an image or frame has too many tokens to choose from.
        """
        merged, videos = self.config.vision_config.spatial_merge_size, seconds is not None
        if prunes:
            sizes = checked_grids(grids, merged, patches, videos=videos)
        else:
            sizes = [(frames, rows // merged, columns // merged) for frames, rows, columns in grids.tolist()]
        if not videos:
            return [size[1:] for size in sizes]
        return [(*size, None if own is None else float(own)) for size, own in zip(sizes, seconds, strict=True)]


def kept_count(image: ImageTokens, candidates: torch.Tensor | None, options: PruningOptions) -> int:
    """How many vision tokens of an image stay; none of it depends on the features.

    Args:
        image: where its tokens come from.
        candidates: (T,) bool, tokens that may be kept; None for all.
        options: the budget.
    """
    total = len(image.source)
    if not options.prunes:
        return total
    crops = crops_of([image], None if candidates is None else [candidates], options)
    picks, separators = sum(crop.picks for crop in crops), int((image.source < 0).sum())
    return picks + separators * (options.keep_image_newline or picks + separators == total)


def kept_flags(
    encoded: EncodedVision,
    texts: Sequence[Sequence[int]],
    embed: Callable[[torch.Tensor], torch.Tensor],
    options: PruningOptions,
) -> tuple[Sequence[torch.Tensor], list[int]]:
    """Selects the vision tokens of some images that share their options.

    Args:
        encoded: the images.
        texts: for each image the token ids of the text to cover.
        embed: (n,) ids -> (n, d) embeddings.
        options: of all of them.

    Returns:
        For each image (T,) bool on the features' device, and how many stay.
    """
    first, longest = encoded.projected[0], max(map(len, texts))
    mask = torch.arange(longest) < torch.tensor([len(text) for text in texts])[:, None]
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    ids[mask] = torch.tensor([each for text in texts for each in text], dtype=torch.long)
    if longest:
        rows = embed(ids.flatten().to(first.device)).view(len(texts), longest, -1)
    else:
        rows = first.new_zeros(len(texts), 0, first.shape[-1])
    kept = select(encoded, rows, mask, options)
    return kept.flags.split(encoded.lengths), kept.counts
