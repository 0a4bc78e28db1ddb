"""The crops of a batch of images and their budgets. All of it is known to the host, without features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .image_tokens import ImageTokens
from .options import PruningOptions

# Entries of the coverage matrices that are held at once: 256 MiB in float32.
_ENTRIES_AT_ONCE = 2**26


@dataclass(frozen=True)
class Crop:
    """A crop of an image with its budget, or all crops of an image that share theirs, as if they were one.

    Attributes:
        image: number of the image.
        tokens: (n,) int64 on the CPU, the crop's tokens among the image's.
        budget: tokens to keep.
        candidates: (n,) bool on the CPU, tokens that may be kept.
    """

    image: int
    tokens: torch.Tensor
    budget: int
    candidates: torch.Tensor

    @property
    def picks(self) -> int:
        """Tokens that are kept: the budget, or all that may be."""
        return min(self.budget, int(self.candidates.sum()))


@dataclass(frozen=True)
class CropTables:
    """C crops side by side, filled up to the largest; int64 and bool, (C, width) on the CPU.

    Attributes:
        tokens: place of each token among the vision tokens of all images.
        sources: place of each token among the tokens of all crops before packing.
        real: False for fillers.
        candidates: tokens that may be kept.
    """

    tokens: torch.Tensor
    sources: torch.Tensor
    real: torch.Tensor
    candidates: torch.Tensor

    @classmethod
    def of(cls, crops: Sequence[Crop], layouts: Sequence[ImageTokens]) -> CropTables:
        """Lays out some crops of a batch's images."""
        width = max(len(crop.tokens) for crop in crops)
        first_token = _offsets([len(layout.source) for layout in layouts])
        first_source = _offsets([layout.tokens_before_packing for layout in layouts])

        def filled(values: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.stack([torch.nn.functional.pad(each, (0, width - len(each))) for each in values])

        return cls(
            filled([crop.tokens + first_token[crop.image] for crop in crops]),
            filled([layouts[crop.image].source[crop.tokens] + first_source[crop.image] for crop in crops]),
            filled([torch.ones_like(crop.candidates) for crop in crops]),
            filled([crop.candidates for crop in crops]),
        )


def crops_of(
    layouts: Sequence[ImageTokens], candidates: Sequence[torch.Tensor] | None, options: PruningOptions
) -> list[Crop]:
    """The crops of a batch of images, images one after another.

    Args:
        layouts: where the tokens of each image come from.
        candidates: for each image (T,) bool on the CPU, tokens that may be kept; None for all.
        options: the budget and its scope. Frames of a video never share theirs.
    """
    crops: list[Crop] = []
    for number, layout in enumerate(layouts):
        allowed = torch.ones_like(layout.crop, dtype=torch.bool) if candidates is None else candidates[number]
        own = []
        for crop in layout.crop[layout.crop >= 0].unique():
            tokens = torch.nonzero(layout.crop == crop)[:, 0]
            own.append(Crop(number, tokens, options.budget_of(len(tokens)), allowed[tokens]))
        if options.budget_scope == "image" and not layout.is_video and own:
            tokens = torch.nonzero(layout.crop >= 0)[:, 0]
            own = [Crop(number, tokens, sum(crop.budget for crop in own), allowed[tokens])]
        crops += own
    return crops


def chunks_of(crops: Sequence[Crop], text_rows: int) -> list[list[Crop]]:
    """Crops in runs whose coverage matrices fit into memory together."""
    chunks: list[list[Crop]] = []
    width = 0
    for crop in crops:
        width = max(width, len(crop.tokens))
        if chunks and (len(chunks[-1]) + 1) * (text_rows + width) * width <= _ENTRIES_AT_ONCE:
            chunks[-1].append(crop)
        else:
            chunks.append([crop])
            width = len(crop.tokens)
    return chunks


def _offsets(lengths: Sequence[int]) -> list[int]:
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    return offsets
