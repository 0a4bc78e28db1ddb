"""The whole greedy loop of `.greedy` in one Triton kernel, for CUDA: one launch instead of several for each pick.

One program for each item keeps all gains in registers. A pick raises the floors of some rows; only what those rows say
about the gains is computed again. A row is raised about as often as a running maximum of as many values changes: all
steps together read the matrix a few times, instead of once each. The gains that decide are sums of differences and
may be off by rounding; those that are reported are computed from the picked column, and those that are left, on which
the upper bound rests, from the matrix.

A device is trusted with the kernel once it has made the plain loop's picks there (`runs_on`).
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch

from .devices import to_device
from .greedy import Covered, GreedyPath, plain_greedy

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

_log = logging.getLogger(__name__)

# Columns and rows of a matrix that a program takes: fewer are not worth it, more don't fit its registers.
_FEWEST, _MOST = 32, 4096
# Entries that are read at once, and the most rows that they are of: what the registers of a program hold.
_ENTRIES, _ROWS = 2**14, 16


def _jit(function: Any) -> Any:
    """A function of the kernel, or the kernel; without Triton nothing calls it."""
    return function if triton is None else triton.jit(function, do_not_specialize=["steps", "levels", "deep_rows"])


@_jit
def _gains_over(rows_ptr, floors_ptr, count, height, column, few, COUNT: tl.constexpr, ROWS: tl.constexpr):
    """What each column would add to the rows, computed from the matrix."""
    gain = tl.zeros([COUNT], tl.float32)
    for start in range(0, height, ROWS):
        number = start + few
        mask = (number[:, None] < height) & (column[None, :] < count)
        values = tl.load(rows_ptr + number[:, None] * count + column[None, :], mask=mask, other=0.0)
        floors = tl.load(floors_ptr + number, mask=number < height, other=0.0)[:, None]
        gain += tl.sum(tl.maximum(values - floors, 0.0), 0)
    return gain


@_jit
def _gains_after(gain, rows_ptr, raised_ptr, before_ptr, after_ptr, total, count, column, few, ROWS: tl.constexpr):
    """The gains, less what `total` raised rows take from them."""
    for start in range(0, total, ROWS):
        slot = start + few
        there = slot < total
        number = tl.load(raised_ptr + slot, mask=there, other=0)
        before = tl.load(before_ptr + slot, mask=there, other=0.0)[:, None]
        after = tl.load(after_ptr + slot, mask=there, other=0.0)[:, None]
        mask = there[:, None] & (column[None, :] < count)
        values = tl.load(rows_ptr + number[:, None] * count + column[None, :], mask=mask, other=0.0)
        gain -= tl.sum(tl.maximum(values - before, 0.0) - tl.maximum(values - after, 0.0), 0)
    return gain


@_jit
def _displaced(above_ptr, entries, row, levels, deep_rows):
    """As `Covered.add`: the entries take their places above the floors; returns what moves down to them."""
    deep = row < deep_rows
    for level in range(0, levels):
        place = above_ptr + level * deep_rows + row
        above = tl.load(place, mask=deep, other=float("inf"))
        # Several threads may hold the same row: all have to have read it.
        tl.debug_barrier()
        tl.store(place, tl.maximum(above, entries), mask=deep)
        entries = tl.minimum(above, entries)
    tl.debug_barrier()
    return entries


@_jit
def _greedy(
    rows_ptr,
    columns_ptr,
    available_ptr,
    picks_ptr,
    raised_ptr,
    before_ptr,
    after_ptr,
    indices_ptr,
    gains_ptr,
    floors_ptr,
    above_ptr,
    left_ptr,
    count,
    height,
    steps,
    levels,
    deep_rows,
    DEEP: tl.constexpr,
    COUNT: tl.constexpr,
    HEIGHT: tl.constexpr,
    ROWS: tl.constexpr,
):
    item = tl.program_id(0).to(tl.int64)
    rows_ptr, columns_ptr = rows_ptr + item * height * count, columns_ptr + item * height * count
    raised_ptr, floors_ptr = raised_ptr + item * height, floors_ptr + item * height
    before_ptr, after_ptr = before_ptr + item * height, after_ptr + item * height
    indices_ptr, gains_ptr = indices_ptr + item * steps, gains_ptr + item * steps
    above_ptr += item * levels * deep_rows
    column, row, few = tl.arange(0, COUNT), tl.arange(0, HEIGHT), tl.arange(0, ROWS)
    free = tl.load(available_ptr + item * count + column, mask=column < count, other=0) != 0
    picks = tl.load(picks_ptr + item)
    floors = tl.zeros([HEIGHT], tl.float32)
    tl.store(floors_ptr + row, floors, mask=row < height)
    tl.debug_barrier()
    gain = _gains_over(rows_ptr, floors_ptr, count, height, column, few, COUNT, ROWS)
    for step in range(0, picks):
        pick = tl.argmax(tl.where(free, gain, -1.0e30), 0)
        entries = tl.load(columns_ptr + pick * height + row, mask=row < height, other=0.0)
        tl.store(indices_ptr + step, pick.to(tl.int64))
        tl.store(gains_ptr + step, tl.sum(tl.where(entries > floors, entries - floors, 0.0), 0))
        if DEEP:
            entries = _displaced(above_ptr, entries, row, levels, deep_rows)
        raised = entries > floors
        # The raised rows one behind another, for every thread of the program to read.
        place = tl.cumsum(raised.to(tl.int32), 0) - 1
        tl.store(raised_ptr + place, row, mask=raised)
        tl.store(before_ptr + place, floors, mask=raised)
        tl.store(after_ptr + place, entries, mask=raised)
        floors = tl.maximum(floors, entries)
        free = free & (column != pick)
        total = tl.sum(raised.to(tl.int32), 0)
        tl.debug_barrier()
        gain = _gains_after(gain, rows_ptr, raised_ptr, before_ptr, after_ptr, total, count, column, few, ROWS)
        tl.debug_barrier()
    for step in range(picks, steps):
        tl.store(indices_ptr + step, tl.full([], -1, tl.int64))
        tl.store(gains_ptr + step, 0.0)
    tl.store(floors_ptr + row, floors, mask=row < height)
    tl.debug_barrier()
    left = _gains_over(rows_ptr, floors_ptr, count, height, column, few, COUNT, ROWS)
    tl.store(left_ptr + item * count + column, tl.where(free, left, 0.0), mask=column < count)


def runs_on(device: torch.device, count: int, height: int, deep: bool = False) -> bool:
    """Whether the kernel takes items of `count` columns and `height` rows, some of them deep or none, on a device.

    On CUDA where Triton is installed, for sizes that fit, once it has made the plain loop's picks on a random matrix
    of such a size. Where it has not, or failed, one warning is logged.
    """
    if triton is None or device.type != "cuda" or torch.version.hip is not None or not fits(count, height):
        return False
    if torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
        # Neither can stop to look at a result; the loop is captured as it is.
        return False
    try:
        return _agrees(device, count, _power_of_two(height), height % 16 == 0, deep)
    except torch.OutOfMemoryError:  # asked again when there is memory for it
        return False


def fits(count: int, height: int) -> bool:
    """Whether matrices of `count` columns and `height` rows are worth the kernel and fit it."""
    return _FEWEST <= count <= _MOST and _FEWEST <= height <= _MOST


def fused_greedy(
    columns: torch.Tensor, available: torch.Tensor, picks: list[int], deep_rows: int = 0, depth: int | torch.Tensor = 1
) -> GreedyPath:
    """`plain_greedy` in one launch; arguments and result as there, for sizes that fit.

    Where gains are equal but for rounding, it may pick another of them than the loop.
    """
    items, count, _ = columns.shape
    steps, device = max(picks, default=0), columns.device
    rows = columns.transpose(1, 2).contiguous()
    indices = torch.empty(items, steps, dtype=torch.long, device=device)
    gains = torch.empty(items, steps, dtype=torch.float32, device=device)
    covered = Covered(columns, deep_rows, depth)
    left = torch.empty(items, count, dtype=torch.float32, device=device)
    counts = to_device(torch.tensor(picks, dtype=torch.int32), device)
    _launch(rows, columns, available, counts, indices, gains, covered, left)
    largest = left.topk(steps).values
    if min(picks, default=0) < steps:
        largest = largest * (torch.arange(steps, device=device) < counts[:, None])
    return GreedyPath(indices, gains, covered.sums(), largest)


def _launch(
    rows: torch.Tensor,
    columns: torch.Tensor,
    available: torch.Tensor,
    counts: torch.Tensor,
    indices: torch.Tensor,
    gains: torch.Tensor,
    covered: Covered,
    left: torch.Tensor,
) -> None:
    """Starts the kernel; the last four are written, `left` (items, n) with the gains of columns that are left."""
    items, count, height = columns.shape
    number = torch.empty(items, height, dtype=torch.int32, device=columns.device)
    before, after = torch.empty_like(covered.floors), torch.empty_like(covered.floors)
    width = _power_of_two(count)
    with torch.cuda.device_of(columns):  # Triton starts kernels on the current device
        _greedy[(items,)](
            rows,
            columns,
            available.view(torch.uint8),
            counts,
            number,
            before,
            after,
            indices,
            gains,
            covered.floors,
            covered.above,
            left,
            count,
            height,
            indices.shape[1],
            *covered.above.shape[1:],
            DEEP=covered.above.numel() > 0,
            COUNT=width,
            HEIGHT=_power_of_two(height),
            ROWS=max(1, min(_ROWS, _ENTRIES // width)),
            num_warps=16,
        )


@cache
def _agrees(device: torch.device, count: int, height_at_most: int, aligned: bool, deep: bool) -> bool:
    """Whether the kernel makes the plain loop's picks on a device, for all heights that it is compiled once for.

    Logs why not. The answer is kept: each device is asked once for a size.
    """
    height = height_at_most - (16 if aligned else 3)
    try:
        difference = _difference(device, count, height, deep)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever stops the compiler or the driver must not stop the model
        difference = f"failed with {type(error).__name__}: {error}"
    if difference is not None:
        _log.warning(
            "The fused greedy kernel %s on %s for %d columns and %d rows: the loop of single operations runs instead, "
            "which selects the same tokens and takes longer.",
            difference,
            device,
            count,
            height,
        )
    return difference is None


def _difference(device: torch.device, count: int, height: int, deep: bool) -> str | None:
    """How the kernel differs from the plain loop on a random matrix; None where it does not."""
    generator = torch.Generator().manual_seed(count)
    # Multiples of 1/8 add up without rounding: in any order of addition, ties are ties.
    columns = (torch.randint(0, 9, (2, count, height), generator=generator) / 8.0).to(device)
    available = (torch.rand(2, count, generator=generator) < 0.9).to(device)
    available[:, :12] = True
    given = (columns, available, [12, 7], 5 * deep, 3 if deep else 1)
    ours, plain = fused_greedy(*given), plain_greedy(*given)
    for name, one, other in zip(GreedyPath._fields, ours, plain, strict=True):
        if not torch.equal(one, other):
            return f"computes other {name} than the plain loop"
    return None


def _power_of_two(value: int) -> int:
    """The smallest power of two that is not below a positive value."""
    return 1 << (value - 1).bit_length()
