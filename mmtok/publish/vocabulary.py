"""What the single pieces of a tokenizer stand for, and which pieces a stretch of text becomes in its context."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

from mmtok.hub.word_pieces import WordPieces, packed_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_WORD_CHARACTER = re.compile(r"\w")
_PART_OF_A_CHARACTER = "\ufffd"
# Words on which merging by the smallest id is compared with the tokenizer.
_TRIED = 2000


class Vocabulary:
    """The pieces of a fast tokenizer: byte-fallback SentencePiece (Llama, Mistral) or byte-level BPE.

    Args:
        tokenizer: any tokenizer of transformers with a `backend_tokenizer`.

    Raises:
        ValueError: a tokenizer without one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"The tokenizer is a {type(tokenizer).__name__} without a tokenizer.json: save its fast form "
                "beside the weights first."
            )
        self._backend = backend
        added = tokenizer.added_tokens_decoder
        self.special_ids = frozenset(index for index, token in added.items() if token.special)

    def __len__(self) -> int:
        """Largest id + 1."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def texts(self) -> list[str]:
        """What each id adds to a text, its leading space included; U+FFFD for a part of a character."""
        # A decoder drops the space in front of the first piece: an anchor stands there.
        anchor = self._backend.encode("x", add_special_tokens=False).ids[-1]
        prefix = len(self._backend.decode([anchor], skip_special_tokens=False))
        pairs = [[anchor, index] for index in range(len(self))]
        return [text[prefix:] for text in self._backend.decode_batch(pairs, skip_special_tokens=False)]

    def without_words(self) -> list[int]:
        """Ids of the pieces without a word character, and of the special tokens, ascending."""
        return [i for i, text in enumerate(self.texts) if i in self.special_ids or not _has_word_character(text)]

    def pure_space(self) -> list[list[int]]:
        """Ids of the pieces that are nothing but space, each as a sequence of one."""
        return [[i] for i, text in enumerate(self.texts) if i not in self.special_ids and text.isspace()]

    def continuation_bitmap(self) -> str:
        """Hexadecimal; bit i % 8 of byte i // 8 is set when id i goes on with the word of the piece before it."""
        table = bytearray(-(-len(self) // 8))
        for index, text in enumerate(self.texts):
            if index not in self.special_ids and _has_word_character(text[:1]):
                table[index // 8] |= 1 << index % 8
        return table.hex()

    def word_piece_texts(self) -> str:
        """The texts from which a published model tokenises a word anew, see `WordPieces`.

        Returns:
            The packed texts of the pieces that words are made of; "" for a tokenizer whose words are not what merging
            by the smallest id makes of them.
        """
        texts = self._texts_of_words()
        packed = packed_texts(texts)
        pieces = WordPieces.of(packed)
        words = [word for text in texts if (word := text.strip()).isalpha()]
        for word in words[:: max(1, len(words) // _TRIED)]:
            if pieces.behind_a_space(self._behind("x\n", word)) != self._behind("x ", word):
                return ""
        return packed

    def _texts_of_words(self) -> list[str]:
        """For each id its text, "" where no word is made of it."""
        return [
            text
            if index not in self.special_ids
            and _PART_OF_A_CHARACTER not in text
            and (text == " " or _has_word_character(text))
            else ""
            for index, text in enumerate(self.texts)
        ]

    def _behind(self, before: str, word: str) -> list[int]:
        """The ids of `word`, with the space in front of it, behind the first character of `before`."""
        context, anchor = before + word, before.rstrip(" ")
        ids = self._backend.encode(context, add_special_tokens=False).ids
        return list(ids[len(self._backend.encode(anchor, add_special_tokens=False).ids) :])

    def characters(self, characters: str) -> list[list[int]]:
        """The ids of each character that is several pieces, none of which holds anything else, sorted."""
        found = {self.pieces("x", character, "x") for character in characters}
        whole = set(self.without_words())
        return sorted(list(ids) for ids in found if ids and len(ids) > 1 and not whole.issuperset(ids))

    def of_timestamps(self, marker: str) -> list[int]:
        """The ids that "0.0 seconds>" to "999.9 seconds>" are made of between "<" and `marker`, ascending.

        Empty for a tokenizer without this marker of a frame. The "<" that opens a timestamp is not among them: it tells
        the timestamp from a number in front of it.
        """
        if marker not in self._backend.get_vocab(with_added_tokens=True):
            return []
        texts = [f"<{tenths // 10}.{tenths % 10} seconds>{marker}" for tenths in range(10_000)]
        found = self._backend.encode_batch(texts, add_special_tokens=False)
        return sorted({index for each in found for index in each.ids[1:]} - self.special_ids)

    def pieces(self, before: str, text: str, after: str) -> tuple[int, ...] | None:
        """The ids that `text` becomes between `before` and `after`.

        Returns:
            The ids, without pieces of pure space at either end; None where a piece also holds a word character of a
            neighbour, so that no sequence of ids stands for `text` there.
        """
        return self.pieces_at(before + text + after, len(before), len(before) + len(text))

    def pieces_at(self, context: str, start: int, end: int) -> tuple[int, ...] | None:
        """The ids of context[start:end]; see `pieces`."""
        encoding = self._backend.encode(context, add_special_tokens=False)
        touching = [
            (index, first, last)
            for index, (first, last) in zip(encoding.ids, encoding.offsets, strict=True)
            if first < end and last > start
        ]
        outside = "".join(context[first:start] + context[end:last] for _, first, last in touching)
        if _has_word_character(outside):
            return None
        ids = [index for index, _, _ in touching]
        while ids and not self.texts[ids[0]].strip():
            del ids[0]
        while ids and not self.texts[ids[-1]].strip():
            del ids[-1]
        return tuple(ids) or None


def _has_word_character(text: str) -> bool:
    return _PART_OF_A_CHARACTER in text or _WORD_CHARACTER.search(text) is not None
