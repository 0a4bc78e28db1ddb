"""Both ways through the greedy maximisation make the same picks with the same gains, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.hub import coverage as coverage_module
from mmtok.hub import greedy
from mmtok.hub.coverage import GreedySelection, greedy_coverage
from mmtok.hub.objective import coverage_matrix

PLAIN, LAZY = 10**18, 0


def selected(
    matrix: torch.Tensor, lazy_from: int, *arguments: Any, front: int = 2**18, at_once: int = 2**17, **deep: int
) -> GreedySelection:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage_module, "_LAZY_FROM", lazy_from)
        patch.setattr(greedy, "_FRONT_ENTRIES", front)
        patch.setattr(greedy, "_ENTRIES_AT_ONCE", at_once)
        return greedy_coverage(matrix, *arguments, **deep)


def assert_same(first: GreedySelection, second: GreedySelection) -> None:
    for name, one, other in zip(GreedySelection._fields, first, second, strict=True):
        assert torch.equal(one, other), name


@settings(deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 2**20),
    items=st.integers(1, 3),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    front=st.sampled_from([1, 100, 2**18]),
    at_once=st.sampled_from([1, 200, 2**17]),
)
def test_same_picks_gains_and_certificates(
    data: st.DataObject, seed: int, items: int, rows: int, columns: int, front: int, at_once: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(items, rows, columns, generator=generator)
    shape = data.draw(st.sampled_from(["any", "few values", "steep", "tiny"]))
    if shape == "few values":  # ties
        matrix = (matrix * 3).round() / 3
    elif shape == "steep":
        matrix = matrix**8
    elif shape == "tiny":  # below float32's normal numbers
        matrix = matrix * 1e-40
    same = torch.randint(columns, (data.draw(st.integers(0, columns)),), generator=generator)
    matrix[..., same] = matrix[..., :1].clone()
    matrix[:, torch.rand(rows, generator=generator) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))] = 0  # filler rows
    mask = None
    if data.draw(st.booleans()):
        mask = torch.rand(items, columns, generator=generator) < data.draw(st.sampled_from([0.1, 0.8]))
    budgets = torch.randint(1, columns + 3, (items,), generator=generator)

    deep = {"deep_rows": data.draw(st.integers(0, rows)), "depth": data.draw(st.sampled_from([1, 2, 3, 50, None]))}
    if deep["depth"] is None:
        deep["depth"] = torch.randint(1, 9, (items, deep["deep_rows"]), generator=generator)

    plain = selected(matrix, PLAIN, budgets, mask, **deep)
    assert_same(selected(matrix, LAZY, budgets, mask, front=front, at_once=at_once, **deep), plain)


@pytest.mark.parametrize(("tokens", "budget", "spread"), [(576, 64, 0.3), (576, 576, 2.0), (1200, 90, 0.3)])
def test_same_at_the_sizes_of_images(tokens: int, budget: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(tokens)
    centres = torch.randn(20, 32, generator=generator)[torch.randint(20, (tokens,), generator=generator)]
    vision = centres + spread * torch.randn(tokens, 32, generator=generator)
    matrix = coverage_matrix(torch.randn(7, 32, generator=generator), vision, vision)
    for deep in ({}, {"deep_rows": 7, "depth": 4}):
        assert_same(selected(matrix, LAZY, budget, **deep), selected(matrix, PLAIN, budget, **deep))


def test_the_lazy_way_computes_fewer_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    summed = greedy._summed

    def counting(differences: torch.Tensor) -> torch.Tensor:
        computed.append(differences.shape[0])
        return summed(differences)

    monkeypatch.setattr(greedy, "_summed", counting)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 32, generator=generator).repeat_interleave(25, 0)
    features = features + 0.1 * torch.randn(300, 32, generator=generator)
    matrix = coverage_matrix(features[:0], features, features)
    selected(matrix, LAZY, 40)
    assert sum(computed) < 0.5 * 40 * 300


def test_the_layout_in_memory_does_not_matter() -> None:
    matrix = torch.rand(2, 30, 20, generator=torch.Generator().manual_seed(1))
    by_column = matrix.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert_same(greedy_coverage(matrix, 9), greedy_coverage(by_column, 9))


@pytest.mark.parametrize("lazy_from", [PLAIN, LAZY])
def test_the_default_dtype_does_not_matter(lazy_from: int) -> None:
    matrix = torch.rand(30, 20, generator=torch.Generator().manual_seed(2))
    expected = selected(matrix, lazy_from, 9)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert_same(selected(matrix, lazy_from, 9), expected)
    finally:
        torch.set_default_dtype(before)
