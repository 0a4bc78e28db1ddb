"""Positions in time, height and width: of a prompt, packed, and gone on with behind the prompt."""

from __future__ import annotations

import torch

from mmtok.hub.prompt import GridPositions, PackedOrder, Prompt

IMAGE, PAD = 9, 0


def prompt(*rows: list[int]) -> Prompt:
    """Padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    return Prompt.read(ids, None, (ids != PAD).long(), IMAGE, torch.nn.Embedding(10, 2))


def test_a_row_goes_on_behind_its_last_token() -> None:
    # Two words, a video whose last frame lies at 12, a word; and two words on padding.
    places = torch.tensor([[0, 1, 2, 12, 5], [0, 0, 0, 0, 1]])
    positions = GridPositions.of(places, prompt([5, 5, IMAGE, IMAGE, 5], [5, 5]))
    assert torch.equal(positions.places, places.expand(3, -1, -1))
    assert (positions.following.tolist(), positions.tokens.tolist()) == ([[6], [2]], [[5], [2]])
    right = Prompt.read(torch.tensor([[5, 5, PAD]]), None, torch.tensor([[1, 1, 0]]), IMAGE, torch.nn.Embedding(10, 2))
    assert GridPositions.of(torch.tensor([[0, 1, 7]]), right).following.tolist() == [[2]]


def test_kept_tokens_keep_their_positions_and_decoding_goes_on_behind_the_full_prompt() -> None:
    # An image of 2 x 3 tokens takes as many positions as its longer side.
    places = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 1, 1, 2, 2, 2, 4], [0, 1, 2, 3, 1, 2, 3, 4]])
    full = GridPositions.of(places[:, None], prompt([5, *[IMAGE] * 6, 5]))
    kept = torch.tensor([[True, False, False, True, True, False, False, True]])
    pruned = full.packed(PackedOrder.of(kept), torch.tensor([[4]]), torch.device("cpu"))
    # Of the image the last token of the first row and the first of the second.
    assert pruned.places[:, 0].tolist() == [[0, 1, 1, 4], [0, 1, 2, 4], [0, 3, 1, 4]]
    assert pruned.columns(1, 1, 5).tolist() == [[[1, 1, 4, 5, 6]], [[1, 2, 4, 5, 6]], [[3, 1, 4, 5, 6]]]
    assert pruned.columns(6, 2, 1).tolist() == [[[7], [7]]] * 3
    assert torch.equal(pruned.behind_columns(torch.tensor([5, 6]), 2), pruned.columns(5, 2, 2))
    # The fourth place of the pruned text has the fifth position of the full prompt.
    assert pruned.behind(torch.tensor([[4, 5], [6, 7]])).tolist() == [[[5, 6], [7, 8]]] * 3
