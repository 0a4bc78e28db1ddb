"""Whether the questions are found in what a chat template writes, before a model is published with it."""

from __future__ import annotations

from typing import Any

from mmtok.hub.tokenizer_source import TokenizerSource, checked_tokenizer

_FIRST, _ANSWER, _SECOND = "Where is the red car", "on the right", "Is there a dog on the left"


def question_format_of(processor: Any, given: dict[str, Any] | None) -> dict[str, Any] | None:
    """The `question_format` with which the questions of a chat template are found.

    Args:
        processor: a processor with a tokenizer, and a chat template or none.
        given: what the caller chose, or None.

    Returns:
        `given` where the known formats or its own are enough, or where there is no template; else with the markers that
        the template writes.

    Raises:
        ValueError: a tokenizer without a fast form, a template that cannot write a conversation, or one whose questions
            are not found.
    """
    source = TokenizerSource(checked_tokenizer(processor.tokenizer))
    if not chat_template_of(processor):
        return given
    conversation = _written(processor)
    if _is_found(source, conversation, processor, given):
        return given
    derived = {**(given or {}), **_markers(conversation)}
    if (given or {}).get("user_turns") or not all(derived[name][0] for name in ("user_turns", "assistant_turns")):
        derived = {}
    if not derived or not _is_found(source, conversation, processor, derived):
        raise ValueError(
            f"The questions are not found in what the chat template writes, {conversation!r}: name what opens the "
            "turns in question_format, with user_turns, assistant_turns and other_turns."
        )
    return derived


def chat_template_of(processor: Any) -> str | None:
    """The chat template of a processor, or of its tokenizer; of several, the default one."""
    template = processor.chat_template or getattr(processor.tokenizer, "chat_template", None)
    return template.get("default") if isinstance(template, dict) else template


def _written(processor: Any) -> str:
    """A conversation of an image with a question, its answer and a second question, up to the second answer."""

    def turn(role: str, *content: dict[str, str]) -> dict[str, Any]:
        return {"role": role, "content": list(content)}

    texts = [{"type": "text", "text": each} for each in (_FIRST, _ANSWER, _SECOND)]
    messages = [
        turn("user", {"type": "image"}, texts[0]),
        turn("assistant", texts[1]),
        turn("user", texts[2]),
    ]
    try:
        return str(
            processor.tokenizer.apply_chat_template(
                messages, chat_template=chat_template_of(processor), tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:  # whatever a template raises
        raise ValueError(f"The chat template cannot write a conversation with an image: {error}") from error


def _is_found(source: TokenizerSource, conversation: str, processor: Any, given: dict[str, Any] | None) -> bool:
    reader = source.reader(given, ())
    assert reader is not None, "the source was made of a tokenizer"
    first = conversation[: max(conversation.find(_ANSWER), 0)]

    def ids(text: str) -> list[int]:
        return processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    # Of a question the text that its ids have: a small vocabulary knows few words.
    return all(
        reader.read(ids(text)) == reader.read_text(reader.text(ids(question)))
        for text, question in ((first, _FIRST), (conversation, _SECOND))
    )


def _markers(conversation: str) -> dict[str, list[str]]:
    """What stands between the texts of a conversation, as it is written."""
    before_answer = conversation.partition(_FIRST)[2].partition(_ANSWER)[0]
    before_question = conversation.partition(_ANSWER)[2].partition(_SECOND)[0]
    return {"user_turns": [before_question.strip()], "assistant_turns": [before_answer.strip()], "other_turns": []}
