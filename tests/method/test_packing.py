"""Batches that lose tokens."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.hub.prompt import PackedOrder, edge_padding, packed_length


def test_packing_moves_kept_tokens_together_in_order() -> None:
    kept = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 1]]).bool()
    values = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])
    right, left = PackedOrder.of(kept), PackedOrder.of(kept, left_padded=True)
    assert right.gather(values)[right.valid].tolist() == [5, 7, 8, 4]
    assert right.valid.tolist() == [[True, True, True], [True, False, False]]
    assert left.valid.tolist() == [[True, True, True], [False, False, True]]
    assert left.gather(values)[1, -1] == 4
    spread = left.spread(left.gather(values[..., None]), 4, left.valid)[..., 0]
    assert spread.tolist() == [[5, 0, 7, 8], [0, 0, 0, 4]]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_packing_and_spreading_are_inverse(data: st.DataObject) -> None:
    rows, length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    kept = torch.tensor(data.draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length),
                                           min_size=rows, max_size=rows)))  # fmt: skip
    values = torch.arange(1, rows * length + 1).reshape(rows, length)
    order = PackedOrder.of(kept, left_padded=data.draw(st.booleans()))
    packed = order.gather(values)
    assert all(torch.equal(packed[row][order.valid[row]], values[row][kept[row]]) for row in range(rows))
    assert torch.equal(order.spread(packed, length, order.valid), values * kept)


def test_only_padding_at_one_edge_may_leave() -> None:
    padding, left = edge_padding(torch.tensor([[0, 0, 1, 0, 1], [1, 1, 1, 1, 0]]))
    assert left
    assert padding.tolist() == [[True, True, False, False, False], [False] * 5]
    padding, left = edge_padding(torch.tensor([[1, 0, 1, 0, 0], [1, 1, 1, 1, 1]]))
    assert not left
    assert padding.tolist() == [[False, False, False, True, True], [False] * 5]


def test_padding_that_all_rows_share_stays() -> None:
    padding = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    assert packed_length([2, 1], padding) == 4
    assert packed_length([1, 1], padding) == 3
