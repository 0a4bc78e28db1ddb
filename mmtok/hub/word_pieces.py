"""A word's pieces as they are behind a space, for words that stand behind a newline, a quote or a bracket.

Tokenizers write a space into the piece that begins a word: "a Describe" has the pieces "▁Descri", "be", "\\nDescribe"
has "Des", "cribe". What the word is about is the same, so its text rows should be. The texts of the vocabulary's pieces
are enough to tokenise a word anew: in byte pair encoding the pair that makes the piece with the smallest id is merged
first. They travel in the configuration, packed into a string.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

_WORD = re.compile(r"\w+")
_BEHIND_A_SPACE = re.compile(r" \w")
# Between texts; no piece that holds a word contains it.
_SEPARATOR = "\0"


def packed_texts(texts: Sequence[str]) -> str:
    """The texts of the ids from 0 on, "" for ids that are part of no word, as base64 of a zlib stream."""
    return base64.b64encode(zlib.compress(_SEPARATOR.join(texts).encode("utf-8"), 9)).decode("ascii")


@dataclass(frozen=True)
class WordPieces:
    """The pieces of a vocabulary that words are made of.

    Attributes:
        texts: of each id; "" for ids that are part of no word, or that hold a part of a character.
        ids: of each text.
    """

    texts: Sequence[str]
    ids: Mapping[str, int]

    @classmethod
    def of(cls, packed: str) -> WordPieces:
        """Reads what `packed_texts` packed.

        Raises:
            ValueError: a string that holds no texts.
        """
        return _unpacked(packed)

    def lacks_space(self, index: int) -> bool:
        """Whether a known piece would be another one behind a space."""
        text = self.texts[index] if 0 <= index < len(self.texts) else ""
        return bool(text) and _BEHIND_A_SPACE.match(text) is None

    def behind_a_space(self, pieces: Sequence[int]) -> list[int]:
        """The pieces of the same words behind a space.

        Args:
            pieces: ids of a word without its space, or of words with punctuation in front.

        Returns:
            Ids; where a piece holds a part of a character, the same ids behind the piece of a single space.
        """
        known = all(0 <= index < len(self.texts) and self.texts[index] for index in pieces)
        words = _WORD.findall("".join(self.texts[index] for index in pieces)) if known else []
        if not words or any(character not in self.ids for word in words for character in word):
            return [*self._space, *pieces]
        return [index for word in words for index in self._merged(word)]

    @property
    def _space(self) -> list[int]:
        return [self.ids[" "]] if " " in self.ids else []

    def _merged(self, word: str) -> list[int]:
        if " " + word in self.ids:
            return [self.ids[" " + word]]
        parts = [" ", *word] if self._space else list(word)
        while True:
            pairs = [(self.ids[one + other], place) for place, (one, other) in enumerate(pairwise(parts))
                     if one + other in self.ids]  # fmt: skip
            if not pairs:
                return [self.ids[part] for part in parts]
            _, place = min(pairs)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]


@lru_cache(maxsize=8)
def _unpacked(packed: str) -> WordPieces:
    try:
        texts = zlib.decompress(base64.b64decode(packed, validate=True)).decode("utf-8").split(_SEPARATOR)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise ValueError(f"{packed[:40]!r} holds no texts of pieces ({error}): stage the model again.") from error
    # Bytes have the text of a piece of their own and come before it: the last of equal texts is the piece.
    return WordPieces(texts, {text: index for index, text in enumerate(texts) if text})
