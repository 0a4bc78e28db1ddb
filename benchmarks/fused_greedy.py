"""A candidate for CUDA: the whole greedy loop of `mmtok.hub.greedy` in one Triton kernel. Not part of the model.

It is held to the picks of the plain loop in Triton's interpreter (tests/method/test_fused_greedy.py), but nobody has
timed it on a GPU yet; `python benchmarks/selection_gpu.py` does. Where it wins, it belongs in `mmtok/hub/greedy.py`.

One program for each item keeps all gains in registers. A pick raises the best entries of some rows; only what those
rows say about the gains is computed anew. A row is raised about as often as a running maximum of as many values
changes, so that all steps together read the matrix a few times, instead of once each. The gains that decide are sums
of differences and may be off by rounding; those that are reported are computed from the picked column.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mmtok.hub.devices import sent
from mmtok.hub.greedy import GreedyPath

# Entries that are read at once, and the most rows that they are of: what the registers of a program hold.
_ENTRIES, _ROWS = 2**14, 16


@triton.jit
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
    best_ptr,
    count,
    height,
    steps,
    COUNT: tl.constexpr,
    HEIGHT: tl.constexpr,
    ROWS: tl.constexpr,
):
    item = tl.program_id(0).to(tl.int64)
    rows_ptr += item * height * count
    columns_ptr += item * height * count
    raised_ptr += item * height
    before_ptr += item * height
    after_ptr += item * height
    column = tl.arange(0, COUNT)
    row = tl.arange(0, HEIGHT)
    few = tl.arange(0, ROWS)
    open = tl.load(available_ptr + item * count + column, mask=column < count, other=0) != 0
    picks = tl.load(picks_ptr + item)

    gain = tl.zeros([COUNT], tl.float32)
    for start in range(0, height, ROWS):
        number = start + few
        mask = (number[:, None] < height) & (column[None, :] < count)
        gain += tl.sum(tl.load(rows_ptr + number[:, None] * count + column[None, :], mask=mask, other=0.0), 0)

    best = tl.zeros([HEIGHT], tl.float32)
    for step in range(0, picks):
        pick = tl.argmax(tl.where(open, gain, -1.0e30), 0)
        entries = tl.load(columns_ptr + pick * height + row, mask=row < height, other=0.0)
        raised = entries > best
        tl.store(indices_ptr + item * steps + step, pick.to(tl.int64))
        tl.store(gains_ptr + item * steps + step, tl.sum(tl.where(raised, entries - best, 0.0), 0))
        # The raised rows one behind another, for every thread of the program to read.
        place = tl.cumsum(raised.to(tl.int32), 0) - 1
        tl.store(raised_ptr + place, row, mask=raised)
        tl.store(before_ptr + place, best, mask=raised)
        tl.store(after_ptr + place, entries, mask=raised)
        best = tl.maximum(best, entries)
        open = open & (column != pick)
        total = tl.sum(raised.to(tl.int32), 0)
        tl.debug_barrier()
        for start in range(0, total, ROWS):
            slot = start + few
            there = slot < total
            number = tl.load(raised_ptr + slot, mask=there, other=0)
            before = tl.load(before_ptr + slot, mask=there, other=0.0)[:, None]
            after = tl.load(after_ptr + slot, mask=there, other=0.0)[:, None]
            mask = there[:, None] & (column[None, :] < count)
            values = tl.load(rows_ptr + number[:, None] * count + column[None, :], mask=mask, other=0.0)
            gain -= tl.sum(tl.maximum(values - before, 0.0) - tl.maximum(values - after, 0.0), 0)
        tl.debug_barrier()
    tl.store(best_ptr + item * height + row, best, mask=row < height)


def fused_greedy(columns: torch.Tensor, available: torch.Tensor, picks: list[int]) -> GreedyPath:
    """`plain_greedy` in one launch; arguments and result as there."""
    items, count, height = columns.shape
    steps = max(picks, default=0)
    device = columns.device
    rows = columns.transpose(1, 2).contiguous()
    number = torch.empty(items, height, dtype=torch.int32, device=device)
    before, after, best = (torch.empty(items, height, device=device) for _ in range(3))
    indices = torch.full((items, steps), -1, device=device)
    gains = torch.zeros(items, steps, device=device)
    counts = sent(torch.tensor(picks, dtype=torch.int32), device)
    width = triton.next_power_of_2(count)
    _greedy[(items,)](
        rows,
        columns,
        available.to(torch.int8),
        counts,
        number,
        before,
        after,
        indices,
        gains,
        best,
        count,
        height,
        steps,
        COUNT=width,
        HEIGHT=triton.next_power_of_2(height),
        ROWS=max(1, min(_ROWS, _ENTRIES // width)),
        num_warps=16,
    )
    left = (columns - best[:, None]).clamp_min_(0).sum(-1).masked_fill_(~available, 0.0).topk(steps).values
    return GreedyPath(indices, gains, best, left * (torch.arange(steps, device=device) < counts[:, None]))
