"""The images and videos of a batch behind the vision tower: what a family supplies, and what a selection needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .image_tokens import ImageTokens


@dataclass(frozen=True)
class EncodedImages:
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
    before_unpadding: EncodedImages | None = None
    outputs: Any = None
    video_outputs: Any = None
    deepstack: Sequence[Sequence[torch.Tensor]] | None = None

    @classmethod
    def joined(cls, images: EncodedImages, videos: EncodedImages) -> EncodedImages:
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

    def __getitem__(self, images: int | slice | Sequence[int]) -> EncodedImages:
        """The images of these numbers, in this order; a number may come more than once.

        Raises:
            IndexError: a number that no image has.
        """
        if isinstance(images, int):
            images = [images]
        every = list(range(len(self)))
        numbers = every[images] if isinstance(images, slice) else [every[number] for number in images]
        return EncodedImages(
            [self.projected[number] for number in numbers],
            [self.raw[number] for number in numbers],
            [self.layouts[number] for number in numbers],
            None if self.candidates is None else [self.candidates[number] for number in numbers],
            None if self.before_unpadding is None else self.before_unpadding[numbers],
            deepstack=None if self.deepstack is None else [self.deepstack[number] for number in numbers],
        )

    def ordered(self, numbers: Sequence[int]) -> EncodedImages:
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
