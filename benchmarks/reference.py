"""What the paper's reference code selects, restated as plainly as possible: one image, one question, no batches.

Nothing here is shared with the package, so that the two can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch

_STOP_WORDS = (
    "a an the is are was were be been being have has had do does did it they he she we you i what where when why how "
    "who which and or but so if then question answer to for with by from at into onto upon"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
INSTRUCTIONS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)


def text_to_tokenize(question: str) -> str:
    """The words of a question that are to be covered; the whole question where none is left."""
    for instruction in INSTRUCTIONS:
        question = question.replace(instruction, "")
    words = [word for word in re.findall(r"\b\w+\b", question) if word.lower() not in STOP_WORDS]
    return " ".join(words) or question.strip()


def select_crop(
    text: torch.Tensor,
    vision: torch.Tensor,
    raw: torch.Tensor,
    budget: int,
    text_temperature: float = 0.02,
    text_depth: int | str = 1,
) -> list[int]:
    """The picks of one crop, in the order in which they are made.

    Args:
        text: (m, d) embeddings of the tokens to cover.
        vision: (n, d) vision tokens after the projector.
        raw: (n, d_raw) the same before it.
        budget: tokens to keep.
        text_temperature: 0.01 in the code for Qwen2.5-VL.
        text_depth: how many of its best picks a text row counts, 1 in the reference code; "spread" for as many as the
            row spreads over, up to 8, and 1 where that is more than a quarter of the tokens.
    """
    to_text = torch.softmax(_cosines(text, vision) / text_temperature, dim=1)
    to_vision = torch.softmax(_cosines(raw, raw) / 0.2, dim=1)
    spread = 1 / to_text.square().sum(1)
    depths = [
        text_depth if isinstance(text_depth, int) else max(1, min(8, round(far))) if far <= len(raw) / 4 else 1
        for far in spread.tolist()
    ]
    best_text, best_vision = [[0.0] * depth for depth in depths], torch.zeros(len(raw))
    picked: list[int] = []
    for _ in range(budget):
        text_gain = torch.zeros(len(raw))
        for row, best in zip(to_text, best_text, strict=True):
            text_gain += (row - min(best)).clamp(min=0) / len(text)
        vision_gain = (to_vision - best_vision[:, None]).clamp(min=0).mean(0)
        gain = text_gain + 0.5 * vision_gain
        gain[picked] = -1.0
        pick = int(gain.argmax())
        picked.append(pick)
        for row, best in zip(to_text, best_text, strict=True):
            best[:] = sorted([*best, float(row[pick])])[1:]
        best_vision = torch.maximum(best_vision, to_vision[:, pick])
    return picked


def select_image(
    text: torch.Tensor, vision: Sequence[torch.Tensor], raw: Sequence[torch.Tensor], budget: int
) -> list[list[int]]:
    """The picks of every crop of an image, each among all of its tokens, whether they show padding or not."""
    return [select_crop(text, one, other, budget) for one, other in zip(vision, raw, strict=True)]


def text_rows(question: str, tokenize: Callable[[str], list[int]], embeddings: torch.Tensor) -> torch.Tensor:
    """(m, d): the embeddings of the tokens to cover."""
    return embeddings[tokenize(text_to_tokenize(question))]


def _cosines(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    rows, columns = rows.float(), columns.float()
    return (rows / rows.norm(dim=1, keepdim=True)) @ (columns / columns.norm(dim=1, keepdim=True)).T
