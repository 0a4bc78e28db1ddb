"""The images of a batch behind the vision tower: what a model family supplies, and what a selection needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .image_tokens import ImageTokens


@dataclass(frozen=True)
class EncodedImages:
    """The vision tokens of I images; image i has T_i of them in the prompt.

    Attributes:
        projected: for each image (T_i, hidden), vision tokens behind the projector as they stand in the prompt.
        raw: for each image (crops x tokens, d_raw), vision tokens before the projector, crops one after another.
        layouts: for each image where its T_i tokens come from; on the CPU.
        candidates: for each image (T_i,) bool on the CPU, False for tokens of padding; None where nobody asked.
        before_unpadding: the same images with all tokens of all crops, crops one after another and no row separators;
            None for a family whose prompts hold all of them.
        outputs: what the stock model's `get_image_features` returned; None for images that were put together anew.
    """

    projected: Sequence[torch.Tensor]
    raw: Sequence[torch.Tensor]
    layouts: Sequence[ImageTokens]
    candidates: Sequence[torch.Tensor] | None = None
    before_unpadding: EncodedImages | None = None
    outputs: Any = None

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
        )

    @property
    def lengths(self) -> list[int]:
        """Vision tokens of each image."""
        return [len(tokens) for tokens in self.projected]
