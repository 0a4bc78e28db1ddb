"""Which text is not worth covering, as ids of one tokenizer: the options that describe tokenizer and chat template.

The paper's reference covers the words of the current question, without fixed benchmark instructions and stop words.
A published model sees ids alone, so everything that takes text to decide is decided here, when it is staged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import product, takewhile
from typing import TYPE_CHECKING, Any

from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The list of the paper's reference implementation.
STOP_WORDS: tuple[str, ...] = (
    *("a", "an", "the", "is", "are", "was", "were", "be", "been", "being", "have", "has", "had", "do", "does", "did"),
    *("it", "they", "he", "she", "we", "you", "i", "what", "where", "when", "why", "how", "who", "which"),
    *("and", "or", "but", "so", "if", "then", "question", "answer"),
    *("to", "for", "with", "by", "from", "at", "into", "onto", "upon"),
)
# The fixed instructions that the paper's benchmarks append to a question.
INSTRUCTIONS: tuple[str, ...] = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)

# Punctuation that a vocabulary may hold as bytes only; what it holds as a piece is found by its text.
PUNCTUATION = (
    "؟،؛٪۔«»‹›¿¡„“”‘’‚…–—―·•†‡‰′″※€£¥₹°§¶©®™×÷≤≥≠→←"  # noqa: RUF001
    "。、，．！？：；（）［］｛｝【】「」『』《》〈〉〔〕・～〜￥"  # noqa: RUF001
    "।॥၊။៕།።፣፤፥፦፧՞՝՜՛׃־᠂᠃"  # noqa: RUF001
)

# How the templates of the families begin an image.
_IMAGE = re.compile(re.escape("<image>") + "|" + re.escape("<|vision_start|>"))
# What Qwen3-VL's processor writes in front of a frame, behind its timestamp.
_FRAME = "<|vision_start|>"
_BEFORE_A_WORD = ("x ", "x\n", "x\n\n", "(", '"', "x,", "x-", "x/")
_BEHIND_A_WORD = (" x", "", "?", ".", ",", ":", ";", "!", ")", '"', "'", "-", "/", "\n")
_BEFORE_AN_INSTRUCTION = ("x?\n", "x? ", "x\n", "x ", "x.\n", "x)\n", "x?\n\n", "\n", "")
_BEHIND_AN_INSTRUCTION = ("", " ", "\n", " x", "<", "<|", "</s>", "[", " [")
_BEFORE_A_ROLE = ("", "x ", "x\n", "x. ", "x? ", "x?\n", "x\n\n")
_TURN_OPENINGS = ("Is x", "is x", "3 x", '"x"', "(x)", "\nx", "éx", "<image>\nx")
_TURN_ENDINGS = ("x?", "x.", "x", "x\n", 'x"', "x)", "3", "é")


def text_options(
    tokenizer: PreTrainedTokenizerFast,
    chat_template: str | None,
    *,
    stop_words: Sequence[str] = STOP_WORDS,
    instructions: Sequence[str] = INSTRUCTIONS,
) -> dict[str, Any]:
    """Derives the options of `PruningOptions` that describe a tokenizer and its chat template.

    Args:
        tokenizer: a fast tokenizer.
        chat_template: the Jinja template that writes the prompts; None for prompts without roles.
        stop_words: words that are not worth covering; lower, Title and UPPER case are all meant.
        instructions: sentences that are no part of a question.

    Returns:
        `ignored_token_ids`, `ignored_token_sequences`, `punctuation_token_sequences`, `instruction_token_sequences`,
        `user_turn_token_sequences`, `assistant_turn_token_sequences`, `timestamp_token_ids`,
        `word_continuation_bitmap` and `word_piece_texts`. Pieces of pure space are among the instructions: templates
        put them between image and question, and no question is made of them.

    Raises:
        ValueError: a stop word that is no single word, an empty instruction, a chat template that cannot write a
            conversation with an image, or a tokenizer without a fast form.
    """
    check_word_lists(stop_words, instructions)
    vocabulary = Vocabulary(tokenizer)
    user, assistant = _role_sequences(tokenizer, chat_template, vocabulary) if chat_template else ([], [])
    cased = {form for word in stop_words for form in (word.lower(), word.capitalize(), word.upper())}
    sentences = _in_contexts(vocabulary, instructions, _BEFORE_AN_INSTRUCTION, _BEHIND_AN_INSTRUCTION)
    return {
        "ignored_token_ids": vocabulary.without_words(),
        "punctuation_token_sequences": vocabulary.characters(PUNCTUATION),
        "ignored_token_sequences": _in_contexts(vocabulary, cased, _BEFORE_A_WORD, _BEHIND_A_WORD),
        "instruction_token_sequences": [*vocabulary.pure_space(), *sentences],
        "user_turn_token_sequences": user,
        "assistant_turn_token_sequences": assistant,
        "timestamp_token_ids": vocabulary.of_timestamps(_FRAME),
        "word_continuation_bitmap": vocabulary.continuation_bitmap(),
        "word_piece_texts": vocabulary.word_piece_texts(),
    }


def chat_template_of(processor: Any) -> str | None:
    """The chat template of a processor, or of its tokenizer; of several, the default one."""
    template = processor.chat_template or getattr(getattr(processor, "tokenizer", None), "chat_template", None)
    return template.get("default") if isinstance(template, dict) else template


def check_word_lists(stop_words: Sequence[str], instructions: Sequence[str]) -> None:
    """Raises a ValueError that names the first stop word that is no single word, or an empty instruction."""
    for name, words in (("stop_words", stop_words), ("instructions", instructions)):
        if isinstance(words, str):
            raise ValueError(f"{name} is the text {words[:40]!r}: give a list of texts.")
    for word in stop_words:
        if not word.replace("_", "a").isalnum():
            raise ValueError(f"The stop word {word!r} is no single word: give letters and digits without spaces.")
    for instruction in instructions:
        if not instruction.strip():
            raise ValueError(f"The instruction {instruction!r} is empty: give a sentence.")


def role_markers(render: Callable[..., str], tokens: Iterable[str] = ()) -> tuple[str, str]:
    """The texts that open a turn of the user and of the assistant, such as "USER:" and "ASSISTANT:".

    Args:
        render: writes a conversation; called with the texts of the first question, which has an image, of the answer
            and of the second question, and with the system message or None as `system`.
        tokens: texts that are one token each, such as "<|im_start|>": a marker holds all of one or nothing.

    Returns:
        User's and assistant's marker, without space around them; "" where a template has none.
    """
    first, answer, second = "Qfirst", "Qanswer", "Qsecond"
    user: list[str] = []
    assistant: list[str] = []
    for system in (None, "Qsystem"):
        try:
            text = render(first, answer, second, system=system)
        except Exception:
            if system is None:
                raise
            continue  # many templates refuse a system message
        where = [text.find(content) for content in (first, answer, second)]
        if not -1 < where[0] < where[1] < where[2]:
            raise ValueError("The chat template does not write a question, its answer and the next question in order.")
        beginning = _IMAGE.split(text[: where[0]])[0]
        # The space in front of a question is another where an image precedes it.
        user += [beginning.rstrip(), _IMAGE.split(text[where[1] + len(answer) : where[2]])[0].rstrip()]
        assistant += [text[where[0] + len(first) : where[1]], text[where[2] + len(second) :]]
    longest_first = sorted(tokens, key=len, reverse=True)
    units = re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)
    openings = [units.findall(text)[::-1] for text in user]
    shared = _common_prefix(openings)[::-1], _common_prefix([units.findall(text) for text in assistant])
    return "".join(shared[0]).strip(), "".join(shared[1]).strip()


def _common_prefix(sequences: Sequence[Sequence[str]]) -> list[str]:
    shared = takewhile(lambda units: len(set(units)) == 1, zip(*sequences, strict=False))
    return [units[0] for units in shared]


def _role_sequences(
    tokenizer: PreTrainedTokenizerFast, chat_template: str, vocabulary: Vocabulary
) -> tuple[list[list[int]], list[list[int]]]:
    """User's and assistant's marker as ids, wherever in a conversation it stands."""

    def render(first: str, answer: str, second: str, system: str | None = None) -> str:
        return render_chat(tokenizer, chat_template, first, answer, second, system=system)

    user, assistant = role_markers(render, tokenizer.get_added_vocab())
    texts = [render(begin, end, begin) for begin, end in product(_TURN_OPENINGS, _TURN_ENDINGS)]
    texts += [render(end, begin, end) for begin, end in product(_TURN_OPENINGS, _TURN_ENDINGS)]
    ends_of_turns = [*_BEFORE_A_ROLE, str(tokenizer.eos_token or "")]
    texts += [left + marker + " " + right for marker in (user, assistant) for left in ends_of_turns for right in "x3("]
    return _everywhere(vocabulary, user, texts), _everywhere(vocabulary, assistant, texts)


def render_chat(
    tokenizer: PreTrainedTokenizerFast,
    chat_template: str,
    first: str,
    answer: str,
    second: str,
    system: str | None = None,
) -> str:
    """A conversation of an image with a question, its answer and a second question, up to the second answer.

    Raises:
        ValueError: the template cannot write it; the message quotes its reason.
    """

    def turn(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}]}

    messages = [turn("user", first), turn("assistant", answer), turn("user", second)]
    messages[0]["content"].insert(0, {"type": "image"})
    if system is not None:
        messages.insert(0, turn("system", system))
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, chat_template=chat_template, tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:
        raise ValueError(f"The chat template cannot write a conversation with an image: {error}") from error


def _everywhere(vocabulary: Vocabulary, marker: str, texts: Iterable[str]) -> list[list[int]]:
    """All sequences of ids that `marker` becomes in `texts`, sorted."""
    found = set()
    for text in texts:
        start = text.find(marker) if marker else -1
        while start >= 0:
            found.add(vocabulary.pieces_at(text, start, start + len(marker)))
            start = text.find(marker, start + len(marker))
    return sorted(list(ids) for ids in found if ids)


def _in_contexts(
    vocabulary: Vocabulary, texts: Iterable[str], before: Sequence[str], behind: Sequence[str]
) -> list[list[int]]:
    """All sequences of ids that one of `texts` becomes between neighbours, sorted."""
    found = {vocabulary.pieces(left, text, right) for text in texts for left in before for right in behind}
    return sorted(list(ids) for ids in found if ids)
