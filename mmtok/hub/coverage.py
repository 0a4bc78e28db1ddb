"""Submodular coverage and its greedy maximiser (MMTok, arXiv 2508.18264, section 3).

For a non-negative matrix C with one row per thing to cover and one column per candidate,

    f(S) = sum_i max_{j in S} C_ij ,    f({}) = 0

is monotone and submodular, so that adding the column with the largest marginal gain k times reaches at least
(1 - 1/e) of the best f(S) over all S of k columns (Nemhauser, Wolsey and Fisher, 1978). The 1/m, 1/n and alpha
of the paper's objective are weights of the rows, see `mmtok.hub.objective.coverage_matrix`.

The first rows can count more than one column: a deep row adds up its r largest selected entries, each row with an r of
its own. A column j then gains max(0, C_ij - b_i(S)) there, b_i(S) being the row's r-th largest selected entry, or 0
where fewer are selected. As b_i only grows with S, gains stay non-negative and only shrink: f is monotone and
submodular for every r, the guarantee is the same, and no k columns T have more than f(S) plus the k largest gains over
S, because

    f(T) <= f(S + T) <= f(S) + sum_{j in T} gain of j over S.

Symbols: C `coverage`, S `selected`, k `budget`, n the number of columns, r `depth` of the first `deep_rows` rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .devices import to_device
from .fused_greedy import fused_greedy, runs_on
from .greedy import DEEPEST, lazy_greedy, plain_greedy, unpicked

# Entries of an item's matrix above which computing only the gains that can win is faster on the CPU; measured by
# benchmarks/selection.py.
_LAZY_FROM = 2**17


class GreedySelection(NamedTuple):
    """What the greedy maximiser picked; "..." are the leading dimensions of the coverage matrix.

    Attributes:
        indices: (..., k) int64, columns in the order in which they were picked; -1 behind the last pick of an item
            that has fewer candidates (or a smaller budget) than the others. Without leading dimensions there is
            no -1: k is then the number of picks.
        gains: (..., k) float32, marginal gain of each pick; 0 where the index is -1.
        count: (...) int64, number of picks.
        coverage: (...) float32, f of the picked columns.
        upper_bound: (...) float32, no set of `count` candidates covers more than this: f(S) plus the `count` largest
            marginal gains that are left.
    """

    indices: torch.Tensor
    gains: torch.Tensor
    count: torch.Tensor
    coverage: torch.Tensor
    upper_bound: torch.Tensor


def spread_depths(rows: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
    """How many columns each row has to count, by how far its mass spreads.

    Entries with the shares p_j of their row spread as far as 1 / sum p_j^2 equal ones (the participation ratio), and so
    many columns are counted, at least 1 and at most `DEEPEST`. A row that spreads over more than a quarter of the
    columns singles none out, such as that of a word that names nothing in the image: it counts one.

    Args:
        rows: (..., m, n) float, non-negative.
        count: how many of the n columns are real; an integer or (...).

    Returns:
        (..., m) int64, the `depth` of the functions below.
    """
    spread = rows.sum(-1).square() / rows.square().sum(-1).clamp_min(torch.finfo(rows.dtype).tiny)
    count = torch.as_tensor(count, device=rows.device)[..., None]
    return torch.where(spread <= count / 4, spread.round().clamp(1, DEEPEST), 1.0).long()


def coverage_value(
    coverage: torch.Tensor, selected: torch.Tensor | None = None, *, deep_rows: int = 0, depth: int | torch.Tensor = 1
) -> torch.Tensor:
    """Value f(S) of a set of columns.

    Args:
        coverage: (..., rows, n) of any float dtype, non-negative.
        selected: (..., k) integer column indices, none of them twice; -1 entries are ignored. None for all columns.
        deep_rows, depth: the first `deep_rows` rows count their `depth` largest selected entries; an integer for all
            of them, or (..., deep_rows) int64 from 1 to `DEEPEST` for each.

    Returns:
        (...) float32: the sum over rows of the largest selected entries, 0 for an empty set.

    Raises:
        ValueError: an index outside -1 ... n - 1, shapes that do not belong together, or a depth below 1.
    """
    coverage = _as_coverage(coverage)
    _require_depth(deep_rows, depth, coverage.shape[-2])
    entries = coverage if selected is None else _columns(coverage, selected)
    if selected is not None and entries.shape[-1] == 0:
        return coverage.new_zeros(coverage.shape[:-2])
    return _counted(entries, deep_rows, depth)[1].sum(-1)


def marginal_gains(
    coverage: torch.Tensor, indices: torch.Tensor, *, deep_rows: int = 0, depth: int | torch.Tensor = 1
) -> torch.Tensor:
    """Gain of each column over the columns before it.

    The gains of a matrix are the sum of the gains of its row blocks: called with the text rows alone or the vision
    rows alone it splits the gains of a selection into a text and a vision share.

    Args:
        coverage: (..., rows, n) of any float dtype, non-negative; rows may be 0.
        indices: (..., k) integer column indices in the order in which they were picked; -1 gains 0.
        deep_rows, depth: see `coverage_value`.

    Returns:
        (..., k) float32.

    Raises:
        ValueError: an index outside -1 ... n - 1, shapes that do not belong together, or a depth below 1.
    """
    coverage = _as_coverage(coverage)
    _require_depth(deep_rows, depth, coverage.shape[-2])
    entries = _columns(coverage, indices)
    if entries.shape[-1] == 0:
        return entries.sum(-2)
    floors = torch.cat(
        [_floors_before(entries[..., :deep_rows, :], depth), _floors_before(entries[..., deep_rows:, :], 1)], -2
    )
    return (entries - floors).clamp_min_(0).sum(-2)


@torch.no_grad()
def greedy_coverage(
    coverage: torch.Tensor,
    budget: int | torch.Tensor,
    candidates: torch.Tensor | None = None,
    *,
    deep_rows: int = 0,
    depth: int | torch.Tensor = 1,
    check_values: bool = True,
) -> GreedySelection:
    """Picks up to `budget` columns that together cover the rows, largest marginal gain first.

    Ties go to the column with the smallest index. A column is never picked twice. No gradient is kept.

    Args:
        coverage: (..., rows, n) of any float dtype, non-negative and finite; computed in float32.
        budget: columns to pick, at least 1; more than the number of candidates picks every candidate. An integer
            tensor of shape (...) gives every item its own.
        candidates: (..., n) or (n,) bool, the columns that may be picked; None for all. On the CPU, like `budget`, it
            costs no waiting for the device.
        deep_rows, depth: see `coverage_value`.
        check_values: False leaves out the one look at the entries, which on an accelerator has to wait for them.

    Returns:
        `GreedySelection`.

    Raises:
        ValueError: a budget or depth below 1, an empty matrix, NaN, infinite or negative entries, or a candidate mask
            of another shape.
    """
    coverage = _as_coverage(coverage)
    _require_depth(deep_rows, depth, coverage.shape[-2])
    if coverage.shape[-2] == 0 or coverage.shape[-1] == 0:
        raise ValueError(
            f"The coverage matrix has shape {tuple(coverage.shape)}: give it at least one row to cover and one column."
        )
    # Candidate by candidate: no copy where the matrix was laid out like this.
    columns = coverage.transpose(-1, -2).contiguous()
    if check_values:
        _require_covering(columns)
    leading, count = columns.shape[:-2], columns.shape[-2]
    items = columns.reshape(-1, *columns.shape[-2:])
    if candidates is None and isinstance(budget, int):
        # Nothing has to be looked at, so that all of it can be compiled as one graph.
        picked = [min(_as_budget(budget), count)] * items.shape[0]
        picks = torch.full(leading, max(picked, default=0), dtype=torch.long, device=columns.device)
        available = torch.ones(items.shape[:2], dtype=torch.bool, device=columns.device)
    else:
        allowed = _as_candidates(candidates, leading, count)
        picks = torch.minimum(_as_budgets(budget, leading), allowed.sum(-1).cpu())
        picked = picks.flatten().tolist()
        picks, available = to_device(picks, columns.device), to_device(allowed, columns.device).reshape(-1, count)
    steps = max(picked, default=0)
    if isinstance(depth, int):
        depth = min(depth, steps + 1)  # so many are never picked: no floor would rise
        deep = deep_rows * (depth > 1) > 0
    else:
        depth, deep = depth.reshape(len(items), deep_rows), deep_rows > 0
    maximise = _MAXIMISERS[greedy_way(items.device, items.shape[2], items.shape[1], steps, deep)]
    path = maximise(items, available, picked, deep_rows, depth)
    reached = path.covered.sum(-1)
    return GreedySelection(
        path.indices.reshape(*leading, steps),
        path.gains.reshape(*leading, steps),
        picks,
        reached.reshape(leading),
        (reached + path.left.sum(-1)).reshape(leading),
    )


def greedy_way(device: torch.device, rows: int, columns: int, steps: int, deep: bool = False) -> str:
    """Which way `greedy_coverage` takes for matrices of this size and so many picks: all of them pick the same.

    Returns:
        "fused", one kernel on CUDA; "lazy", on the CPU for large matrices; "plain", every gain at every step, also
        where torch.compile reads the code.
    """
    if torch.compiler.is_compiling():
        return "plain"
    if device.type == "cpu":
        return "lazy" if rows * columns >= _LAZY_FROM else "plain"
    return "fused" if steps and runs_on(device, columns, rows, deep) else "plain"


_MAXIMISERS = {"fused": fused_greedy, "lazy": lazy_greedy, "plain": plain_greedy}


@torch.no_grad()
def first_picks(
    selection: GreedySelection,
    coverage: torch.Tensor,
    count: torch.Tensor,
    candidates: torch.Tensor,
    *,
    deep_rows: int = 0,
    depth: int | torch.Tensor = 1,
) -> GreedySelection:
    """The first picks of a selection, with the coverage and the bound that so many have.

    Args:
        selection: of `coverage`.
        coverage: (..., rows, n) of any float dtype, non-negative.
        count: (...) int64, picks to keep of each item, at most those that it has.
        candidates: (..., n) bool, the columns that could be picked.
        deep_rows, depth: of the selection.
    """
    coverage, count = _as_coverage(coverage), count.to(coverage.device)
    steps = int(count.max()) if count.numel() else 0
    behind = torch.arange(steps, device=coverage.device) >= count[..., None]
    indices = selection.indices[..., :steps].masked_fill(behind, -1)
    floors, covered = _counted(_columns(coverage, indices), deep_rows, depth)
    left = (coverage - floors[..., None]).clamp_min(0).sum(-2).masked_fill(~to_device(candidates, coverage.device), 0)
    left = unpicked(left, indices).topk(steps).values.masked_fill(behind, 0)
    reached = covered.sum(-1)
    gains = selection.gains[..., :steps].masked_fill(behind, 0)
    return GreedySelection(indices, gains, count, reached, reached + left.sum(-1))


def _columns(coverage: torch.Tensor, selected: torch.Tensor) -> torch.Tensor:
    """(..., rows, n) and (..., k) -> (..., rows, k), with zero columns where the index is -1."""
    selected = torch.as_tensor(selected, dtype=torch.long, device=coverage.device)
    if selected.shape[:-1] != coverage.shape[:-2]:
        raise ValueError(
            f"The selection has shape {tuple(selected.shape)} and the coverage matrix {tuple(coverage.shape)}: "
            "their leading dimensions must be the same."
        )
    outside = (selected < -1) | (selected >= coverage.shape[-1])
    if bool(outside.any()):
        raise ValueError(
            f"Column {int(selected[outside][0])} does not exist: the coverage matrix has {coverage.shape[-1]} columns."
        )
    index = selected.clamp_min(0)[..., None, :].expand(*coverage.shape[:-1], selected.shape[-1])
    return coverage.gather(-1, index) * (selected >= 0)[..., None, :]


def _counted(entries: torch.Tensor, deep_rows: int, depth: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., rows, k) -> (..., rows) twice: each row's floor, and the sum of the entries that count."""
    largest = entries.amax(-1)
    if deep_rows == 0 or (isinstance(depth, int) and depth == 1):
        return largest, largest
    count, (depths, deepest) = entries.shape[-1], _depths(depth, entries)
    deep = entries[..., :deep_rows, :].topk(min(deepest, count)).values
    deep = torch.nn.functional.pad(deep, (0, deepest - deep.shape[-1]))
    counted = deep * (torch.arange(deepest, device=deep.device) < depths)
    floors = deep.gather(-1, (depths - 1).expand(*deep.shape[:-1], 1))[..., 0]
    others = largest[..., deep_rows:]
    return torch.cat([floors, others], -1), torch.cat([counted.sum(-1), others], -1)


def _floors_before(entries: torch.Tensor, depth: int | torch.Tensor) -> torch.Tensor:
    """(..., rows, k) entries in the order in which they were picked -> (..., rows, k), the floor that each met."""
    (depths, deepest), met = _depths(depth, entries), entries
    for level in range(min(deepest, entries.shape[-1])):
        floors = torch.nn.functional.pad(entries.cummax(-1).values[..., :-1], (1, 0))
        entries = torch.minimum(floors, entries)  # what each moves down
        met = torch.where(depths > level, floors, met)
    return met


def _depths(depth: int | torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(..., 1) of the deep rows, and what none of them is above."""
    if isinstance(depth, torch.Tensor):
        return depth[..., None], DEEPEST
    depth = min(depth, like.shape[-1] + 1)  # so many are never picked
    return torch.full((1,), depth, device=like.device), depth


def _as_coverage(coverage: torch.Tensor) -> torch.Tensor:
    if not coverage.is_floating_point() or coverage.dim() < 2:
        raise ValueError(
            f"The coverage matrix has dtype {coverage.dtype} and shape {tuple(coverage.shape)}: "
            "give floating-point values of shape (..., rows, columns)."
        )
    return coverage.float()


def _require_depth(deep_rows: int, depth: int | torch.Tensor, rows: int) -> None:
    if isinstance(depth, torch.Tensor):
        if depth.shape[-1] != deep_rows or depth.dtype != torch.long:
            raise ValueError(
                f"The depths have dtype {depth.dtype} and shape {tuple(depth.shape)}: give int64 for each of the "
                f"{deep_rows} deep rows."
            )
    elif not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
        raise ValueError(f"The depth is {depth!r}: give the number of columns that a deep row counts, at least 1.")
    if not 0 <= deep_rows <= rows:
        raise ValueError(f"{deep_rows} rows are deep, but the coverage matrix has {rows}: give 0 to {rows}.")


def _as_budget(budget: object) -> int:
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise ValueError(f"The budget is {budget!r}: give the number of columns to keep as an integer.")
    if budget < 1:
        raise ValueError(f"The budget is {budget}: keep at least 1 column.")
    return budget


def _as_budgets(budget: int | torch.Tensor, leading: torch.Size) -> torch.Tensor:
    """One budget for each item, int64 on the CPU."""
    if isinstance(budget, torch.Tensor) and not budget.is_floating_point() and budget.dtype != torch.bool:
        if budget.shape not in (leading, torch.Size([])):
            raise ValueError(
                f"The budgets have shape {tuple(budget.shape)}: give one for each item of {tuple(leading)}."
            )
        budgets = budget.to("cpu", torch.long).expand(leading)
    else:
        budgets = torch.full(leading, _as_budget(budget), dtype=torch.long, device="cpu")
    if bool((budgets < 1).any()):
        raise ValueError(f"The budget is {int(budgets.min())}: keep at least 1 column.")
    return budgets


def _as_candidates(candidates: torch.Tensor | None, leading: torch.Size, columns: int) -> torch.Tensor:
    """A mask for every item, where the given one is."""
    if candidates is None:
        return torch.ones((*leading, columns), dtype=torch.bool)
    if candidates.dtype != torch.bool or candidates.shape not in ((*leading, columns), (columns,)):
        raise ValueError(
            f"The candidate mask has dtype {candidates.dtype} and shape {tuple(candidates.shape)}: "
            f"give a bool mask of shape {(*leading, columns)}."
        )
    return candidates.expand(*leading, columns)


def _require_covering(coverage: torch.Tensor) -> None:
    """Raises unless every entry is finite and non-negative; one reduction, one value read back."""
    low, high = coverage.aminmax() if coverage.numel() else (coverage.new_zeros(()), coverage.new_zeros(()))
    if not bool((low >= 0) & torch.isfinite(high)):
        bad = coverage[~(torch.isfinite(coverage) & (coverage >= 0))][0]
        raise ValueError(
            f"The coverage matrix contains {float(bad)}: coverage is defined for finite, non-negative entries."
        )
