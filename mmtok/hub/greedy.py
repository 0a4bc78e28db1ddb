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

from .devices import to_device

# Below any gain: marks columns that are picked or no candidates.
_NEVER = -1.0

# No row of a tensor of depths counts more columns, so that the host knows how many levels there are.
DEEPEST = 8
# Entries that the lazy way computes in one operation: few enough to stay in a core's cache.
_ENTRIES_AT_ONCE = 2**17
# Entries of the columns that it computes at every step, at most.
_FRONT_ENTRIES = 2**18


class GreedyPath(NamedTuple):
    """The steps of the maximiser for each item; k is the largest number of picks of an item.

    Attributes:
        indices: (items, k) int64, -1 behind an item's last pick.
        gains: (items, k) float32, 0 there.
        covered: (items, rows) float32, the sum of the picked entries that count in each row.
        left: (items, k) float32, an item's largest gains that are left, as many as its picks, and 0 behind them.
    """

    indices: torch.Tensor
    gains: torch.Tensor
    covered: torch.Tensor
    left: torch.Tensor


class Covered:
    """The entries of picked columns that count: of a deep row as many as its depth, of every other row the largest.

    What a column adds to a row is how far its entry is above the row's floor, the smallest entry that counts, which is
    0 until enough are picked. Floors only rise as columns are picked, so that gains only shrink: the sum over the rows
    is monotone and submodular for all depths, which the lazy way and the upper bound rest on.

    Args:
        columns: (..., n, rows), of which columns are picked.
        deep_rows: the first so many rows are deep.
        depth: of all deep rows, at least 1, or (..., deep_rows) int64 of each, at most `DEEPEST`.

    Attributes:
        floors: (..., rows).
        above: (..., deepest - 1, deep_rows), the other entries that count, largest first, behind an infinity for each
            level that a row does not count.
    """

    def __init__(self, columns: torch.Tensor, deep_rows: int, depth: int | torch.Tensor) -> None:
        *leading, _, rows = columns.shape
        deepest = depth if isinstance(depth, int) else DEEPEST
        self.floors = columns.new_zeros(*leading, rows)
        self.above = columns.new_zeros(*leading, deepest - 1, deep_rows)
        if isinstance(depth, torch.Tensor):
            level = torch.arange(1, deepest, device=columns.device)[:, None]
            self.above.masked_fill_(level <= deepest - depth[..., None, :], torch.inf)

    def add(self, entries: torch.Tensor) -> None:
        """Counts the (..., rows) entries of a picked column."""
        deep = self.above.shape[-1]
        if self.above.numel():
            # An entry takes its place among those above, and each that is smaller moves down by one.
            before = torch.nn.functional.pad(self.above, (0, 0, 1, 0), value=torch.inf)
            moved = torch.minimum(before, entries[..., None, :deep])
            torch.maximum(self.above, moved[..., :-1, :], out=self.above)
            entries = torch.cat([moved[..., -1, :], entries[..., deep:]], -1)
        torch.maximum(self.floors, entries, out=self.floors)

    def sums(self) -> torch.Tensor:
        """(..., rows)"""
        if not self.above.numel():
            return self.floors
        counted = self.above.masked_fill(self.above == torch.inf, 0.0).sum(-2)
        above = torch.nn.functional.pad(counted, (0, self.floors.shape[-1] - self.above.shape[-1]))
        return self.floors + above


def plain_greedy(
    columns: torch.Tensor, available: torch.Tensor, picks: list[int], deep_rows: int = 0, depth: int | torch.Tensor = 1
) -> GreedyPath:
    """Computes every gain at every step, all items at once, without waiting for the device.

    Args:
        columns: (items, n, rows) float32, contiguous, finite and non-negative.
        available: (items, n) bool, columns that may be picked.
        picks: for each item the number of columns to pick, at most the number of those available.
        deep_rows, depth: see `Covered`.
    """
    steps = max(picks, default=0)
    covered = Covered(columns, deep_rows, depth)
    taken = ~available
    chosen, gained = [available.new_zeros(len(picks), 0, dtype=torch.long)], [columns.new_zeros(len(picks), 0)]
    fewest = min(picks, default=0)
    counts = to_device(torch.tensor(picks), columns.device)[:, None] if fewest < steps else None
    # An accelerator spends these steps on starting one small operation after another: as few as possible.
    for step in range(steps):
        gain, index = _gains(columns, covered.floors).masked_fill_(taken, _NEVER).max(-1, keepdim=True)
        picked = columns.gather(1, index[..., None].expand(-1, -1, columns.shape[2]))[:, 0]
        covered.add(picked if counts is None or step < fewest else picked.masked_fill(counts <= step, 0.0))
        taken.scatter_(1, index, True)
        chosen.append(index)
        gained.append(gain)
    indices, gains = torch.cat(chosen, 1), torch.cat(gained, 1)
    behind = None if counts is None else torch.arange(steps, device=columns.device) >= counts
    if behind is not None:
        indices, gains = indices.masked_fill(behind, -1), gains.masked_fill(behind, 0)
    left = _gains(columns, covered.floors).masked_fill_(~available, 0.0)
    if covered.above.numel():
        left = unpicked(left, indices)
    left = left.topk(steps).values
    if behind is not None:
        left = left.masked_fill(behind, 0)
    return GreedyPath(indices, gains, covered.sums(), left)


def lazy_greedy(
    columns: torch.Tensor, available: torch.Tensor, picks: list[int], deep_rows: int = 0, depth: int | torch.Tensor = 1
) -> GreedyPath:
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
        covered = Covered(columns[item], deep_rows, depth if isinstance(depth, int) else depth[item])
        lazy = _LazyItem(columns[item], available[item], covered)
        for step in range(count):
            path.indices[item, step], path.gains[item, step] = lazy.pick()
        path.covered[item] = covered.sums()
        if count:
            left = lazy.largest_left(count)
            path.left[item, : len(left)] = left
    return path


class _LazyItem:
    """One item, (n, rows) `columns`, on its way; its picks are added to `covered`.

    `bounds` are upper bounds of all gains, -1 for columns that are picked or no candidates. The front are the columns
    with the largest ones, side by side in memory: their gains are computed at every step. As long as the best of them
    is above all other bounds, it wins; where it is not, the others that could win are computed too, and the front is
    chosen anew.
    """

    def __init__(self, columns: torch.Tensor, available: torch.Tensor, covered: Covered) -> None:
        self._columns, self._covered = columns, covered
        self._floors = covered.floors  # raised in place
        self._bounds = columns.sum(-1).masked_fill_(~available, _NEVER)
        self._at_once = max(2, _ENTRIES_AT_ONCE // columns.shape[1])
        self._widest = max(2, min(len(columns) // 8, _FRONT_ENTRIES // columns.shape[1]))
        self._width = max(2, self._widest // 2)
        self._picked = self._lasted = 0
        # Kept from pick to pick: the system takes longer to hand out memory than a core to fill it.
        self._fronts, self._differences = columns.new_empty(2, self._widest, columns.shape[1])

    def pick(self) -> tuple[int, float]:
        """Picks a column: its index and gain."""
        if self._picked > 1:
            index, gain, front_stays = self._from_front()
        else:
            if self._picked:
                # The first pick lowers every gain, most of them by more than they differ.
                gains = [_gains(block, self._floors) for block in self._columns.split(self._at_once)]
                self._bounds = torch.cat(gains).masked_fill_(self._bounds < 0, _NEVER)
            index, gain = self._first_of_largest()
            front_stays = self._picked == 0
        self._covered.add(self._columns[index])
        self._bounds[index] = _NEVER
        self._picked += 1
        if not front_stays:
            self._choose_front()
        return index, gain

    def largest_left(self, count: int) -> torch.Tensor:
        """The `count` largest gains that are left, fewer where fewer candidates are."""
        count = min(count, int((self._bounds >= 0).sum()))
        if count:
            first = self._bounds.topk(count).indices
            least = self._compute(first).min()
            self._compute((self._bounds > least).index_fill_(0, first, False).nonzero()[:, 0])
        return self._bounds.topk(count).values

    def _from_front(self) -> tuple[int, float, bool]:
        """The column that wins now: index, gain, and whether the front can stay."""
        differences = torch.sub(self._front, self._floors, out=self._differences[: len(self._front)])
        found = _summed(differences).masked_fill_(self._front_taken, _NEVER)
        top, place = found.max(0)
        gain = float(top)
        self._lasted += 1
        if gain > self._outside:
            self._front_taken[place] = True
            return self._front_indices[int(place)], gain, True
        self._bounds.index_copy_(0, self._front_columns, found)
        # At least 0: nothing is left of a front whose columns are all picked.
        could_win = (self._bounds >= max(gain, 0.0)).index_fill_(0, self._front_columns, False)
        self._compute(could_win.nonzero()[:, 0])
        # Wider where it lasted for a pick or two only, and narrower where it lasted for many.
        if self._lasted < 3:
            self._width = min(self._widest, self._width + self._width // 2 + 1)
        elif self._lasted > 6:
            self._width = max(2, self._width - self._width // 4)
        return *self._first_of_largest(), False

    def _choose_front(self) -> None:
        largest = self._bounds.topk(min(self._width + 1, len(self._bounds)))
        self._outside = float(largest.values[-1])
        # In their order, so that the first of equal gains wins here, too.
        self._front_columns = largest.indices[:-1].sort().values
        self._front_indices = self._front_columns.tolist()
        self._front = self._fronts[: len(self._front_columns)]
        torch.index_select(self._columns, 0, self._front_columns, out=self._front)
        self._front_taken = self._bounds.index_select(0, self._front_columns) < 0
        self._lasted = 0

    def _first_of_largest(self) -> tuple[int, float]:
        """The first of the columns with the largest bound, which is known to be a gain."""
        index = int(self._bounds.argmax())
        return index, float(self._bounds[index])

    def _compute(self, which: torch.Tensor) -> torch.Tensor:
        """(c,) indices -> (c,) the gains, which are also written into the bounds."""
        gains = []
        for block in which.split(self._at_once):
            # Not one column alone: PyTorch may split a single long sum over its threads, and so add in another order.
            several = block if len(block) != 1 else block.expand(2)
            gains.append(_summed(self._columns.index_select(0, several).sub_(self._floors))[: len(block)])
        computed = torch.cat(gains)
        self._bounds.index_copy_(0, which, computed)
        return computed


def unpicked(gains: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """(..., n) gains, with 0 at the (..., k) picked columns, -1 behind the last; a pick can still gain in deep rows."""
    return gains.scatter(-1, torch.where(indices < 0, indices[..., :1], indices).clamp_min(0), 0.0)


def _gains(columns: torch.Tensor, floors: torch.Tensor) -> torch.Tensor:
    """(..., c, rows) and (..., rows) -> (..., c): what each column would add to what counts in the rows."""
    return _summed(columns - floors[..., None, :])


def _summed(differences: torch.Tensor) -> torch.Tensor:
    """(..., c, rows), used up -> (..., c): sums of what is above 0. The one place where a gain is added up."""
    return differences.clamp_min_(0).sum(-1)
