"""The words of questions: every prompt of benchmarks/questions.json with small tokenizers that have the traits of the
real ones, and what a format may say."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import pytest
from chat_checkpoints import byte_level_tokenizer
from small_checkpoints import small_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers

from benchmarks.measure import RESULTS
from benchmarks.question_words import FAMILIES, behind_a_space, hostile, read, reader_of
from mmtok.hub import question as question_module
from mmtok.hub.question import Question, QuestionFormat, QuestionReader

CHATML = ("<|im_start|>", "<|im_end|>")
# Tokens that each family registers, beside the pieces of a small vocabulary.
REGISTERED = {
    "Llama-2": ("<image>",),
    "Mistral": ("<image>",),
    "Mistral v3": ("<image>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]"),
    "Yi": (*CHATML, "<image>"),
    "Llama-3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"),
    "Qwen2.5": (*CHATML, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    "Qwen3": (*CHATML, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    "OneVision": (*CHATML, "<image>", "<video>"),
    "Gemma 3": (
        "<bos>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    ),
}


@cache
def tokenizer_like(family: str) -> Tokenizer:
    """Byte-level BPE, or a byte-fallback BPE as SentencePiece has it; Yi's and Gemma's have no space in front."""
    if family in ("Llama-3", "Qwen2.5", "Qwen3", "OneVision"):
        tokenizer = byte_level_tokenizer()
    elif family in ("Yi", "Gemma 3"):
        tokenizer = _digits_first(small_tokenizer())
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        if family == "Gemma 3":
            tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        tokenizer = small_tokenizer()
    tokenizer.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in REGISTERED[family]])
    return tokenizer


def _digits_first(tokenizer: Tokenizer) -> Tokenizer:
    """The same pieces with the digits in front of the bytes."""
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    old = state["model"]["vocab"]
    new = {piece: index for index, piece in enumerate(sorted(old, key=lambda each: (not each.isdigit(), old[each])))}
    state["model"]["vocab"], state["post_processor"] = new, None
    number = len(new)
    for token in state["added_tokens"]:
        token["id"] = new.get(token["content"], number)
    return Tokenizer.from_str(json.dumps(state))


@pytest.mark.parametrize("family", FAMILIES)
def test_words_and_ids_of_every_prompt(family: str) -> None:
    found = read(family, tokenizer_like(family))
    assert len(found) > 150
    assert [each.case for each in found if not each.right_ids] == []
    # Wrong are those of the real tokenizer, which the page explains.
    results = json.loads((RESULTS / "tokenizers.json").read_text(encoding="utf-8"))["families"][family]
    wrong = {each.case.prompt: list(each.words) for each in found if not each.right}
    assert wrong == {each["prompt"]: each["read"] for each in results["exceptions"]}


def test_hostile_questions_are_read() -> None:
    tokenizer = tokenizer_like("Qwen3")
    reader = reader_of(tokenizer)
    begin = tokenizer.encode("<|im_start|>user\nIs the dog ", add_special_tokens=False).ids
    for text in hostile():
        ids = [*begin, *tokenizer.encode(text[:5000], add_special_tokens=False).ids * 20]
        assert reader.read(ids).words[0] == "dog"
        assert reader.read_text(f"USER: Is the dog {text} ASSISTANT:").words[:2] == ("USER", "dog")


def reader_with(**question_format: Any) -> QuestionReader:
    return QuestionReader(tokenizer_like("Llama-2"), QuestionFormat.of(question_format), ())


def read_by(reader: QuestionReader, text: str) -> tuple[str, ...]:
    return reader.read(tokenizer_like("Llama-2").encode(text).ids).words


@pytest.mark.parametrize(
    ("question_format", "prompt", "words"),
    [
        ({}, "USER: Where is the dog, Be brief. ASSISTANT:", "dog brief"),
        ({"stop_words": ["Dog", "brief"]}, "USER: Where is the dog, Be brief. ASSISTANT:", "Where is the Be"),
        ({"stop_words": ["was"]}, "USER: Was ist das? ASSISTANT:", "ist das"),
        ({"stop_words": []}, "USER: Where is A dog? ASSISTANT:", "Where is A dog"),
        ({"instructions": ["Be brief."]}, "USER: Where is the dog,\nBe  brief. ASSISTANT:", "dog"),
        ({"user_turns": ["Q:"], "assistant_turns": ["R:"]}, "Q: a dog? R: yes Q: a cat? USER: x R:", "cat USER x"),
        ({"user_turns": ["Q:"], "other_turns": ["END"]}, "rules Q: a dog? END nothing", "dog"),
    ],
)
def test_a_format_of_ones_own(question_format: dict[str, Any], prompt: str, words: str) -> None:
    assert read_by(reader_with(**question_format), prompt) == tuple(words.split())


def test_a_prompt_without_a_turn_of_the_user_is_the_question_and_a_warning_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = QuestionReader(tokenizer_like("Llama-2"), QuestionFormat(), (), "org/model")
    assert read_by(reader, "Where is the dog?") == read_by(reader, "Where is the dog?") == ("dog",)
    [record] = caplog.records
    assert "no turn of the user that org/model can tell: all of its text is taken" in record.message


def test_ids_do_not_depend_on_the_words_that_were_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_module, "_KNOWN_WORDS", 2)
    tokenizer = tokenizer_like("Qwen3")
    reader = reader_of(tokenizer)
    for words in (("red", "zebra", "sign"), ("sign", "red", "dog", "cat"), ("red", "zebra", "sign")):
        assert reader.read_text(" ".join(words)) == Question(words, behind_a_space(tokenizer, words))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"user_turn": ["USER:"]}, r"with the key 'user_turn': give some of user_turns, assistant_turns"),
        ({"user_turns": "USER:"}, r"\['user_turns'\] is 'USER:': give a list of texts, none of them empty"),
        ({"instructions": [" "]}, r"\['instructions'\] is \[' '\]: give a list of texts, none of them empty"),
        ({"stop_words": "german"}, r"\['stop_words'\] is 'german': give 'english' or a list of words"),
    ],
)
def test_what_a_format_may_not_say(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuestionFormat.of(values)


def test_byte_level_text_is_what_the_library_decodes() -> None:
    """Any ids: torn characters, added tokens in other alphabets, ids behind the vocabulary."""
    tokenizer = Tokenizer.from_str(byte_level_tokenizer().to_str())
    tokenizer.add_tokens([AddedToken("<é 日>", normalized=False), "Ġĉ plain"])
    reader, source = QuestionReader(tokenizer, QuestionFormat(), ()), random.Random(0)
    plain = [index for index in range(tokenizer.get_vocab_size() + 3) if index not in reader._special]
    for length in [1] * 100 + [30] * 300:
        ids = source.choices(plain, k=length)
        assert reader.text(ids) == tokenizer.decode(ids, skip_special_tokens=False)
