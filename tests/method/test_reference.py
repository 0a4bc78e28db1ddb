"""Our selection against the reference's formula, restated in benchmarks/reference.py, on random features."""

from __future__ import annotations

import pytest
import torch
from reference_prompts import OTHER_QUESTIONS, POPE_QUESTIONS, llama_or_skip
from transformers import PreTrainedTokenizerFast

from benchmarks.reference import select_crop, text_rows
from mmtok.hub.coverage import greedy_coverage
from mmtok.hub.objective import coverage_matrix
from mmtok.hub.question import TextRules, text_to_cover
from mmtok.publish.ignored_text import text_options

TOKENS, WIDTH, RAW_WIDTH = 576, 48, 40


def features(seed: int, vocabulary: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An embedding table, and vision tokens behind and before the projector that have directions in common."""
    generator = torch.Generator().manual_seed(seed)

    def around(rows: int, width: int) -> torch.Tensor:
        return torch.randn(rows, width, generator=generator) + 0.7 * torch.randn(1, width, generator=generator)

    return around(vocabulary, WIDTH), around(TOKENS, WIDTH), around(TOKENS, RAW_WIDTH)


def ours(text: torch.Tensor, vision: torch.Tensor, raw: torch.Tensor, budget: int) -> list[int]:
    return greedy_coverage(coverage_matrix(text, vision, raw), budget).indices.tolist()


@pytest.mark.parametrize("words", [0, 1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_picks_in_the_same_order(seed: int, words: int) -> None:
    embeddings, vision, raw = features(seed)
    text = embeddings[:words]
    assert ours(text, vision, raw, 64) == select_crop(text, vision, raw, 64)


def test_the_same_picks_in_a_batch_of_crops_with_fillers() -> None:
    embeddings, *_ = features(0)
    crops = [features(seed)[1:] for seed in range(5)]
    text = torch.nn.functional.pad(embeddings[:3], (0, 0, 0, 2)).expand(5, -1, -1)
    matrix = coverage_matrix(
        text,
        torch.stack([vision for vision, _ in crops]),
        torch.stack([raw for _, raw in crops]),
        text_mask=torch.tensor([[True] * 3 + [False] * 2] * 5),
    )
    picks = greedy_coverage(matrix, 32).indices.tolist()
    assert picks == [select_crop(embeddings[:3], vision, raw, 32) for vision, raw in crops]


@pytest.fixture(scope="module")
def llama() -> tuple[PreTrainedTokenizerFast, TextRules]:
    tokenizer = llama_or_skip()
    special = [tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>", "<pad>")]
    pruning_options = text_options(tokenizer, tokenizer.chat_template)
    return tokenizer, TextRules(tokenizer.convert_tokens_to_ids("<image>"), special, **pruning_options)


@pytest.mark.parametrize("question", [*POPE_QUESTIONS, *OTHER_QUESTIONS])
def test_the_same_picks_from_the_question_on(llama: tuple[PreTrainedTokenizerFast, TextRules], question: str) -> None:
    tokenizer, rules = llama
    embeddings, vision, raw = features(7, vocabulary=len(tokenizer))
    ids = tokenizer(f"USER: <image>\n{question} ASSISTANT:", return_tensors="pt")["input_ids"]
    own = embeddings[text_to_cover(ids, None, rules).ids[0]]
    theirs = text_rows(question, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], embeddings)
    assert ours(own, vision, raw, 16) == select_crop(theirs, vision, raw, 16)
