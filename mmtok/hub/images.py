"""The images and videos of a batch: where their vision tokens come from, and these tokens behind the vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class ImageTokens:
    """Where the T vision tokens of one image or video come from, in prompt order; int64 on the CPU.

    Attributes:
        source: (T,) index of the token among the image's crops x tokens before packing; -1 for a row separator.
        crop: (T,) number of the crop, 0 for the whole image, or of the frame; -1 for a row separator.
        row, column: (T,) place in the crop's grid of patches; -1 where there is none.
        tokens_before_packing: crops x tokens, which `source` counts in.
        is_video: whether the crops are the frames of a video.
        seconds: between two frames, a number as the caller gave it; None where nobody did.
    """

    source: torch.Tensor
    crop: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    tokens_before_packing: int
    is_video: bool = False
    seconds: Any = None

    @classmethod
    def of(
        cls,
        source: torch.Tensor,
        *,
        crops: int,
        tokens_per_crop: int,
        columns: int,
        is_video: bool = False,
        seconds: Any = None,
    ) -> ImageTokens:
        """Reads crop, row and column off `source`.

        Args:
            source: (T,) int64, -1 for a row separator.
            crops: number of crops of the image.
            tokens_per_crop: tokens of a crop before packing.
            columns: patches in a row of a crop, 0 where the tokens form no grid.
            is_video, seconds: see the attributes.
        """
        separator = source < 0
        position = source % tokens_per_crop
        if columns:
            # Tokens in front of the grid, such as CLIP's CLS, have no place in it.
            position = position - tokens_per_crop % columns
        placed = ~separator & (position >= 0) & bool(columns)
        width = max(columns, 1)
        return cls(
            source,
            torch.where(separator, -1, source // tokens_per_crop),
            torch.where(placed, position // width, -1),
            torch.where(placed, position % width, -1),
            crops * tokens_per_crop,
            is_video,
            seconds,
        )


def padding_bands(pixels: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Finds the bands of one constant colour at the borders of images: rows and columns of patches that are padding.

    Args:
        pixels: (N, channels, height, width).
        patch_size: pixels along the side of a patch.

    Returns:
        (N, height // patch_size, width // patch_size) bool, True for padding. An image of one colour has none:
        something of it has to be kept.
    """
    rows = _constant_edges(pixels, patch_size)
    columns = _constant_edges(pixels.transpose(-1, -2), patch_size)
    bands = rows[:, :, None] | columns[:, None, :]
    return bands & ~bands.flatten(1).all(1)[:, None, None]


def _constant_edges(pixels: torch.Tensor, patch_size: int) -> torch.Tensor:
    """(N, height // patch_size) bool: bands of rows, from either border inwards, that have the border's one colour."""
    number, channels, height, width = pixels.shape
    bands = height // patch_size
    stripes = pixels[:, :, : bands * patch_size].reshape(number, channels, bands, patch_size * width)
    low, high = stripes.amin(-1), stripes.amax(-1)

    def from_border(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        same = (low == high) & (low == low[..., :1])
        return same.all(1).long().cumprod(-1).bool()

    return from_border(low, high) | from_border(low.flip(-1), high.flip(-1)).flip(-1)


@dataclass(frozen=True)
class EncodedVision:
    """The vision tokens of I images and videos; number i has T_i of them in the prompt.

    A video is one item whose crops are its frames; what is said of an image holds for it too.

    Attributes:
        projected: for each image (T_i, hidden), vision tokens behind the projector as they stand in the prompt.
        raw: for each image (crops x tokens, d_raw), vision tokens before the projector, crops one after another.
        layouts: for each image where its T_i tokens come from; on the CPU.
        candidates: for each image (T_i,) bool on the CPU, False for tokens of padding; None where nobody asked.
        before_unpadding: the same images with all tokens of all crops, crops one after another and no row separators;
            None for a family whose prompts hold all of them.
        outputs: what the stock model's `get_image_features` returned; None for images that were put together anew.
        video_outputs: the same of `get_video_features`.
        deepstack: for each image (T_i, hidden) of each DeepStack layer; None for a family that has none.
    """

    projected: Sequence[torch.Tensor]
    raw: Sequence[torch.Tensor]
    layouts: Sequence[ImageTokens]
    candidates: Sequence[torch.Tensor] | None = None
    before_unpadding: EncodedVision | None = None
    outputs: Any = None
    video_outputs: Any = None
    deepstack: Sequence[Sequence[torch.Tensor]] | None = None

    @classmethod
    def joined(cls, images: EncodedVision, videos: EncodedVision) -> EncodedVision:
        """The images and then the videos of one call. No token of a video is padding."""
        candidates, deepstack = images.candidates, None
        if candidates is not None:
            candidates = [*candidates, *(torch.ones(length, dtype=torch.bool) for length in videos.lengths)]
        if images.deepstack is not None and videos.deepstack is not None:
            deepstack = [*images.deepstack, *videos.deepstack]
        return cls(
            [*images.projected, *videos.projected],
            [*images.raw, *videos.raw],
            [*images.layouts, *videos.layouts],
            candidates,
            outputs=images.outputs,
            video_outputs=videos.video_outputs,
            deepstack=deepstack,
        )

    def __len__(self) -> int:
        return len(self.projected)

    def __getitem__(self, images: int | slice | Sequence[int]) -> EncodedVision:
        """The images of these numbers, in this order; a number may come more than once.

        Raises:
            IndexError: a number that no image has.
        """
        if isinstance(images, int):
            images = [images]
        every = list(range(len(self)))
        numbers = every[images] if isinstance(images, slice) else [every[number] for number in images]
        return EncodedVision(
            [self.projected[number] for number in numbers],
            [self.raw[number] for number in numbers],
            [self.layouts[number] for number in numbers],
            None if self.candidates is None else [self.candidates[number] for number in numbers],
            None if self.before_unpadding is None else self.before_unpadding[numbers],
            deepstack=None if self.deepstack is None else [self.deepstack[number] for number in numbers],
        )

    def ordered(self, numbers: Sequence[int]) -> EncodedVision:
        """The same images and videos in another order."""
        if list(numbers) == list(range(len(self))):
            return self
        return replace(self[numbers], outputs=self.outputs, video_outputs=self.video_outputs)

    def projected_of(self, *, videos: bool) -> list[torch.Tensor]:
        """The projected tokens of each video, or else of each image."""
        return [tokens for tokens, video in zip(self.projected, self.videos, strict=True) if video == videos]

    @property
    def videos(self) -> list[bool]:
        """Which of them are videos."""
        return [layout.is_video for layout in self.layouts]

    @property
    def lengths(self) -> list[int]:
        """Vision tokens of each image."""
        return [len(tokens) for tokens in self.projected]
