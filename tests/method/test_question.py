"""The words to cover, worked by hand on small vocabularies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmtok.hub.question import CoveredText, TextRules, text_to_cover
from mmtok.hub.word_pieces import WordPieces, packed_texts

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


class Numbers:
    """A configuration with numbers of its own and of its text."""

    image_token_id, video_token_id, bos_token_id, eos_token_id = IMAGE, 8, BOS, None

    def get_text_config(self) -> SimpleNamespace:
        return SimpleNamespace(pad_token_id=PAD, eos_token_id=[EOS, 3])


def covered(ids: list[int], rules: TextRules = RULES, mask: list[int] | None = None) -> list[int]:
    text = found(ids, rules, mask)
    return text.ids[0, text.valid[0]].tolist()


def found(ids: list[int], rules: TextRules = RULES, mask: list[int] | None = None) -> CoveredText:
    return text_to_cover(torch.tensor([ids]), None if mask is None else torch.tensor([mask]), rules)


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
        # Nothing but an instruction: its words come back.
        ([BOS, 10, 11, IMAGE, 30, 31, 14, 12, 13], [30, 31]),
        # The marker of the user inside the user's own turn is text like other text.
        ([BOS, 10, 11, IMAGE, 40, 10, 11, 41, 12, 13], [40, 10, 11, 41]),
        ([BOS, 10, 11, 50, 10, 11, 12, 13, 51, EOS, 10, 11, 40, 12, 13], [40]),
        # Without any marker of a user's turn the whole row counts.
        ([BOS, 40, IMAGE, 41], [40, 41]),
    ],
)
def test_words_of_the_last_user_turn(ids: list[int], words: list[int]) -> None:
    assert covered(ids) == words


def test_numbers_of_a_configuration_and_of_its_text_are_no_words() -> None:
    rules = TextRules.from_config(Numbers(), {"ignored_token_ids": [14]})
    assert rules == TextRules(IMAGE, [BOS, EOS, 3, PAD], [14], video_token_id=8)
    assert covered([BOS, 40, IMAGE, 8, 14, 3, 41, EOS, PAD], rules) == [40, 41]


def test_without_lists_every_plain_token_counts() -> None:
    rules = TextRules(image_token_id=IMAGE, special_token_ids=(PAD, BOS, EOS))
    assert covered([PAD, BOS, 10, 11, IMAGE, 14, 20, EOS], rules, [0, 1, 1, 1, 1, 1, 1, 1]) == [10, 11, 14, 20]


def test_a_stop_word_is_a_whole_word() -> None:
    # Bits 40 ... 47: tokens that continue the word of the token before them.
    rules = TextRules(IMAGE, (PAD, BOS), (14,), ((20,), (41,)), word_continuation_bitmap="0000000000ff")
    assert covered([BOS, 20, 50, 20, 41, 14, 41, 50], rules) == [50, 20, 41, 50]


def test_padding_is_no_text() -> None:
    assert covered([40, 41, 42, 43], mask=[0, 1, 0, 1]) == [41, 43]


def test_without_a_marker_of_the_assistant_every_marker_of_the_user_opens_a_turn() -> None:
    assert covered([10, 11, 40, 10, 11, 41], TextRules(IMAGE, user_turn_token_sequences=((10, 11),))) == [41]


# The pieces of a small vocabulary in which words are written with the letters a to d; 14 is punctuation.
TEXTS = {40: " ab", 49: " ", 50: "a", 51: "b", 52: "c", 53: "d", 54: "(a", 60: "ab", 61: " c", 62: " a", 63: "cd"}
BARE = TextRules(
    IMAGE,
    (PAD, BOS),
    (14,),
    word_continuation_bitmap="0" * 12 + "3c" + "90",
    word_piece_texts=packed_texts([TEXTS.get(index, "") for index in range(64)]),
)


@pytest.mark.parametrize(
    ("ids", "words", "positions"),
    [
        # Behind a word "a" goes on with that word, behind punctuation it begins one and reads as behind a space.
        ([40, 50, 14, 50], [40, 50, 62], [0, 1, 3]),
        ([14, 60], [40], [1]),
        # "cd" is one piece, behind a space it is " c", "d".
        ([14, 63, 51], [61, 53, 51], [1, 1, 1]),
        ([14, 53, 50], [49, 53, 50], [1, 1, 1]),
        ([40, 54, 51], [40, 40], [0, 1]),
        ([BOS, IMAGE, IMAGE, 50, 40], [62, 40], [3, 4]),
    ],
)
def test_a_word_reads_as_behind_a_space(ids: list[int], words: list[int], positions: list[int]) -> None:
    text = found(ids, BARE)
    assert text.ids[0].tolist() == words
    assert text.positions[0].tolist() == positions


def test_rows_of_a_batch_are_filled_up() -> None:
    ids = torch.tensor([[PAD, PAD, 14, 50], [40, 14, 53, 53]])
    text = text_to_cover(ids, torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]), BARE)
    assert text.valid.tolist() == [[True, False, False, False], [True] * 4]
    assert text.ids[text.valid].tolist() == [62, 40, 49, 53, 53]
    assert text.positions[text.valid].tolist() == [3, 0, 2, 2, 2]


def test_the_bytes_of_a_punctuation_mark_are_no_word() -> None:
    rules = TextRules(IMAGE, (PAD, BOS), (), word_continuation_bitmap="0" * 12 + "ff",
                      punctuation_token_sequences=((48, 49),))  # fmt: skip
    assert covered([40, 50, 48, 49], rules) == [40, 50]
    assert covered([40, 48, 50, 49], rules) == [40, 48, 50, 49]


VIDEO, MARKER = 8, 7
# 60 opens a timestamp, which is made of 61 to 64.
TIMED = TextRules(IMAGE, (PAD, BOS, MARKER), (60,), timestamp_token_ids=(61, 62, 63, 64), video_token_id=VIDEO)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([BOS, 60, 61, 64, MARKER, VIDEO, VIDEO, MARKER, 60, 62, 61, 64, MARKER, VIDEO, MARKER, 40, 61], [40, 61]),
        # A number in front of a timestamp is a word, and so is one in front of an image, or without a frame.
        ([BOS, 40, 61, 60, 62, 64, MARKER, VIDEO, MARKER, 41], [40, 61, 41]),
        ([BOS, 60, 61, 64, MARKER, IMAGE, MARKER, 40], [61, 64, 40]),
        ([BOS, 40, 60, 61, 64, MARKER, 41], [40, 61, 64, 41]),
        # Without a marker, and at the beginning.
        ([61, 64, VIDEO, 40], [40]),
    ],
)
def test_timestamps_of_frames_are_no_words(ids: list[int], words: list[int]) -> None:
    assert covered(ids, TIMED) == words
    assert covered([PAD, PAD, *ids], TIMED, [0, 0, *[1] * len(ids)]) == words


def test_texts_of_pieces_come_back() -> None:
    texts = ["", " ab", "é", "", "日", " "]
    pieces = WordPieces.of(packed_texts(texts))
    assert pieces.texts == texts
    assert pieces.ids == {" ab": 1, "é": 2, "日": 4, " ": 5}


def test_a_part_of_a_character_keeps_its_pieces() -> None:
    pieces = WordPieces.of(packed_texts([" ", "a", "", " a"]))
    assert pieces.behind_a_space([1]) == [3]
    assert pieces.behind_a_space([2, 1]) == [0, 2, 1]
    assert pieces.behind_a_space([9]) == [0, 9]


@pytest.mark.parametrize("packed", ["x", "AAAA", "é"])
def test_what_holds_no_texts_is_refused(packed: str) -> None:
    with pytest.raises(ValueError, match=r"holds no texts of pieces .*stage the model again"):
        WordPieces.of(packed)
