"""Time of the selection on this machine: `python benchmarks/selection.py` writes results/selection-cpu.json.

The greedy maximiser against the plain loop of the paper's reference code and submodlib's C++ lazy greedy, on the same
matrix in turns. submodlib is the extra `bench`, and left out where it is not installed. `--text` writes
results/selection-cpu-text.json. With `--device cuda` it is the kernel against the loop of PyTorch operations in whose
place it stands, and results/selection-cuda.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import measure
import torch
from measure import milliseconds, save, times_faster

from mmtok.hub.coverage import coverage_value, greedy_coverage
from mmtok.hub.fused_greedy import fused_greedy
from mmtok.hub.greedy import plain_greedy
from mmtok.hub.objective import coverage_matrix

RAW_WIDTH, WORDS, TEXT_ROWS, SIDE = 1024, 12, 8, 24
# (crops, tokens of a unit, budget of a unit)
CASES = [(1, 576, 64), (5, 576, 32), (1, 2880, 160)]
CASES_CUDA = [(1, 576, 32), *CASES, (16, 576, 64)]

Maximiser = Callable[[], Any]
Timer = Callable[..., dict[str, list[float]]]


def tokens(count: int, width: int, kind: str, generator: torch.Generator) -> torch.Tensor:
    """(count, width) vision tokens.

    "image": neighbouring patches are alike, as in images: smooth fields over grids of 24 x 24, with noise.
    "noise": no token is like another, the hardest case for bounds on gains.
    "clusters": tokens lie around 20 centres.
    """
    noise = torch.randn(count, width, generator=generator)
    if kind == "noise":
        return noise
    if kind == "clusters":
        centres = torch.randn(20, width, generator=generator)
        return centres[torch.randint(20, (count,), generator=generator)] + 0.3 * noise
    crops = -(-count // SIDE**2)
    coarse = torch.randn(crops, width, SIDE // 4, SIDE // 4, generator=generator)
    fields = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
    return fields.flatten(2).transpose(1, 2).reshape(-1, width)[:count] + 0.5 * noise


def matrices(items: int, count: int, kind: str, words: int = WORDS) -> torch.Tensor:
    """(items, words + count, count) coverage matrices."""
    generator = torch.Generator().manual_seed(count)
    matrix = [
        coverage_matrix(
            torch.randn(words, 256, generator=generator),
            tokens(count, 256, kind, generator),
            tokens(count, RAW_WIDTH, kind, generator),
        )
        for _ in range(items)
    ]
    return torch.stack([part.transpose(-1, -2) for part in matrix]).transpose(-1, -2)


def plain_loop(coverage: torch.Tensor, budget: int) -> list[int]:
    """Every gain at every step, on the (rows, n) matrix as it is written in the paper."""
    best = coverage.new_zeros(coverage.shape[0])
    picked: list[int] = []
    for _ in range(budget):
        gains = (coverage - best[:, None]).clamp_min_(0).sum(0)
        gains[picked] = -1.0
        picked.append(int(gains.argmax()))
        best = torch.maximum(best, coverage[:, picked[-1]])
    return picked


def maximisers(coverage: torch.Tensor, budget: int) -> dict[str, Maximiser]:
    """Everything that can be run on (items, n, n) matrices; each gets them in the layout that it likes best."""
    by_row, count = coverage.contiguous(), coverage.shape[-1]
    functions: dict[str, Maximiser] = {
        "plain": lambda: [plain_loop(item, budget) for item in by_row],
        "mmtok": lambda: greedy_coverage(coverage, budget).indices,
        "mmtok, from rows": lambda: greedy_coverage(by_row, budget).indices,
    }
    try:
        from submodlib import FacilityLocationFunction
    except ImportError:
        pass
    else:
        rows = [item.numpy() for item in by_row]
        lazy = {"optimizer": "LazyGreedy", "stopIfZeroGain": False, "stopIfNegativeGain": False, "show_progress": False}

        def submodlib(item: Any) -> list[int]:
            made = FacilityLocationFunction(n=count, mode="dense", separate_rep=True, n_rep=len(item), sijs=item)
            return [index for index, _ in made.maximize(budget=budget, **lazy)]

        functions["submodlib"] = lambda: [submodlib(item) for item in rows]
    return functions


def on_gpu(coverage: torch.Tensor, budget: int) -> dict[str, Maximiser]:
    """The loop of PyTorch operations, and the kernel."""
    columns = coverage.transpose(-1, -2).contiguous().cuda()
    available = torch.ones(columns.shape[:2], dtype=torch.bool, device="cuda")
    loop = partial(plain_greedy, columns, available, [budget] * len(columns))
    return {
        "plain": lambda: loop().indices,
        "mmtok": lambda: fused_greedy(columns, available, [budget] * len(columns)).indices,
    }


def compare(
    items: int, count: int, budget: int, kind: str, side_by_side: Timer, device: str = "cpu", words: int = 0
) -> dict[str, Any]:
    """One case, with so many text rows."""
    coverage = matrices(items, count, kind, words)
    functions = maximisers(coverage, budget) if device == "cpu" else on_gpu(coverage, budget)
    picks = {name: torch.as_tensor(function()).cpu() for name, function in functions.items()}
    values = {name: coverage_value(coverage, indices).sum().item() for name, indices in picks.items()}
    times = side_by_side(functions)
    faster = {
        name: times_faster({"mmtok": times["mmtok"], name: times[name]}, name)["mmtok"]
        for name in times
        if not name.startswith("mmtok")
    }
    return {
        "tokens_are": kind,
        "items": items,
        "tokens": count,
        "budget": budget,
        "text_rows": words,
        "rounds": {name: len(values) for name, values in times.items()},
        "ms": milliseconds(times),
        "mmtok_times_faster_than": faster,
        "same_picks_as_plain": {name: bool(torch.equal(indices, picks["plain"])) for name, indices in picks.items()},
        "coverage_over_plain": {name: value / values["plain"] for name, value in values.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, default=6.0, help="per case; at least three rounds are run")
    parser.add_argument("--text", action="store_true", help="with text rows, in processor time of one thread")
    options = parser.parse_args()
    if options.text:
        torch.set_num_threads(1)
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    clock = time.process_time if options.text else time.perf_counter
    timer = partial(measure.side_by_side, seconds=options.seconds, synchronize=wait, clock=clock)
    cases, kinds, words = CASES, ["image", "noise"], 0
    if options.device == "cuda":
        cases, words = CASES_CUDA, WORDS
    elif options.text:
        cases, kinds, words = CASES[:2], ["image", "clusters", "noise"], TEXT_ROWS
    found = [compare(*case, kind, timer, options.device, words) for case in cases for kind in kinds]
    name = f"selection-{options.device}{'-text' * options.text}"
    print(save(name, {"comparison": found}, "mmtok", "numpy", "submodlib-py", "triton"))


if __name__ == "__main__":
    main()
