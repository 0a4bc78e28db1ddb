"""Two ways through the same greedy maximisation: every gain at every step, or only those that can still win.

Both read the coverage matrix candidate by candidate, (items, n, rows) contiguous, and compute a gain in one way only:
`_summed` along one candidate's row. Its rounding is the same whichever candidates are computed together, so that
both make the same picks with the same gains, bit for bit on the CPU.

The lazy way (Minoux, 1978) rests on gains only shrinking as a set grows: one that was computed earlier is an upper
bound. Rounding keeps this: subtraction, maximum and addition round monotonically, and the order of additions is fixed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .devices import sent

# Below any gain: marks columns that are picked or no candidates.
_NEVER = -1.0

# Entries that the lazy way computes before it looks for a winner again, at least: fewer take no less time.
_FEWEST_ENTRIES = 2**15
# Entries that it computes in one operation: few enough to stay in a core's cache.
_ENTRIES_AT_ONCE = 2**17


class GreedyPath(NamedTuple):
    """The steps of the maximiser for each item; k is the largest number of picks of an item.

    Attributes:
        indices: (items, k) int64, -1 behind an item's last pick.
        gains: (items, k) float32, 0 there.
        best: (items, rows) float32, each row's largest picked entry.
        left: (items, k) float32, an item's largest gains that are left, as many as its picks, and 0 behind them.
    """

    indices: torch.Tensor
    gains: torch.Tensor
    best: torch.Tensor
    left: torch.Tensor


def plain_greedy(columns: torch.Tensor, available: torch.Tensor, picks: list[int]) -> GreedyPath:
    """Computes every gain at every step, all items at once, without waiting for the device.

    Args:
        columns: (items, n, rows) float32, contiguous, finite and non-negative.
        available: (items, n) bool, columns that may be picked.
        picks: for each item the number of columns to pick, at most the number of those available.
    """
    steps = max(picks, default=0)
    best = columns.new_zeros(columns.shape[0], columns.shape[2])
    taken = ~available
    chosen, gained = [available.new_zeros(len(picks), 0, dtype=torch.long)], [columns.new_zeros(len(picks), 0)]
    fewest = min(picks, default=0)
    counts = sent(torch.tensor(picks), columns.device)[:, None] if fewest < steps else None
    # An accelerator spends these steps on starting one small operation after another: as few as possible.
    for step in range(steps):
        gain, index = _gains(columns, best).masked_fill_(taken, _NEVER).max(-1, keepdim=True)
        covered = torch.maximum(best, columns.take_along_dim(index[..., None], dim=1)[:, 0])
        best = covered if counts is None or step < fewest else torch.where(counts > step, covered, best)
        taken.scatter_(1, index, True)
        chosen.append(index)
        gained.append(gain)
    indices, gains = torch.cat(chosen, 1), torch.cat(gained, 1)
    left = _gains(columns, best).masked_fill_(~available, 0.0).topk(steps).values
    if counts is not None:
        behind = torch.arange(steps, device=columns.device) >= counts
        indices = indices.masked_fill(behind, -1)
        gains, left = gains.masked_fill(behind, 0), left.masked_fill(behind, 0)
    return GreedyPath(indices, gains, best, left)


def lazy_greedy(columns: torch.Tensor, available: torch.Tensor, picks: list[int]) -> GreedyPath:
    """Computes only the gains whose upper bound is still the largest, item by item; arguments as `plain_greedy`.

    It decides on the host at every step: for the CPU.
    """
    items, _, rows = columns.shape
    steps = max(picks, default=0)
    path = GreedyPath(
        torch.full((items, steps), -1, device=columns.device),
        columns.new_zeros(items, steps),
        columns.new_zeros(items, rows),
        columns.new_zeros(items, steps),
    )
    for item, count in enumerate(picks):
        _lazy_item(columns[item], available[item], count, GreedyPath(*(part[item] for part in path)))
    return path


def _lazy_item(columns: torch.Tensor, available: torch.Tensor, picks: int, path: GreedyPath) -> None:
    """Writes the path of one item, (n, rows) `columns`, into `path`."""
    bounds = columns.sum(-1).masked_fill_(~available, _NEVER)
    current = set(range(columns.shape[0]))
    remaining = int(available.sum())
    # Not one column alone: PyTorch may split a single long sum over its threads, and so add in another order.
    at_once = max(2, _ENTRIES_AT_ONCE // columns.shape[1])
    fewest = max(2, _FEWEST_ENTRIES // columns.shape[1])

    def compute(candidates: torch.Tensor) -> None:
        for block in candidates.split(at_once):
            bounds.index_copy_(0, block, _summed(columns.index_select(0, block).sub_(path.best)))
        current.update(candidates.tolist())

    def compute_all() -> None:
        gains = [_gains(block, path.best) for block in columns.split(at_once)]
        bounds.copy_(torch.cat(gains).masked_fill_(bounds < 0, _NEVER))
        current.update(range(columns.shape[0]))

    indices: list[int] = []
    gains: list[float] = []
    width, rounds = fewest, 0
    while len(indices) < picks:
        # The first of equal bounds: where it is a gain, no column before it has as much.
        index = int(bounds.argmax())
        if index in current:
            indices.append(index)
            gains.append(bounds[index].item())
            torch.maximum(path.best, columns[index], out=path.best)
            bounds[index] = _NEVER
            current.clear()
            remaining -= 1
            # As many gains have to be computed for the next pick, or somewhat fewer.
            width, rounds = max(fewest, width - width // 4 if rounds < 2 else width), 0
        elif 2 * width > remaining:
            compute_all()
        else:
            rounds += 1
            width += width // 2 if rounds > 1 else 0
            candidates = bounds.topk(width).indices
            candidates[-1] = index
            compute(candidates)
    path.indices[:picks] = torch.tensor(indices, dtype=torch.long, device=columns.device)
    path.gains[:picks] = torch.tensor(gains, dtype=torch.float32, device=columns.device)

    while remaining and picks:
        largest, candidates = bounds.topk(min(picks, remaining))
        stale = [index for index in candidates.tolist() if index not in current]
        if not stale:
            path.left[: len(largest)] = largest
            break
        compute(torch.tensor(stale, device=columns.device))


def _gains(columns: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """(..., c, rows) and (..., rows) -> (..., c): what each column would add to the rows' best entries."""
    return _summed(columns - best[..., None, :])


def _summed(differences: torch.Tensor) -> torch.Tensor:
    """(..., c, rows), used up -> (..., c): sums of what is above 0. The one place where a gain is added up."""
    return differences.clamp_min_(0).sum(-1)
