"""Options beyond the paper: adaptive budgets and temperatures in spreads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import Family

from configuration_mmtok import MMTokLlavaConfig, PruningOptions
from mmtok.hub import selection
from mmtok.hub.coverage import coverage_value
from mmtok.hub.images import EncodedVision, Layout
from mmtok.hub.objective import coverage_matrix
from mmtok.hub.question import Question
from mmtok.hub.selection import ImageSelection


def select(
    vision: torch.Tensor, raw: torch.Tensor, text: torch.Tensor, allowed: torch.Tensor | None = None, **options: Any
) -> ImageSelection:
    layout = Layout.of(torch.arange(len(vision)), crops=1, tokens_per_crop=len(vision), columns=0)
    encoded = EncodedVision([vision], [raw], [layout], None if allowed is None else [allowed])
    given = PruningOptions(**{"vision_token_budget": 12, "padding": "exclude", **options})
    mask = torch.ones(1, len(text), dtype=torch.bool)
    selected = selection.select(encoded, text[None], mask, given, explain=True)
    return selection.describe(selected, [layout], [0], [Question((), ())])[0]


def picks(kept: ImageSelection) -> torch.Tensor:
    """(K,) the kept tokens in the order of the picks."""
    return kept.indices[kept.pick_order.argsort()]


def features(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, 6, generator=generator) for count in (12, 12, 2))


@given(seed=st.integers(0, 500), target=st.floats(0.05, 1.0), some=st.booleans(), depth=st.sampled_from([1, 1, 2, 20]))
@settings(max_examples=40, deadline=None)
def test_the_fewest_greedy_picks_that_reach_the_target_are_kept(
    seed: int, target: float, some: bool, depth: int
) -> None:
    vision, raw, text = features(seed)
    allowed = torch.arange(12) % 3 > 0 if some else None
    matrix = coverage_matrix(text, vision, raw)
    everything = torch.arange(12) if allowed is None else torch.nonzero(allowed)[:, 0]
    deep = {"deep_rows": len(text), "depth": depth}
    wanted = target * float(coverage_value(matrix, everything, **deep))
    spent = picks(select(vision, raw, text, allowed, text_coverage_depth=depth))
    kept = select(vision, raw, text, allowed, text_coverage_depth=depth, coverage_target=target)
    count = len(kept.indices)
    assert picks(kept).tolist() == spent[:count].tolist()
    assert float(coverage_value(matrix, picks(kept), **deep)) >= wanted * (1 - 1e-5)
    if count > 1:
        assert float(coverage_value(matrix, picks(kept)[:-1], **deep)) < wanted
    assert kept.coverage <= kept.upper_bound + 1e-6
    assert kept.coverage == pytest.approx(float((kept.text_gain + kept.vision_gain).sum()), rel=1e-5)
    assert kept.coverage <= kept.full_coverage == pytest.approx(float(coverage_value(matrix, **deep)))


def test_the_budget_stays_the_upper_limit() -> None:
    vision, raw, text = features(0)
    assert len(select(vision, raw, text, coverage_target=1.0, vision_token_budget=3).indices) == 3


def test_a_image_of_equal_tokens_needs_one_of_them() -> None:
    vision = torch.ones(12, 6)
    assert len(select(vision, vision, torch.ones(2, 6), coverage_target=0.99).indices) == 1


def test_rows_of_a_batch_may_end_at_different_lengths_and_equal_themselves_alone(family: Family) -> None:
    model, _ = family.models()
    pruning_options = {"vision_token_budget": 12, "coverage_target": 0.8}
    inputs = family.inputs([[3, (50, 50), 5], [4, (24, 24), 9], [2, (24, 48), 1]], model)
    inputs["pixel_values"] = family.nearly_of_one_colour(inputs, 1, images=3)
    together = model.select_vision_tokens(**inputs, **pruning_options)
    counts = [len(image.indices) for image in together.images]
    assert len(set(counts)) > 1
    for row in range(3):
        alone = family.single(inputs, row, slice(row, row + 1))
        assert torch.equal(
            model.select_vision_tokens(**alone, **pruning_options).images[0].indices, together.images[row].indices
        )
        new = model.generate(**alone, **pruning_options, max_new_tokens=4, do_sample=False)[0, -4:]
        assert torch.equal(
            model.generate(**inputs, **pruning_options, max_new_tokens=4, do_sample=False)[row, -4:], new
        )


def test_rows_without_padding_that_end_up_unequal_are_padded_in_front(family: Family) -> None:
    model, _ = family.models()
    pruning_options = {"vision_token_budget": 12, "coverage_target": 0.8}
    inputs = family.inputs([[3, (50, 50), 5], [3, (50, 50), 5]], model)
    assert bool((inputs["attention_mask"] == 1).all())
    inputs["pixel_values"] = family.nearly_of_one_colour(inputs, 1, images=2)
    together = model.generate(**inputs, **pruning_options, max_new_tokens=4, do_sample=False)[:, -4:]
    counts = [len(image.indices) for image in model.select_vision_tokens(**inputs, **pruning_options).images]
    assert counts[0] != counts[1]
    for row in range(2):
        alone = family.single(inputs, row, slice(row, row + 1))
        assert torch.equal(
            model.generate(**alone, **pruning_options, max_new_tokens=4, do_sample=False)[0, -4:], together[row]
        )


def test_options_are_live_in_the_model(family: Family) -> None:
    model, _ = family.models()
    inputs = family.inputs([[3, (50, 50), 25]], model)

    def seen(**options: Any) -> tuple[Any, Any]:
        selection = model.select_vision_tokens(**inputs, vision_token_budget=6, **options)
        return selection.kept_mask.tolist(), selection.images[0].text_gain.tolist()

    for options in ({"coverage_target": 0.3}, {"text_temperature": 0.5}):
        assert seen(**options) != seen()


@pytest.mark.parametrize("value", [0, 1.5, -0.1, float("nan"), "most", True])
def test_targets_out_of_range_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"coverage_target is .*: give a share in \(0, 1\]"):
        MMTokLlavaConfig(coverage_target=value)
