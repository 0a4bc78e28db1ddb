"""Our selection against the reference's formula, restated in benchmarks/reference.py, on random features."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from chat_checkpoints import byte_level_tokenizer
from reference_prompts import DATA, OTHER_QUESTIONS, POPE_QUESTIONS, llama_or_skip
from transformers import PreTrainedTokenizerFast

from benchmarks.reference import INSTRUCTIONS, STOP_WORDS, select_crop, text_rows, text_to_tokenize
from mmtok.hub.coverage import greedy_coverage, spread_depths
from mmtok.hub.objective import coverage_matrix
from mmtok.hub.question import QuestionFormat, QuestionReader

TOKENS, WIDTH, RAW_WIDTH = 576, 48, 40
# Questions of which other words are covered than by the reference: the words, and why.
DECIDED = {
    "What's the man wearing?": ("man wearing", "a contraction is one word, here a stop word"),
    "Who's she?": ("Who's she?", "the same; only stop words are left, so that the question is covered as it stands"),
    "Is the dog's collar red?": ("dog collar red", "the same; of a possessive the word itself"),
    "Which animal?\nA. cat\nB. dog": ("animal A cat B dog", "letters of options are alike; A is a stop word there"),
    "Is the WHO logo on it?": ("WHO logo on", "words in capitals are names"),
    "Was ist an der Wand?": ("Was ist an der Wand", "the stop words are English"),
    "Is it 1.5 m high?": ("1.5 m high", "decimals are whole"),
    "हाथी का रंग?": ("हाथी का रंग", "marks belong to their letter"),
    "Answer the question using a single word or phrase.": (
        "using single word phrase",
        "an instruction alone is covered; the reference has no text then",
    ),
    "What is it made of?\nAnswer the question\nusing a single word or phrase.": (
        "made of",
        "white space in an instruction may differ",
    ),
}


def features(seed: int, vocabulary: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An embedding table, and vision tokens behind and before the projector that have directions in common."""
    generator = torch.Generator().manual_seed(seed)

    def around(rows: int, width: int) -> torch.Tensor:
        return torch.randn(rows, width, generator=generator) + 0.7 * torch.randn(1, width, generator=generator)

    return around(vocabulary, WIDTH), around(TOKENS, WIDTH), around(TOKENS, RAW_WIDTH)


def own_picks(
    text: torch.Tensor, vision: torch.Tensor, raw: torch.Tensor, budget: int, depth: int | str = 1
) -> list[int]:
    # Of the soft rows of the deeper settings some spread over a part of the tokens, some over most of them.
    matrix = coverage_matrix(text, vision, raw, text_temperature=temperature_of(depth))
    depths = spread_depths(matrix[: len(text)], len(vision)) if isinstance(depth, str) else depth
    return greedy_coverage(matrix, budget, deep_rows=len(text), depth=depths).indices.tolist()


def temperature_of(depth: int | str) -> float:
    return 0.1 if isinstance(depth, str) else 0.02


@pytest.mark.parametrize("words", [0, 1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_picks_in_the_same_order(seed: int, words: int) -> None:
    embeddings, vision, raw = features(seed)
    text = embeddings[:words]
    for depth in (1, 1 + seed, "spread"):
        expected = select_crop(text, vision, raw, 64, temperature_of(depth), depth)
        assert own_picks(text, vision, raw, 64, depth) == expected


@pytest.mark.parametrize("depth", [1, 3])
def test_the_same_picks_in_a_batch_of_crops_with_fillers(depth: int) -> None:
    embeddings, *_ = features(0)
    crops = [features(seed)[1:] for seed in range(5)]
    text = torch.nn.functional.pad(embeddings[:3], (0, 0, 0, 2)).expand(5, -1, -1)
    matrix = coverage_matrix(
        text,
        torch.stack([vision for vision, _ in crops]),
        torch.stack([raw for _, raw in crops]),
        text_mask=torch.tensor([[True] * 3 + [False] * 2] * 5),
    )
    picks = greedy_coverage(matrix, 32, deep_rows=5, depth=depth).indices.tolist()
    assert picks == [select_crop(embeddings[:3], vision, raw, 32, text_depth=depth) for vision, raw in crops]


@pytest.fixture(scope="module")
def llama() -> tuple[PreTrainedTokenizerFast, QuestionReader]:
    tokenizer = llama_or_skip()
    image = tokenizer.convert_tokens_to_ids("<image>")
    return tokenizer, QuestionReader(tokenizer.backend_tokenizer, QuestionFormat(), [image])


def both(llama: Any, question: str, prompt: str = "USER: <image>\n{} ASSISTANT:") -> tuple[list[int], list[int]]:
    """The ids that are covered in a prompt with this question, and the reference's."""
    tokenizer, reader = llama
    ids = tokenizer(prompt.replace("{}", question))["input_ids"]
    wanted = tokenizer(text_to_tokenize(question), add_special_tokens=False)["input_ids"]
    return list(reader.read(ids).ids), wanted


@pytest.mark.parametrize(
    "prompt",
    [
        "USER: <image>\n{} ASSISTANT:",
        "[INST] <image>\n{} [/INST]",
        "USER: <image>\nIs there a dog? ASSISTANT: Yes. USER: {} ASSISTANT:",
    ],
)
def test_questions_of_pope_cover_what_the_reference_covers(llama: Any, prompt: str) -> None:
    files = [DATA / f"coco_pope_{name}.json" for name in ("random", "popular", "adversarial")]
    asked = {json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()}
    assert len(asked) == 80
    for question in sorted(asked):
        for text in (question, f"{question}\n{INSTRUCTIONS[0]}"):
            ours, theirs = both(llama, text, prompt)
            assert ours == theirs, text


def test_one_question_by_hand(llama: Any) -> None:
    ours, _ = both(llama, "Is there a snowboard in the image?")
    assert llama[0].convert_ids_to_tokens(ours) == ["▁there", "▁snow", "board", "▁in", "▁image"]


def test_every_word_of_the_vocabulary_behind_a_line_break_and_a_bracket(llama: Any) -> None:
    pieces = llama[0].convert_ids_to_tokens(list(range(3, 32_000)))
    words = [each[1:] for each in pieces if re.fullmatch(r"▁[^\W\d_]{2,}", each) and each[1:].lower() not in STOP_WORDS]
    words = [each for each in words[::9] if not each.isupper()]
    assert len(words) > 1000
    for word in words:
        for left in ("", "("):
            assert llama[0].convert_ids_to_tokens(both(llama, left + word)[0]) == ["▁" + word]


@pytest.mark.parametrize(
    "question",
    [*POPE_QUESTIONS, *(each for each in OTHER_QUESTIONS if "A. cat" not in each)],
    ids=lambda each: each[:20],
)
def test_the_same_picks_from_the_question_on(llama: Any, question: str) -> None:
    tokenizer, _ = llama
    embeddings, vision, raw = features(7, vocabulary=len(tokenizer))
    ours, _ = both(llama, question)
    theirs = text_rows(question, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], embeddings)
    assert own_picks(embeddings[ours], vision, raw, 16) == select_crop(theirs, vision, raw, 16)


def test_words_of_both_codes_for_qwen() -> None:
    tokenizer = byte_level_tokenizer()
    question = "What does the sign say?"
    newer = QuestionReader(tokenizer, QuestionFormat(), []).read_text(question)
    assert list(newer.words) == text_to_tokenize(question).split() == ["sign", "say"]
    first = QuestionReader(tokenizer, QuestionFormat.of({"stop_words": []}), []).read_text(f"Question: {question}")
    assert list(first.words) == re.findall(r"\w+", f"Question: {question}")


@pytest.mark.parametrize("question", DECIDED)
def test_what_differs_by_decision(llama: Any, question: str) -> None:
    ours, theirs = both(llama, question)
    wanted = llama[0](DECIDED[question][0], add_special_tokens=False)["input_ids"]
    assert ours == wanted != theirs
