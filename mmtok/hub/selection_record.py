"""The record of a selection for people: what was kept of every image, in which order, and what for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .selection import BatchSelection


@dataclass(frozen=True)
class ImageSelection:
    """What was kept of one image or video. K is the number of kept tokens that are no row separators.

    Attributes:
        batch_row: row of the batch that the image belongs to.
        num_tokens: vision tokens of the image, row separators included.
        indices: (K,) int64, kept tokens among the image's vision tokens, in ascending order.
        crop, row, column: (K,) int64, the crop of each, of a video the frame, and its place in the crop's grid of
            patches, -1 for no place.
        pick_order: (K,) int64, 0 for the first pick of the budget that the token was picked from.
        text_gain, vision_gain: (K,) float32, what each pick added to covering the text and to covering the image.
        coverage: float, value of the objective for the kept tokens, a mean over the crops of the image.
        full_coverage: float, the same for all tokens.
        upper_bound: float, the same for the best possible choice of as many tokens is not above this.
        is_video: whether the crops are the frames of a video.
    """

    batch_row: int
    num_tokens: int
    indices: torch.Tensor
    crop: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    pick_order: torch.Tensor
    text_gain: torch.Tensor
    vision_gain: torch.Tensor
    coverage: float
    full_coverage: float
    upper_bound: float
    is_video: bool = False


@dataclass(frozen=True)
class VisionTokenSelection:
    """What was kept of every image of a batch.

    Attributes:
        images: one `ImageSelection` for each image and video, in the order of the prompts.
        kept_mask: (B, L) bool, prompt tokens that the language model reads.
    """

    images: list[ImageSelection]
    kept_mask: torch.Tensor


def describe(selection: BatchSelection, batch_rows: Sequence[int]) -> list[ImageSelection]:
    """Gathers the crops of each image into one record; the crops must have been selected with `explain=True`."""
    described, selections = [], selection.crops()
    for number, image in enumerate(selection.layouts):
        own = [crop for crop in selections if crop.image == number]
        picked = [crop.tokens[crop.greedy.indices] for crop in own]
        indices, order = torch.cat(picked).sort() if picked else (torch.zeros(0, dtype=torch.long),) * 2
        ranks = torch.cat([torch.arange(len(tokens)) for tokens in picked]) if picked else indices
        shares = torch.cat([crop.shares for crop in own if crop.shares is not None], dim=-1) if own else None
        text_gain, vision_gain = shares[:, order] if shares is not None else (torch.zeros(0),) * 2
        described.append(
            ImageSelection(
                batch_row=batch_rows[number],
                num_tokens=len(image.source),
                indices=indices,
                crop=image.crop[indices],
                row=image.row[indices],
                column=image.column[indices],
                pick_order=ranks[order],
                text_gain=text_gain,
                vision_gain=vision_gain,
                coverage=_mean([crop.greedy.coverage for crop in own]),
                full_coverage=_mean([crop.full_coverage for crop in own]),
                upper_bound=_mean([crop.greedy.upper_bound for crop in own]),
                is_video=image.is_video,
            )
        )
    return described


def _mean(values: Sequence[torch.Tensor | None]) -> float:
    present = [float(value) for value in values if value is not None]
    return sum(present) / len(present) if present else 0.0
