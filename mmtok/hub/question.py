"""The question: which words of a prompt the kept vision tokens have to cover, read with the model's own tokenizer.

A row of token ids becomes text, the text the words of the user's last turn, and every word the ids that it has behind a
space. Nothing here depends on a model.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain, compress, count
from typing import TYPE_CHECKING, Any

from tokenizers.decoders import ByteLevel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

# The lists of the paper's reference code.
_STOP_WORDS = (
    "a an the is are was were be been being have has had do does did it they he she we you i what where when why how "
    "who which and or but so if then question answer to for with by from at into onto upon"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
INSTRUCTIONS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)
# Words that tell English from the languages that share spellings with its stop words ("was", "is", "he", "an").
_AMBIGUOUS = "a an is was were be he we i do so or at by has had have"
_FURTHER = "of there this that these those can could many much please"
_ENGLISH = STOP_WORDS - frozenset(_AMBIGUOUS.split()) | frozenset(_FURTHER.split())
_FOREIGN = (
    "de del la el los las un una es en que por con para como qual cor le les des du et est une dans qui sur il elle "
    "der das die den dem ist und wo wer wie ein eine auf nicht war er het een van dit dat zijn op wat hoe welke "
    "lo gli che di dove sono nel della os um uma em quem onde det och som var hva hvad hvor jest czy co na w z yang "
    "ini itu hier sieht steht gibt sind ich ang ng"
)
_NOT_ENGLISH = frozenset(_FOREIGN.split())
# A number, or letters with marks and joiners of the text; a contraction belongs to the word in front of it.
_CONTRACTION = "['\u2019](?:s|re|ve|ll|d|m|t|S|RE|VE|LL|D|M|T)(?![\\w{0}])"
_WORD = rf"\d+(?:\.\d+)+(?![\w{{0}}])|\w[\w{{0}}]*(?:{_CONTRACTION})?"
# The two words that are a stop word in capitals too.
_LETTER = re.compile(rf"[AI](?<!\w[AI])(?!\w|{_CONTRACTION.format('')})")
# Stands for an image, a frame, or a special token that is not part of a turn's marker.
_OBJECT = "\ufffc"
# What processors and templates write in front of an image or a frame.
_LABELS = ("Picture", "Image", "Video", "Frame", " seconds>")
_LABEL = re.compile(
    rf"(?:(?:{'|'.join(_LABELS[:4])})(?:[ -]?\d{{1,9}})?:|<\d{{1,9}}(?:\.\d{{1,9}})? seconds>)\s{{0,4}}(?={_OBJECT})"
)
_KNOWN_WORDS, _LONGEST_KNOWN = 10_000, 100
# Byte-level vocabularies write each byte as a printable character: itself, or one behind Latin-1.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE}
_BYTE_OF |= {chr(256 + number): byte for number, byte in enumerate(sorted({*range(256)} - {*_PRINTABLE}))}
_BLOCK = re.compile(r"(<(/?)(?:think|tool_call|tool_response)>|<<(/?)SYS>>)")


def is_text(value: Any) -> bool:
    """Whether a value is text with more than white space, which UTF-8 can hold."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= each <= "\udfff" for each in value)


@dataclass(frozen=True)
class QuestionFormat:
    """How a question stands in a prompt, in strings.

    Attributes:
        user_turns: what opens a turn of the user, such as "USER:"; empty for the formats in `CHAT_FORMATS`.
        assistant_turns: what opens a turn of the assistant.
        other_turns: what opens a turn of somebody else, or closes one.
        instructions: sentences that are not part of a question; white space may differ.
        stop_words: words that are not covered: "english" for the paper's list, which holds in English questions, or a
            list of words for questions in any language.
    """

    user_turns: tuple[str, ...] = ()
    assistant_turns: tuple[str, ...] = ()
    other_turns: tuple[str, ...] = ()
    instructions: tuple[str, ...] = INSTRUCTIONS
    stop_words: str | tuple[str, ...] = "english"

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> QuestionFormat:
        """The format of a dictionary, as config.json holds it.

        Raises:
            ValueError: an unknown key, or a value of another form; the message names it.
        """
        given: dict[str, Any] = {}
        known = [each.name for each in fields(cls)]
        shown = f"{dict(values or {})!r:.80}"
        for name, value in (values or {}).items():
            if name not in known:
                raise ValueError(f"question_format is {shown}, with the key {name!r}: give some of {', '.join(known)}.")
            if name == "stop_words" and value == "english":
                continue
            if not isinstance(value, (list, tuple)) or not all(map(is_text, value)):
                wanted = (
                    "'english' or a list of words" if name == "stop_words" else "a list of texts, none of them empty"
                )
                raise ValueError(f"question_format[{name!r}] is {value!r}: give {wanted}.")
            given[name] = tuple(value)
        return cls(**given)

    @property
    def turns(self) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """The markers of turns of each format that a prompt may have: the user's, the assistant's, others."""
        return ((self.user_turns, self.assistant_turns, self.other_turns),) if self.user_turns else CHAT_FORMATS


# What opens a turn of the user, of the assistant, of others, or ends one: ChatML, Llama 3, Gemma 3 and 4, GLM and Phi,
# Mistral, Vicuna, and SmolVLM.
CHAT_FORMATS: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("<|im_start|>user",), ("<|im_start|>assistant",), ("<|im_start|>", "<|im_end|>")),
    (
        ("<|start_header_id|>user<|end_header_id|>",),
        ("<|start_header_id|>assistant<|end_header_id|>",),
        ("<|start_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    ),
    (("<start_of_turn>user",), ("<start_of_turn>model",), ("<start_of_turn>", "<end_of_turn>")),
    (("<|turn>user",), ("<|turn>model",), ("<|turn>", "<turn|>")),
    (("<|user|>",), ("<|assistant|>",), ("<|system|>", "<|observation|>", "<|tool|>", "<|end|>")),
    (
        ("[INST]",),
        ("[/INST]",),
        ("</s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]"),
    ),
    (("USER:",), ("ASSISTANT:",), ("</s>",)),
    (("User:",), ("Assistant:",), ("<end_of_utterance>",)),
)


class _Turns:
    """The markers of one chat format."""

    def __init__(self, user: Sequence[str], assistant: Sequence[str], other: Sequence[str]) -> None:
        named = [*((each, "other") for each in other), *((each, "assistant") for each in assistant)]
        named += [(each, "user") for each in user]
        self.roles = {marker.replace(" ", ""): role for marker, role in named}
        self.user = re.compile("|".join(map(_marker, user)))
        # A text without the longest part of a marker need not be searched for it.
        self.user_parts = [max(_parts(each), key=len) for each in user]
        longest_first = sorted((marker for marker, _ in named), key=len, reverse=True)
        self.any = re.compile("(" + "|".join(map(_marker, longest_first)) + ")")
        # A user can write a marker that is made of letters, such as "USER:"; one of special tokens is always a marker.
        self.plain = not any(each.startswith("<") for each in user)

    def split(self, text: str) -> list[tuple[str, str]]:
        """(role, text) of each turn, in order; what stands in front of the first marker is somebody else's."""
        parts = self.any.split(text)
        turns = [("other", parts[0])]
        for marker, content in zip(parts[1::2], parts[2::2], strict=True):
            role, (last, before) = self.roles[marker.replace(" ", "")], turns[-1]
            if self.plain and role == last == "user" and before.rstrip() and before.rstrip()[-1] not in _ENDS:
                turns[-1] = (last, before + marker + content)
                continue
            if self.plain and role == last == "assistant" and len(turns) > 1 and turns[-2][0] == "user":
                # Of two answers in a row the first is a word of the question.
                turns[-2:] = [("user", turns[-2][1] + marker + before)]
            turns.append((role, content))
        return turns


_ENDS = frozenset(".?!:;。？！" + _OBJECT)  # noqa: RUF001


def _marker(text: str) -> str:
    first, behind = re.escape(text[0]), (r"(?!\w)" if text[-1].isalnum() else "")
    # Behind the first character, so that a search for markers looks at nothing but these characters.
    before = rf"(?<!\w{first})" if text[0].isalnum() else ""
    # Decoders of whole words put spaces between the tokens of a marker.
    return first + before + " ?".join(map(re.escape, _parts(text)))[len(first) :] + behind


def _parts(marker: str) -> list[str]:
    return re.findall(r"\w+|\W+", marker)


@dataclass(frozen=True)
class Question:
    """What one prompt asks.

    Attributes:
        words: that are covered, in order; empty where no tokenizer was there to read them.
        ids: token ids of the words, each as it stands behind a space.
    """

    words: tuple[str, ...]
    ids: tuple[int, ...]


class _PieceBytes(dict[int, bytes]):
    """The bytes of each piece of a byte-level vocabulary; of an added token those of its text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __missing__(self, index: int) -> bytes:
        piece = self._tokenizer.id_to_token(index) or ""
        own = [_BYTE_OF.get(each, -1) for each in piece]
        content = self[index] = piece.encode() if -1 in own else bytes(own)
        return content


class QuestionReader:
    """Reads questions with a tokenizer.

    Args:
        tokenizer: of the model. It is not changed, and nothing else may change it.
        question_format: how a question stands in a prompt.
        object_ids: ids that stand for an image or a frame.
        name: of the tokenizer, for the warning.
    """

    def __init__(
        self, tokenizer: Tokenizer, question_format: QuestionFormat, object_ids: Iterable[int], name: str = ""
    ) -> None:
        self._tokenizer, self._format, self._name = tokenizer, question_format, name
        # The library takes longer, character by character, for what a byte-level decoder does.
        self._bytes = _PieceBytes(tokenizer) if isinstance(tokenizer.decoder, ByteLevel) else None
        markers = {marker for turns in question_format.turns for group in turns for marker in group}
        added = tokenizer.get_added_tokens_decoder().items()
        # An id that no text is made of, and what it reads as.
        self._special = {
            index: token.content if any(token.content in marker for marker in markers) else _OBJECT
            for index, token in added
            if token.special or any(token.content in marker for marker in markers)
        }
        self._special.update(dict.fromkeys(object_ids, _OBJECT))
        # A tokenizer may write a marker in another way, such as in lower case.
        written = {marker: self.text(self._encode(marker)).strip() for marker in markers}
        written = {marker: marker if _OBJECT in text else text or marker for marker, text in written.items()}
        self._turns = [
            _Turns(*([written[marker] for marker in group] for group in turns)) for turns in question_format.turns
        ]
        # SentencePiece puts the space in front of the first word itself.
        first, behind_a_space = self._encode("a"), self._encode("a a")
        self._space = "" if behind_a_space == first * 2 else " "
        self._instructions = [
            re.compile(r"\s+".join(map(re.escape, each.split()))) for each in question_format.instructions
        ]
        self._known: dict[str, list[int]] = {}
        self._words_of: dict[str, list[str]] = {}
        self._warned = False

    def read(self, ids: Sequence[int]) -> Question:
        """The question of one prompt, (L,) token ids without padding.

        It is the user's text since the last answer of the assistant, without instructions, punctuation and stop words.
        Where nothing is left, the text with them; where there is still nothing, the words of the instructions.
        """
        text = self.text(ids)
        begun = [
            (found.start(), turns)
            for turns in self._turns
            if any(part in text for part in turns.user_parts) and (found := turns.user.search(text))
        ]
        if not begun:
            if not self._warned:
                self._warned = True
                logger.warning(
                    f"A prompt has no turn of the user that {self._name or 'the tokenizer'} can tell: all of its text "
                    "is taken for the question. Write prompts with the chat template, or name what opens a turn in "
                    "question_format['user_turns']."
                )
            return self.read_text(text)
        return self.read_text(_last_question(min(begun, key=lambda each: each[0])[1].split(text)))

    def read_text(self, text: str) -> Question:
        """The question that is this text."""
        text = unicodedata.normalize("NFC", _without_blocks(text))
        if any(each in text for each in _LABELS):
            text = _LABEL.sub("", text)
        question = text
        for instruction in self._instructions:
            question = instruction.sub(" ", question)
        # Text of one byte a character is searched faster.
        question = question.replace(_OBJECT, "\n")
        words = self._worth_covering(question)
        if not words:
            # As it stands, as in the reference: stop words and punctuation are covered.
            words = question.split() or self._worth_covering(text)
        ids = {word: self._known.get(word) or self._ids(word) for word in {*words}}
        return Question(tuple(words), tuple(chain.from_iterable(map(ids.__getitem__, words))))

    def text(self, ids: Sequence[int]) -> str:
        """The text of a prompt; images and special tokens that open or close no turn are U+FFFC."""
        parts: list[str] = []
        start = 0
        for position in compress(count(), map(self._special.__contains__, ids)):
            if start < position:
                parts.append(self._decode(ids[start:position]))
            parts.append(self._special[ids[position]])
            start = position + 1
        if start < len(ids):
            parts.append(self._decode(ids[start:]))
        return "".join(parts)

    def _decode(self, ids: Sequence[int]) -> str:
        if self._bytes is None:
            return self._tokenizer.decode(ids, skip_special_tokens=False)
        return b"".join(map(self._bytes.__getitem__, ids)).decode(errors="replace")

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _ids(self, word: str) -> list[int]:
        """The ids of a word behind a space."""
        return _noted(self._known, word, self._encode(self._space + word))

    def _worth_covering(self, text: str) -> list[str]:
        # No word has white space in it, and pieces recur.
        pattern, pieces, known = _word_pattern(text), text.split(), self._words_of
        within = {piece: known.get(piece) or _noted(known, piece, pattern.findall(piece)) for piece in {*pieces}}
        found = [*chain.from_iterable(map(within.__getitem__, pieces))]
        words = set(found)
        stop_words = self._stop_words(words)
        left_out = {word for word in words if _stem(word) in stop_words}
        if left_out and not text.isupper():
            # In capitals these are names: WHO, IT, US. A single letter is decided where it stands.
            left_out = {word for word in left_out if len(word) == 1 or not (word.isalpha() and word.isupper())}
        kept = {word: _without_possessive(word) for word in words - left_out}
        letters = left_out & {"A", "I"}
        if not letters:
            return [each for each in map(kept.get, found) if each]
        options = _options(text, words, letters)
        return [
            each
            for word in found
            if (each := kept.get(word) or (word if word in letters and next(options, False) else None))
        ]

    def _stop_words(self, words: set[str]) -> frozenset[str]:
        if self._format.stop_words != "english":
            return frozenset(word.lower() for word in self._format.stop_words)
        lowered = {word.lower() for word in words}
        # Accents are found in names too, and single letters of other scripts in formulas.
        accented = sum(
            (len(word) > 1 or word < "\u0250") and any(each > "\xbf" and each.isalpha() for each in word)
            for word in lowered
            if not word.isascii()
        )
        foreign = len(lowered & _NOT_ENGLISH) + accented / 2
        return STOP_WORDS if foreign <= len(lowered & _ENGLISH) else frozenset()


def _noted(known: dict[str, Any], key: str, value: Any) -> Any:
    """The value, which is kept for the next time: words recur. Long texts are not, and what is full begins anew."""
    if len(key) <= _LONGEST_KNOWN:
        if len(known) >= _KNOWN_WORDS:
            known.clear()
        known[key] = value
    return value


def _last_question(turns: Sequence[tuple[str, str]]) -> str:
    """The user's text since the last answer; turns without text of the user, such as a tool's result, are none."""
    found: list[str] = []
    asked = False
    for role, content in reversed(turns):
        if role == "assistant" and asked and content.strip():
            break
        if role == "user":
            found.append(content)
            asked = asked or bool(_without_blocks(content).strip(_OBJECT + " \n"))
    return "\n".join(reversed(found))


def _without_blocks(text: str) -> str:
    """Text without thoughts, calls and results of tools, and system messages inside a turn."""
    if "<" not in text:
        return text
    parts = _BLOCK.split(text)
    kept = [parts[0]]
    opened: int | None = None
    for _, close, close_system, content in zip(*(parts[each::4] for each in (1, 2, 3, 4)), strict=True):
        if close or close_system:
            if opened is not None:
                del kept[opened:]
            opened = None
        elif opened is None:
            opened = len(kept)
        kept.append(content)
    return "".join(kept)


def _word_pattern(text: str) -> re.Pattern[str]:
    marks = () if text.isascii() else sorted(each for each in set(text) if each > "\x7f" and _joins(each))
    return _compiled("".join(marks))


def _joins(character: str) -> bool:
    """Whether a character that is not a letter belongs to the letters beside it: a mark, or a zero-width joiner."""
    return unicodedata.category(character)[0] == "M" or character in "\u200c\u200d"


@lru_cache(maxsize=64)
def _compiled(marks: str) -> re.Pattern[str]:
    return re.compile(_WORD.format(marks))


def _stem(word: str) -> str:
    """What is looked up among the stop words: "who" of "Who's", "is" of "isn't"."""
    base, apostrophe, contraction = word.lower().replace("\u2019", "'").partition("'")
    return base.removesuffix("n") if apostrophe and contraction == "t" else base


def _options(text: str, words: set[str], letters: set[str]) -> Iterator[bool]:
    """Of each word that is one of the letters, A or I: whether it is an option or a name, no article and no pronoun."""
    capitals = text.isupper()
    for match in _LETTER.finditer(text):
        start, end = match.span()
        if match.group() not in letters:
            continue
        if match.group() == "I":
            yield "H" in words or text[end : end + 1] in (".", ")", ":", ",")
        else:
            begins = capitals or text[max(start - 9, 0) : start].rstrip(" \t")[-1:] in ("", "\n", *_ENDS)
            yield "B" in words or not (begins and re.match(r"\s\w", text[end : end + 2]))


def _without_possessive(word: str) -> str:
    """ "dog's" stands for the dog; other contractions stay whole."""
    return word[:-2] if word[-2:].lower() in ("'s", "\u2019s") and len(word) > 2 else word
