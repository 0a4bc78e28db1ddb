"""The words of questions: every prompt of benchmarks/questions.json with small tokenizers that have the traits of the
real ones, and what a format may say."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from chat_checkpoints import byte_level_tokenizer
from small_checkpoints import small_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers

from benchmarks.question_words import FAMILIES, PAGE, RESULTS, behind_a_space, hostile, read, reader_of, rendered
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
    "Gemma 3": ("<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
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


def test_the_page_shows_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rendered(page) == page, "run `make tokenizers`"


@pytest.mark.parametrize("text", hostile(), ids=lambda text: repr(text[:12]))
def test_a_hostile_question_is_read(text: str) -> None:
    for family, prompt in (("Qwen3", "<|im_start|>user\nIs the dog {}"), ("Llama-2", "USER: Is the dog {} ASSISTANT:")):
        tokenizer = tokenizer_like(family)
        ids = tokenizer.encode(prompt.replace("{}", text[:20_000]), add_special_tokens=False).ids
        assert reader_of(tokenizer).read(ids).words[:1] in (("dog",), ("Is",), ("x",), ()), text[:12]
