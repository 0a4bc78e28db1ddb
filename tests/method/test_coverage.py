"""The coverage objective and its greedy maximiser: worked examples, brute force, ties, masks, batches, errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.hub.coverage import coverage_value, first_picks, greedy_coverage, marginal_gains, spread_depths

# Column 1 alone covers 0.4 + 0.5; column 0 then adds 0.6 to row 0; column 2 adds nothing any more.
WORKED = torch.tensor([[1.0, 0.4, 0.2], [0.0, 0.5, 0.5]])


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """Small matrices on a coarse grid of values, so that ties, zero rows and equal columns are common."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    values = draw(st.lists(st.integers(0, 4), min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values, dtype=torch.float32).reshape(rows, columns) / 4


# How many entries of each of the first rows count, in matrices of up to 6 rows and 9 columns: as many of all or not.
DEEP = st.one_of(
    st.tuples(st.integers(0, 6), st.integers(1, 10)),
    st.lists(st.integers(1, 8), max_size=6).map(lambda depths: (len(depths), depths)),
)
Deep: TypeAlias = tuple[int, int | list[int]]


def deep_rows_of(coverage: torch.Tensor, deep: Deep) -> dict[str, Any]:
    """The arguments of the functions."""
    count, depth = min(deep[0], len(coverage)), deep[1]
    return {"deep_rows": count, "depth": depth if isinstance(depth, int) else torch.tensor(depth[:count]).long()}


def value(coverage: torch.Tensor, chosen: Iterable[int], deep_rows: int, depth: int | list[int]) -> float:
    """The sum over rows of the largest chosen entry, of deep rows of the largest ones that count."""
    rows = [sorted((row[column] for column in chosen), reverse=True) for row in coverage.tolist()]
    depths = [depth] * deep_rows if isinstance(depth, int) else depth
    return sum(sum(row[: (*depths, *[1] * 6)[number]]) for number, row in enumerate(rows))


def brute_force(coverage: torch.Tensor, size: int, *deep: Any) -> float:
    return max(value(coverage, chosen, *deep) for chosen in itertools.combinations(range(coverage.shape[1]), size))


def test_worked_example() -> None:
    selection = greedy_coverage(WORKED, 2)
    assert selection.indices.tolist() == [0, 1]
    torch.testing.assert_close(selection.gains, torch.tensor([1.0, 0.5]))
    assert selection.count.item() == 2
    torch.testing.assert_close(selection.coverage, torch.tensor(1.5))
    torch.testing.assert_close(selection.upper_bound, torch.tensor(1.5))
    torch.testing.assert_close(greedy_coverage(WORKED, 1).upper_bound, torch.tensor(1.0 + 0.5))


def test_value_and_marginal_gains_of_a_given_set() -> None:
    assert coverage_value(WORKED, torch.tensor([2, 1])).item() == pytest.approx(0.9)
    assert coverage_value(WORKED, torch.tensor([2, -1])).item() == pytest.approx(0.7)
    assert coverage_value(WORKED, torch.tensor([], dtype=torch.long)).item() == 0
    torch.testing.assert_close(marginal_gains(WORKED, torch.tensor([2, -1, 0])), torch.tensor([0.7, 0.0, 0.8]))
    assert marginal_gains(WORKED, torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert marginal_gains(WORKED[:0], torch.tensor([0, 1])).tolist() == [0, 0]


def test_a_row_that_counts_two_entries() -> None:
    # The second column adds 0.4 to the first row, which a row that counts one entry does not want any more.
    assert greedy_coverage(WORKED, 2, deep_rows=1, depth=2).gains.tolist() == pytest.approx([1.0, 0.9])
    # With three, the last adds 0.2 and 0.0; with two, nothing.
    for depth, last in ((2, 0.0), (3, 0.2), (4, 0.2)):
        selection = greedy_coverage(WORKED, 3, deep_rows=1, depth=depth)
        assert selection.gains.tolist() == pytest.approx([1.0, 0.9, last])
        assert float(selection.coverage) == pytest.approx(1.9 + last)
        assert float(coverage_value(WORKED, deep_rows=1, depth=depth)) == pytest.approx(1.9 + last)


def test_a_row_counts_as_many_columns_as_it_spreads_over() -> None:
    rows = torch.zeros(5, 64)
    rows[0, 3], rows[1, :4], rows[2, :12], rows[3] = 0.5, 0.1, 0.1, 0.01  # one, four, twelve, all; and a filler
    assert spread_depths(rows, 64).tolist() == [1, 4, 8, 1, 1]
    # 12 are more than a quarter of 40 columns, and 4 of 15; weights change nothing.
    assert spread_depths(1e-3 * rows, 40).tolist() == [1, 4, 1, 1, 1]
    assert spread_depths(rows[None].expand(2, -1, -1), torch.tensor([64, 15])).tolist() == [
        [1, 4, 8, 1, 1],
        [1, 1, 1, 1, 1],
    ]


@settings(deadline=None)
@given(matrices(), st.integers(1, 9), DEEP)
def test_guarantee_and_certificate_hold_against_brute_force(coverage: torch.Tensor, budget: int, deep: Deep) -> None:
    rows = deep_rows_of(coverage, deep)
    selection = greedy_coverage(coverage, budget, **rows)
    best = brute_force(coverage, int(selection.count), *deep)
    assert selection.coverage >= (1 - 1 / math.e) * best - 1e-6
    assert selection.upper_bound >= best - 1e-6
    assert selection.coverage.item() == pytest.approx(value(coverage, selection.indices.tolist(), *deep))
    assert selection.coverage.item() == pytest.approx(coverage_value(coverage, selection.indices, **rows).item())
    # A shorter selection with its own certificate is the one with the smaller budget.
    fewer = max(1, int(selection.count) // 2)
    every = torch.ones(coverage.shape[1], dtype=torch.bool)
    for one, other in zip(
        first_picks(selection, coverage, torch.tensor(fewer), every, **rows),
        greedy_coverage(coverage, fewer, **rows),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@settings(deadline=None)
@given(matrices(), DEEP, st.data())
def test_the_value_is_monotone_and_submodular(coverage: torch.Tensor, deep: Deep, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(coverage.shape[1])))
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(order) - 1)] * 2)))
    column = order[-1]

    def gain(before: int) -> float:
        rows = deep_rows_of(coverage, deep)
        small, large = order[:before], [*order[:before], column]
        added = float(coverage_value(coverage, large, **rows) - coverage_value(coverage, small, **rows))
        assert added == value(coverage, large, *deep) - value(coverage, small, *deep)
        return added

    assert gain(first) >= gain(last) >= 0


@settings(deadline=None)
@given(matrices(), st.integers(1, 9), DEEP)
def test_every_pick_has_the_largest_gain_and_the_smallest_index(
    coverage: torch.Tensor, budget: int, deep: Deep
) -> None:
    rows = deep_rows_of(coverage, deep)
    selection = greedy_coverage(coverage, budget, **rows)
    picked: list[int] = []
    for index, gain in zip(selection.indices.tolist(), selection.gains.tolist(), strict=True):
        before = value(coverage, picked, *deep)
        gains = {
            column: value(coverage, [*picked, column], *deep) - before
            for column in range(coverage.shape[1])
            if column not in picked
        }
        # The values are multiples of 1/4, so that these sums have no rounding.
        assert gain == max(gains.values())
        assert index == min(column for column, value in gains.items() if value == gain)
        picked.append(index)
    torch.testing.assert_close(marginal_gains(coverage, selection.indices, **rows), selection.gains)


def test_ties_go_to_the_smallest_index() -> None:
    assert greedy_coverage(torch.ones(3, 5), 3).indices.tolist() == [0, 1, 2]
    assert greedy_coverage(torch.zeros(3, 5), 3).indices.tolist() == [0, 1, 2]
    assert greedy_coverage(torch.eye(4), 4).indices.tolist() == [0, 1, 2, 3]


def test_a_budget_above_the_number_of_columns_picks_each_once() -> None:
    selection = greedy_coverage(WORKED, 7)
    assert selection.indices.tolist() == [0, 1, 2]
    assert selection.count.item() == 3
    assert selection.gains[2].item() == 0


def test_only_candidates_are_picked_and_fewer_candidates_than_the_budget_are_not_repeated() -> None:
    mask = torch.tensor([False, True, True])
    single = greedy_coverage(WORKED, 3, mask)
    assert single.indices.tolist() == [1, 2]
    assert single.count.item() == 2
    torch.testing.assert_close(single.upper_bound, single.coverage)

    batch = greedy_coverage(WORKED.expand(3, 2, 3), 3, torch.stack([mask, ~mask, torch.zeros(3, dtype=torch.bool)]))
    assert batch.indices.tolist() == [[1, 2], [0, -1], [-1, -1]]
    assert batch.count.tolist() == [2, 1, 0]
    torch.testing.assert_close(batch.coverage, torch.tensor([0.9, 1.0, 0.0]))
    torch.testing.assert_close(batch.gains.sum(-1), batch.coverage)
    assert greedy_coverage(WORKED, 2, torch.zeros(3, dtype=torch.bool)).indices.shape == (0,)


def test_non_candidates_do_not_raise_the_certificate() -> None:
    selection = greedy_coverage(torch.eye(3), 1, torch.tensor([True, False, False]))
    assert selection.upper_bound.item() == 1


def test_a_batch_gives_what_its_items_give_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    coverage = torch.rand(2, 3, 7, 11, generator=generator)
    mask = torch.rand(2, 3, 11, generator=generator) < 0.7
    budgets = torch.randint(1, 12, (2, 3), generator=generator)
    depths = torch.randint(1, 9, (2, 3, 4), generator=generator)
    batch = greedy_coverage(coverage, budgets, mask, deep_rows=4, depth=depths)
    for item in itertools.product(range(2), range(3)):
        deep = {"deep_rows": 4, "depth": depths[item]}
        alone = greedy_coverage(coverage[item], int(budgets[item]), mask[item], **deep)
        count = int(alone.count)
        assert batch.count[item] == count
        assert torch.equal(batch.indices[item][:count], alone.indices)
        assert batch.indices[item][count:].eq(-1).all()
        for name in ("gains", "coverage", "upper_bound"):
            expected, found = getattr(alone, name), getattr(batch, name)[item]
            torch.testing.assert_close(found[:count] if name == "gains" else found, expected)


def test_one_mask_serves_all_items_and_an_empty_batch_is_no_error() -> None:
    mask = torch.tensor([False, True, True])
    assert greedy_coverage(WORKED.expand(2, 2, 3), 1, mask).indices.tolist() == [[1], [1]]
    assert greedy_coverage(WORKED.new_zeros(0, 2, 3), 2).indices.shape[0] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_float_dtype_is_computed_in_float32(dtype: torch.dtype) -> None:
    coverage = WORKED.to(dtype)
    selection = greedy_coverage(coverage, 2)
    assert selection.indices.tolist() == [0, 1]
    assert selection.gains.dtype == selection.coverage.dtype == selection.upper_bound.dtype == torch.float32
    assert selection.indices.dtype == selection.count.dtype == torch.int64
    torch.testing.assert_close(selection.coverage, coverage.float()[:, :2].amax(1).sum())


def test_no_gradient_is_kept_and_the_matrix_is_left_alone() -> None:
    coverage = WORKED.clone().requires_grad_()
    selection = greedy_coverage(coverage * 1, 2)
    assert not selection.gains.requires_grad
    assert not selection.coverage.requires_grad
    assert torch.equal(coverage, WORKED)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0, "The budget is 0: keep at least 1 column"),
        (-1, "The budget is -1"),
        (True, "The budget is True: give the number of columns to keep as an integer"),
        (1.5, "The budget is 1.5"),
        (torch.tensor([1.0]), "give the number of columns to keep as an integer"),
        (torch.tensor([1, 2]), r"The budgets have shape \(2,\): give one for each item of \(\)"),
        (torch.tensor(0), "The budget is 0"),
    ],
)
def test_unusable_budgets(budget: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        greedy_coverage(WORKED, budget)


@pytest.mark.parametrize(
    ("deep", "message"),
    [
        ({"depth": 0}, "The depth is 0: give the number of columns"),
        ({"depth": 1.5}, "The depth is 1.5"),
        (
            {"deep_rows": 2, "depth": torch.tensor([1])},
            "int64 and shape \\(1,\\): give int64 for each of the 2 deep rows",
        ),
        ({"deep_rows": 3}, "3 rows are deep, but the coverage matrix has 2"),
        ({"deep_rows": -1}, "-1 rows are deep"),
    ],
)
def test_unusable_depths(deep: dict[str, Any], message: str) -> None:
    for function in (
        lambda: greedy_coverage(WORKED, 1, **deep),
        lambda: coverage_value(WORKED, **deep),
        lambda: marginal_gains(WORKED, [0], **deep),
    ):
        with pytest.raises(ValueError, match=message):
            function()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.25])
def test_unusable_entries(value: float) -> None:
    for place in range(WORKED.numel()):
        coverage = WORKED.clone()
        coverage.view(-1)[place] = value
        with pytest.raises(ValueError, match=f"contains {value}: coverage is defined for finite, non-negative"):
            greedy_coverage(coverage, 1)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_an_empty_matrix(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"has shape \({shape[0]}, {shape[1]}\): give it at least one row"):
        greedy_coverage(torch.zeros(shape), 1)


@pytest.mark.parametrize("matrix", [torch.ones(3), torch.ones(2, 2, dtype=torch.long)])
def test_something_that_is_no_matrix(matrix: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=rf"has dtype {matrix.dtype} and shape .*floating-point values"):
        greedy_coverage(matrix, 1)


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)])
def test_unusable_candidate_masks(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"The candidate mask has dtype .* give a bool mask of shape \(3,\)"):
        greedy_coverage(WORKED, 1, mask)


@pytest.mark.parametrize("function", [coverage_value, marginal_gains])
def test_unusable_selections(function: Callable) -> None:
    with pytest.raises(ValueError, match="Column 3 does not exist: the coverage matrix has 3 columns"):
        function(WORKED, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="Column -2 does not exist"):
        function(WORKED, torch.tensor([-2]))
    with pytest.raises(ValueError, match=r"selection has shape \(1, 2\) .* leading dimensions must be the same"):
        function(WORKED, torch.tensor([[0, 1]]))
