"""What budgets are spent on: crops, or pictures whose crops share a budget. All of it is known to the host.

A unit is what one budget is spent on: a crop, or with `budget_scope="image"` all crops of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .image_tokens import ImageTokens

# Entries of the coverage matrices that are held at once: 256 MiB in float32.
_ENTRIES_AT_ONCE = 2**26


@dataclass(frozen=True)
class Unit:
    """What one budget is spent on.

    Attributes:
        image: number of the picture.
        tokens: (n,) int64 on the CPU, the unit's tokens among the picture's.
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
class UnitTables:
    """U units side by side, filled up to the largest; int64 and bool, (U, width) on the CPU.

    Attributes:
        tokens: place of each token among the vision tokens of all pictures.
        sources: place of each token among the tokens of all crops before packing.
        real: False for fillers.
        candidates: tokens that may be kept.
    """

    tokens: torch.Tensor
    sources: torch.Tensor
    real: torch.Tensor
    candidates: torch.Tensor

    @classmethod
    def of(cls, units: Sequence[Unit], images: Sequence[ImageTokens]) -> UnitTables:
        """Lays out the units of some of a batch's pictures."""
        width = max(len(unit.tokens) for unit in units)
        first_token = _offsets([len(image.source) for image in images])
        first_source = _offsets([image.tokens_before_packing for image in images])

        def filled(values: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.stack([torch.nn.functional.pad(each, (0, width - len(each))) for each in values])

        return cls(
            filled([unit.tokens + first_token[unit.image] for unit in units]),
            filled([images[unit.image].source[unit.tokens] + first_source[unit.image] for unit in units]),
            filled([torch.ones_like(unit.candidates) for unit in units]),
            filled([unit.candidates for unit in units]),
        )


def units_of(
    images: Sequence[ImageTokens], candidates: Sequence[torch.Tensor] | None, budget: int | float | None, scope: str
) -> list[Unit]:
    """Divides the pictures of a batch.

    Args:
        images: where the tokens of each picture come from.
        candidates: for each picture (T,) bool on the CPU, tokens that may be kept; None for all.
        budget: for each crop, tokens or a share of them; None for all.
        scope: "crop", or "image" for one budget for all crops of a picture.
    """
    units = []
    for number, image in enumerate(images):
        crops = [torch.nonzero(image.crop == crop)[:, 0] for crop in image.crop[image.crop >= 0].unique()]
        budgets = [_budget(budget, len(tokens)) for tokens in crops]
        if scope == "image" and crops:
            crops, budgets = [torch.nonzero(image.crop >= 0)[:, 0]], [sum(budgets)]
        allowed = torch.ones_like(image.crop, dtype=torch.bool) if candidates is None else candidates[number]
        units += [Unit(number, tokens, budget, allowed[tokens]) for tokens, budget in zip(crops, budgets, strict=True)]
    return units


def chunks_of(units: Sequence[Unit], text_rows: int) -> list[list[Unit]]:
    """Units in runs whose coverage matrices fit into memory together."""
    chunks: list[list[Unit]] = []
    width = 0
    for unit in units:
        width = max(width, len(unit.tokens))
        if chunks and (len(chunks[-1]) + 1) * (text_rows + width) * width <= _ENTRIES_AT_ONCE:
            chunks[-1].append(unit)
        else:
            chunks.append([unit])
            width = len(unit.tokens)
    return chunks


def _budget(budget: int | float | None, tokens: int) -> int:
    """Tokens to keep of a crop of `tokens` tokens."""
    if budget is None:
        return tokens
    if isinstance(budget, float):
        return max(1, round(budget * tokens))
    return min(budget, tokens)


def _offsets(lengths: Sequence[int]) -> list[int]:
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    return offsets
