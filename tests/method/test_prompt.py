"""The words to cover, and batches that lose tokens: worked by hand on small vocabularies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.hub.packing import PackedOrder, edge_padding, packed_length
from mmtok.hub.question import TextRules, text_to_cover

PAD, BOS, EOS, IMAGE = 0, 1, 2, 9
# user = 10 11, assistant = 12 13, punctuation 14, stop words 20 and "21 22", instruction "30 31 14", words 40 ...
RULES = TextRules(
    image_token_id=IMAGE,
    special_token_ids=(PAD, BOS, EOS),
    ignored_token_ids=(14,),
    ignored_token_sequences=((20,), (21, 22)),
    instruction_token_sequences=((30, 31, 14),),
    user_turn_token_sequences=((10, 11),),
    assistant_turn_token_sequences=((12, 13),),
)


def covered(ids: list[int], rules: TextRules = RULES, mask: list[int] | None = None) -> list[int]:
    attention = None if mask is None else torch.tensor([mask])
    marked = text_to_cover(torch.tensor([ids]), attention, rules)[0]
    return torch.tensor(ids)[marked].tolist()


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([BOS, 10, 11, IMAGE, IMAGE, 40, 20, 41, 14, 12, 13], [40, 41]),
        # Earlier turns, the assistant's answers and what follows the assistant's marker are not the question.
        ([BOS, 10, 11, 50, 12, 13, 51, EOS, 10, 11, IMAGE, 40, 12, 13], [40]),
        ([BOS, 10, 11, IMAGE, 40, 12, 13, 51, EOS], [40]),
        # Half of a stop word of two tokens is a word.
        ([BOS, 10, 11, 21, 22, 22, 21, 12, 13], [22, 21]),
        ([BOS, 10, 11, IMAGE, 40, 30, 31, 14, 12, 13], [40]),
        ([BOS, 10, 11, 30, IMAGE, 31, 14, 12, 13], [30, 31]),
        # Nothing but stop words: they come back, the instruction does not.
        ([BOS, 10, 11, IMAGE, 20, 14, 30, 31, 14, 12, 13], [20, 14]),
        ([BOS, 10, 11, IMAGE, IMAGE, 12, 13], []),
        # Without any marker of a user's turn the whole row counts.
        ([BOS, 40, IMAGE, 41], [40, 41]),
    ],
)
def test_words_of_the_last_user_turn(ids: list[int], words: list[int]) -> None:
    assert covered(ids) == words


def test_without_lists_every_plain_token_counts() -> None:
    rules = TextRules(image_token_id=IMAGE, special_token_ids=(PAD, BOS, EOS))
    assert covered([PAD, BOS, 10, 11, IMAGE, 14, 20, EOS], rules, [0, 1, 1, 1, 1, 1, 1, 1]) == [10, 11, 14, 20]


def test_a_stop_word_is_a_whole_word() -> None:
    # Bits 40 ... 47: tokens that continue the word of the token before them.
    rules = TextRules(IMAGE, (PAD, BOS), (14,), ((20,), (41,)), word_continuation_bitmap="0000000000ff")
    assert covered([BOS, 20, 50, 20, 41, 14, 41, 50], rules) == [50, 20, 41, 50]


def test_padding_is_no_text() -> None:
    assert covered([40, 41, 42, 43], mask=[0, 1, 0, 1]) == [41, 43]


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
