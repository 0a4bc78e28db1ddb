"""Positions in time, height and width of prompts whose images are pruned, in the two steps in which vLLM takes them.

vLLM counts the positions of a prompt before its images are encoded. What stands around an image is known then, because
an image takes as many positions pruned as in full; the kept tokens are put on their rows and columns when the vision
tower has run, by channels that travel behind their embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

# Behind an embedding: row and column of its token, two digits each; bfloat16 does not hold all integers above 256.
CHANNELS = 4
_BASE = 256
# In place of a digit: the position that vLLM counted is right.
_COUNTED = -_BASE


def with_places(tokens: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """(T, hidden) embeddings -> (T, hidden + 4), with (T,) rows and columns behind them, less the position in time."""
    digits = torch.stack((row // _BASE, row % _BASE, column // _BASE, column % _BASE), dim=1)
    return torch.cat((tokens, digits.to(tokens.device, tokens.dtype)), dim=1)


def without_places(tokens: torch.Tensor) -> torch.Tensor:
    """(T, hidden) embeddings -> (T, hidden + 4) of tokens whose positions vLLM counted itself."""
    return torch.nn.functional.pad(tokens, (0, CHANNELS), value=_COUNTED)


def counted_positions(
    count: Callable[[list[int], list[Any]], tuple[torch.Tensor, int]],
    input_tokens: Sequence[int],
    mm_features: Sequence[Any],
    runs_of: Callable[[Any], Sequence[tuple[int, int, int]]],
) -> tuple[torch.Tensor, int]:
    """The positions of a prompt as far as they are known before its images are encoded.

    Text, and images and videos that are not pruned, have theirs. All kept tokens of a pruned image, or of a frame of a
    pruned video, have that of its first token, which is the position in time of them all.

    Args:
        count: vLLM's own method, which counts those of a prompt with all vision tokens.
        input_tokens: (N,) of the pruned prompt.
        mm_features: vLLM's images and videos of the prompt.
        runs_of: of one of them the image, or the frames: where its kept tokens begin, counted from the first token,
            how many stay, and how many there are without pruning.

    Returns:
        (3, N) int64, and what a place behind the prompt has to be raised by to be a position.
    """
    full_prompt, columns, full_ids = [], [], []
    place = dropped = 0
    for feature in sorted(mm_features, key=lambda each: each.mm_position.offset):
        offset, first = feature.mm_position.offset, feature.mm_position.offset + dropped
        for behind, kept, full in runs_of(feature):
            start = offset + behind
            if kept < full:
                columns += [torch.arange(place, start) + dropped, torch.full((kept,), start + dropped)]
                full_ids += [*input_tokens[place:start], *[input_tokens[start]] * full]
                place, dropped = start + kept, dropped + full - kept
        length = offset + feature.mm_position.length + dropped - first
        full_prompt.append(replace(feature, mm_position=replace(feature.mm_position, offset=first, length=length)))
    columns.append(torch.arange(place, len(input_tokens)) + dropped)
    positions, delta = count([*full_ids, *input_tokens[place:]], full_prompt)
    return positions[:, torch.cat(columns)], delta + dropped


def placed_positions(positions: torch.Tensor, places: torch.Tensor, embeddings: Sequence[torch.Tensor]) -> torch.Tensor:
    """The positions of a prompt, or of a step of several, with those of the vision tokens that have been encoded.

    Args:
        positions: (3, N), of `counted_positions`; they may have been placed before.
        places: (M,) the vision tokens among the N from the first on that has an embedding here.
        embeddings: (n, hidden + 4) each, at least one: those of the first of these vision tokens.
    """
    digits = torch.cat([each[:, -CHANNELS:] for each in embeddings]).to(positions.device, positions.dtype)
    places = places[: len(digits)].to(positions.device)
    # An image has one position in time, which stays: rows and columns can be put on it any number of times.
    time = positions[0, places]
    known = digits[:, 0] != _COUNTED
    placed = positions.clone()
    for axis, (high, low) in enumerate(digits.T.split(2), start=1):
        placed[axis, places] = torch.where(known, time + _BASE * high + low, positions[axis, places])
    return placed
