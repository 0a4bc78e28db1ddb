"""The greedy maximiser for a coverage matrix that is not held, as that of all frames of a video: memory stays bounded.

All gains are kept. A pick raises the floors of some rows; these alone are computed again, and what they say about the
gains is taken off. All picks together compute each row about as often as a running maximum of as many values changes.
"""

from __future__ import annotations

import torch

from .coverage import GreedySelection, coverage_value
from .devices import to_device
from .greedy import Covered
from .objective import CoverageRows


@torch.no_grad()
def blockwise_greedy_coverage(
    rows: CoverageRows,
    budget: int,
    candidates: torch.Tensor,
    *,
    depth: int | torch.Tensor = 1,
    target: float | None = None,
) -> tuple[GreedySelection, torch.Tensor]:
    """`greedy_coverage` of rows that are read when they are needed; picks are equal but for rounding.

    Args:
        rows: of one item; its text rows are the deep ones.
        budget: columns to pick, at least 1.
        candidates: (n,) bool, the columns that may be picked.
        depth: of the text rows, as that of `coverage_value`.
        target: share of what all candidates cover at which no further column is picked; None for the whole budget.

    Returns:
        The selection, and (2, k) float32, what of each gain covers the text and what the image.
    """
    words, count = rows.text.shape
    free = to_device(candidates, rows.text.device).clone()
    steps = min(budget, int(candidates.sum()))
    wanted = None if target is None else target * (1 - 1e-6) * value_of_all(rows, free, depth=depth)
    every = torch.arange(words + count, device=free.device)
    # In float64: differences are taken off thousands of times.
    gains = torch.zeros(count, dtype=torch.float64, device=free.device)
    for block in rows.blocks(every):
        gains += rows.read(block).sum(0)
    covered = Covered(
        rows.text.new_empty(0, len(every)), words, min(depth, steps + 1) if isinstance(depth, int) else depth
    )
    indices, shares = [every[:0]], [rows.text.new_empty(0, 2)]
    for _ in range(steps):
        index = gains.masked_fill(~free, -1.0).argmax(0, keepdim=True)
        free.index_fill_(0, index, False)
        entries, before = rows.column(index), covered.floors.clone()
        covered.add(entries)
        added = (entries - before).clamp_min_(0)
        indices.append(index)
        shares.append(torch.stack([added[:words].sum(), added[words:].sum()])[None])
        for block in rows.blocks(torch.nonzero(covered.floors > before)[:, 0]):
            low = before[block, None]
            gains -= rows.read(block).clamp_(low, covered.floors[block, None]).sub_(low).sum(0)
        if wanted is not None and covered.sums().sum() >= wanted:
            break
    picked, share, reached = torch.cat(indices), torch.cat(shares).T, covered.sums().sum()
    left = gains.masked_fill(~free, 0.0).clamp_min_(0).topk(len(picked)).values.sum().float()
    number = torch.tensor(len(picked), device=free.device)
    return GreedySelection(picked, share.sum(0), number, reached, reached + left), share


@torch.no_grad()
def value_of_all(rows: CoverageRows, allowed: torch.Tensor, *, depth: int | torch.Tensor = 1) -> torch.Tensor:
    """() float32: what all columns cover together that an (n,) bool mask allows; see `blockwise_greedy_coverage`."""
    words, count = rows.text.shape
    value = coverage_value(rows.text.masked_fill(~allowed, 0.0), deep_rows=words, depth=depth)
    for block in rows.blocks(torch.arange(words, words + count, device=allowed.device)):
        value = value + rows.read(block).masked_fill_(~allowed, 0.0).amax(-1).sum()
    return value
