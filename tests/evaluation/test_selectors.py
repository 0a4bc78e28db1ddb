"""The baselines, on cases worked by hand and against brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configuration_mmtok import OPTION_NAMES
from mmtok.evaluation.selectors import (
    METHODS,
    PAPER_SETTINGS,
    CDPruner,
    CropView,
    DivPrune,
    FastV,
    RandomTokens,
    Selector,
    UniformGrid,
    VisionZip,
    greedy_map,
    max_min_diversity,
)

SELECTORS = [method for method in METHODS.values() if isinstance(method, Selector)]


def view(tokens: int, *, width: int = 8, side: int = 0, words: int = 3, seed: int = 0, **values: Any) -> CropView:
    """A crop with random features; a grid of `side` columns where it is given."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    position = torch.arange(tokens)
    known: dict[str, Any] = {
        "text": random(words, width),
        "vision": random(tokens, width),
        "raw_vision": random(tokens, width),
        "row": position // side if side else torch.full((tokens,), -1),
        "column": position % side if side else torch.full((tokens,), -1),
        "seed": seed,
        "cls_attention": random(tokens).softmax(0),
        "keys": random(tokens, width),
        "language_attention": random(tokens).softmax(0),
    }
    return CropView(**{**known, **values})


def test_the_paper_s_settings_name_every_option_but_the_budget() -> None:
    left_out = {"vision_token_budget", "covered_text", "question_format"}
    assert set(OPTION_NAMES) - set(PAPER_SETTINGS) == left_out


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda selector: selector.name)
@given(tokens=st.integers(1, 20), budget=st.integers(1, 24), side=st.sampled_from([0, 4, 5]), text=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_every_selector_keeps_exactly_the_budget_and_no_token_twice(
    selector: Selector, tokens: int, budget: int, side: int, text: int
) -> None:
    kept = selector.select(view(tokens, side=side, words=text), budget)
    assert len(kept.indices) == min(budget, tokens)
    assert sorted(set(kept.indices.tolist())) == sorted(kept.indices.tolist())
    assert 0 <= int(kept.indices.min()) <= int(kept.indices.max()) < tokens


def test_divprune_on_points_of_a_line() -> None:
    # Places 0, 1, 2, 6, 10: the farthest nearest neighbour is 4 away, of 6 and of 10, so the first of them is picked;
    # then 0 (6 away from 6), then 10 (4 away), then 2 and 1 (1 away from 2).
    places = torch.tensor([0.0, 1.0, 2.0, 6.0, 10.0])
    assert max_min_diversity((places[:, None] - places).abs(), 5).tolist() == [3, 0, 4, 2, 1]


def test_divprune_measures_cosines_and_no_lengths() -> None:
    vision = torch.tensor([[1.0, 0.0], [9.0, 0.1], [0.0, 1.0], [-5.0, 0.0]])
    # The nearest neighbours of the third are at a right angle, farther than anybody else's; the fourth's too.
    assert set(DivPrune().select(view(4, vision=vision), 2).indices.tolist()) in (
        {2, 3},
        {2, 0},
        {2, 1},
        {3, 0},
        {3, 1},
    )
    assert set(DivPrune().select(view(4, vision=vision), 3).indices.tolist()) in ({0, 2, 3}, {1, 2, 3})


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_greedy_map_takes_the_largest_determinant_at_every_step(seed: int) -> None:
    factor = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kernel = factor @ factor.T
    picked = greedy_map(kernel, 4).tolist()
    for step in range(4):
        before = picked[:step]
        options = {
            index: float(torch.det(kernel[[*before, index]][:, [*before, index]]))
            for index in range(6)
            if index not in before
        }
        assert options[picked[step]] == pytest.approx(max(options.values()))


def test_greedy_map_finds_the_best_set_of_orthogonal_items() -> None:
    kernel = torch.diag(torch.tensor([3.0, 1.0, 4.0, 2.0]))
    best = max(combinations(range(4), 2), key=lambda chosen: float(torch.det(kernel[list(chosen)][:, list(chosen)])))
    assert sorted(greedy_map(kernel, 2).tolist()) == list(best) == [0, 2]


def test_greedy_map_goes_on_beyond_the_rank_of_the_kernel() -> None:
    vision = torch.nn.functional.normalize(torch.randn(18, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert sorted(greedy_map(vision @ vision.T, 18).tolist()) == list(range(18))


def test_cdpruner_prefers_relevant_tokens_and_refuses_copies_of_them() -> None:
    vision = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0, 0.0]])
    assert CDPruner().select(view(4, width=3, vision=vision, text=text), 2).indices.tolist() == [0, 2]


def test_visionzip_keeps_what_is_attended_to_and_averages_the_rest() -> None:
    # Ten tokens and a budget of 8: round(8 * 10 / 64) = 1 contextual token, 7 dominant ones.
    attention = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.6, 0.5, 0.4, 0.35])
    raw = torch.arange(10.0)[:, None].expand(10, 4).contiguous()
    kept = VisionZip().select(view(10, cls_attention=attention, raw_vision=raw), 8)
    assert kept.indices.tolist() == [1, 3, 5, 6, 7, 8, 9, 0]
    assert kept.raw_vision is not None
    assert kept.raw_vision[:7, 0].tolist() == [1, 3, 5, 6, 7, 8, 9]
    assert kept.raw_vision[7].tolist() == pytest.approx([(0 + 2 + 4) / 3] * 4)


def test_visionzip_merges_into_the_target_with_the_most_similar_key() -> None:
    # 18 tokens and a budget of 13: 2 contextual. Seven are left, the first and the fourth of them are the targets.
    attention = torch.cat((torch.zeros(7), torch.ones(11)))
    keys = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3 + [[1.0, 0.1]] + [[1.0, 1.0]] * 11)
    raw = torch.arange(18.0)[:, None]
    kept = VisionZip().select(view(18, cls_attention=attention, keys=keys, raw_vision=raw), 13)
    assert kept.indices.tolist() == [*range(7, 18), 0, 3]
    assert kept.raw_vision is not None
    assert kept.raw_vision[-2:, 0].tolist() == [(0 + 1 + 2 + 6) / 4, (3 + 4 + 5) / 3]


def test_fastv_keeps_what_the_language_model_attends_to() -> None:
    attention = torch.tensor([0.1, 0.4, 0.2, 0.3])
    assert FastV().select(view(4, language_attention=attention), 2).indices.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("selector", "field"), [(FastV(), "language_attention"), (VisionZip(), "cls_attention")], ids=["FastV", "VisionZip"]
)
def test_a_selector_without_what_it_needs_says_so(selector: Selector, field: str) -> None:
    missing: dict[str, Any] = {field: None}
    with pytest.raises(ValueError, match=f"'{selector.name}' needs {field}"):
        selector.select(replace(view(4), **missing), 2)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (4, [5, 7, 13, 15]),
        (16, list(range(16))),
        (2, [9, 11]),
    ],
)
def test_uniform_grid_on_four_by_four(budget: int, expected: list[int]) -> None:
    assert sorted(UniformGrid().select(view(16, side=4), budget).indices.tolist()) == expected


def test_random_tokens_depend_on_the_question_alone_and_are_nested() -> None:
    few, many = (RandomTokens().select(view(12, seed=7), budget).indices.tolist() for budget in (3, 6))
    assert many[:3] == few
    assert RandomTokens().select(view(12, seed=8), 6).indices.tolist() != many
