"""Positions of pruned Qwen2.5-VL prompts, in the steps in which vLLM takes them; none of this needs vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch
from model_cases import FAMILIES, IMAGE

from mmtok.vllm.kept_positions import (
    CHANNELS,
    counted_positions,
    placed_positions,
    with_places,
    without_places,
)


@dataclass(frozen=True)
class Place:
    """As vLLM's."""

    offset: int
    length: int


@dataclass(frozen=True)
class Feature:
    """An image as vLLM sees it: where it stands in the pruned prompt, and its rows and columns of tokens."""

    mm_position: Place
    size: tuple[int, int]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_place_survives_the_dtype_of_the_embeddings(dtype: torch.dtype) -> None:
    numbers = torch.arange(0, 2**16, 7)
    carried = with_places(torch.zeros(len(numbers), 2, dtype=dtype), numbers, numbers.flip(0))
    assert (carried.dtype, carried.shape) == (dtype, (len(numbers), 2 + CHANNELS))
    placed = placed_positions(torch.full((3, len(numbers)), 9), torch.arange(len(numbers)), [carried])
    assert placed.tolist() == [[9] * len(numbers), (numbers + 9).tolist(), (numbers.flip(0) + 9).tolist()]


def test_a_hand_worked_prompt() -> None:
    # Text, an image of 2 x 3 tokens of which the second and the last stay, text.
    def count(tokens: list[int], features: list[Any]) -> tuple[torch.Tensor, int]:
        assert len(tokens) == 9
        assert [each.mm_position for each in features] == [Place(1, 6)]
        full = [[0, 1, 1, 1, 1, 1, 1, 4, 5], [0, 1, 1, 1, 2, 2, 2, 4, 5], [0, 1, 2, 3, 1, 2, 3, 4, 5]]
        return torch.tensor(full), 6 - 9

    positions, delta = counted_positions(count, [7, 9, 9, 7, 7], [Feature(Place(1, 2), (2, 3))], lambda _: [(0, 2, 6)])
    assert positions.tolist() == [[0, 1, 1, 4, 5]] * 3
    assert delta + 5 == 6
    tokens = with_places(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([1, 2]))
    placed = placed_positions(positions, torch.tensor([1, 2]), [tokens])
    assert placed.tolist() == [[0, 1, 1, 4, 5], [0, 1, 2, 4, 5], [0, 2, 3, 4, 5]]
    assert positions.tolist() == [[0, 1, 1, 4, 5]] * 3


def test_tokens_without_places_keep_what_vllm_counted() -> None:
    positions = torch.arange(12).view(3, 4)
    tokens = without_places(torch.ones(2, 5))
    assert tokens[:, :-CHANNELS].tolist() == [[1.0] * 5] * 2
    assert torch.equal(placed_positions(positions, torch.tensor([1, 2]), [tokens]), positions)


@pytest.mark.parametrize("seed", range(30))
def test_kept_tokens_have_their_positions_of_the_full_prompt(seed: int) -> None:
    random, family = Random(seed), FAMILIES["qwen2_5_vl"]
    model, stock = family.models()
    sizes = [(random.randint(6, 90), random.randint(6, 90)) for _ in range(random.randint(1, 3))]
    row: list[Any] = [part for size in sizes for part in (random.randint(0, 3), size)]
    inputs = family.inputs([[*row, random.randint(1, 4)]], model, seed=seed)
    [full] = family.positions(stock, inputs)["position_ids"].unbind(1)
    vision = inputs["input_ids"][0] == IMAGE
    grids = model.geometry.sizes(inputs["image_grid_thw"], len(inputs["pixel_values"]), prunes=True)
    lengths = [rows * columns for rows, columns in grids]
    kept = torch.cat([_some(random, length) for length in lengths])
    real = ~vision
    real[vision] = kept
    starts = vision.nonzero()[:, 0].split(lengths)
    features = [
        Feature(Place(int(real[: start[0]].sum()), int(flags.sum())), grid)
        for start, flags, grid in zip(starts, kept.split(lengths), grids, strict=True)
    ]

    def count(tokens: list[int], shown: list[Feature]) -> tuple[torch.Tensor, int]:
        assert [each.mm_position.offset for each in shown] == [int(start[0]) for start in starts]
        return full, int(full.max()) + 1 - len(tokens)

    ids = inputs["input_ids"][0][real]
    positions, delta = counted_positions(
        count, ids.tolist(), features[::-1], lambda each: [(0, each.mm_position.length, each.size[0] * each.size[1])]
    )
    assert delta + len(ids) == full.max() + 1
    assert torch.equal(positions[:, ids != IMAGE], full[:, ~vision])
    tokens = [
        with_places(torch.zeros(int(flags.sum()), 1), *flags.view(grid).nonzero().T)
        for flags, grid in zip(kept.split(lengths), grids, strict=True)
    ]
    # In two parts, as of two steps, the second of which comes twice, as after a request was put off.
    places, cut = (ids == IMAGE).nonzero()[:, 0], random.randint(1, int(kept.sum()))
    both = torch.cat(tokens)
    for first, last in ((0, cut), (cut, len(both)), (cut, len(both))):
        if first < last:
            positions = placed_positions(positions, places[first:], [both[first:last]])
    assert torch.equal(positions, full[:, real])


def _some(random: Random, length: int) -> torch.Tensor:
    """(length,) bool, at least one of them True."""
    chosen = random.sample(range(length), random.randint(1, length))
    return torch.zeros(length, dtype=torch.bool).index_fill(0, torch.tensor(chosen), True)
