"""Positions in time, height and width: worked out by hand, packed, and gone on with behind the prompt."""

from __future__ import annotations

import torch

from mmtok.hub.grid_positions import GridPositions
from mmtok.hub.image_tokens import ImageTokens
from mmtok.hub.packing import PackedOrder
from mmtok.hub.prompt import Prompt

IMAGE, PAD = 9, 0


def grid(rows: int, columns: int) -> ImageTokens:
    return ImageTokens.of(torch.arange(rows * columns), crops=1, tokens_per_crop=rows * columns, columns=columns)


def prompt(*rows: list[int]) -> Prompt:
    """Padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    return Prompt.read(ids, None, (ids != PAD).long(), IMAGE, torch.nn.Embedding(10, 2))


def test_an_image_takes_as_many_positions_as_its_longer_side() -> None:
    # Two words, an image of 2 x 3 tokens, a word, an image of 2 x 1, two words.
    row = [5, 5, *[IMAGE] * 6, 5, *[IMAGE] * 2, 5, 5]
    positions = GridPositions.of(prompt(row), [grid(2, 3), grid(2, 1)])
    time, height, width = positions.places[:, 0].tolist()
    assert time == [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 6, 8, 9]
    assert height == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8, 9]
    assert width == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 6, 8, 9]
    assert (positions.following.tolist(), positions.tokens.tolist()) == ([[10]], [[13]])


def test_padding_takes_none_and_each_row_has_its_own_images() -> None:
    positions = GridPositions.of(prompt([5, 5, 5], [*[IMAGE] * 4, 5]), [grid(2, 2)])
    assert positions.places[:, 0, 2:].tolist() == [[0, 1, 2]] * 3
    assert positions.places[1, 1].tolist() == [0, 0, 1, 1, 2]
    assert (positions.following.tolist(), positions.tokens.tolist()) == ([[3], [3]], [[3], [5]])


def test_kept_tokens_keep_their_positions_and_decoding_goes_on_behind_the_full_prompt() -> None:
    full = GridPositions.of(prompt([5, *[IMAGE] * 6, 5]), [grid(2, 3)])
    kept = torch.tensor([[True, False, False, True, True, False, False, True]])
    pruned = full.packed(PackedOrder.of(kept), torch.tensor([[4]]), torch.device("cpu"))
    # Of the image the last token of the first row and the first of the second.
    assert pruned.places[:, 0].tolist() == [[0, 1, 1, 4], [0, 1, 2, 4], [0, 3, 1, 4]]
    assert pruned.columns(1, 1, 5).tolist() == [[[1, 1, 4, 5, 6]], [[1, 2, 4, 5, 6]], [[3, 1, 4, 5, 6]]]
    assert pruned.columns(6, 2, 1).tolist() == [[[7], [7]]] * 3
    # The fourth place of the pruned text has the fifth position of the full prompt.
    assert pruned.behind(torch.tensor([[4, 5], [6, 7]])).tolist() == [[[5, 6], [7, 8]]] * 3


def test_given_positions_take_the_place_of_the_counted_ones() -> None:
    given = torch.arange(20, 28).expand(3, 1, 8)
    positions = GridPositions.given(given, prompt([5, *[IMAGE] * 6, 5]))
    assert torch.equal(positions.places, given)
    assert positions.following.tolist() == [[28]]
