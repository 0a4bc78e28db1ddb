"""Time of the selection on this machine: `python benchmarks/selection.py` writes results/selection-cpu.json.

The greedy maximiser against the plain loop of the paper's reference code, submodlib's C++ lazy greedy and apricot's, on
the same matrix in turns; how it grows with tokens, budget and batch; and the coverage matrix. The two libraries are
the extra `bench`; what is not installed is left out and recorded as such.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter, process_time
from typing import Any

import measure
import torch
from measure import machine, milliseconds, save, times_faster

from mmtok.hub.coverage import coverage_value, greedy_coverage
from mmtok.hub.greedy import lazy_greedy, plain_greedy
from mmtok.hub.objective import coverage_matrix

# Widths of LLaVA-7B: behind the projector and before it.
WIDTH, RAW_WIDTH, WORDS = 4096, 1024, 12
SIDE = 24

# (crops, tokens of a unit, budget of a unit)
CASES = [(1, 576, 64), (5, 576, 32), (1, 2880, 160)]
GROWTH = {
    "tokens": [(1, n, 64) for n in (144, 288, 576, 1152, 2880)],
    "budget": [(1, 576, k) for k in (16, 32, 64, 128, 192)],
    "batch": [(b, 576, 64) for b in (1, 2, 4, 8, 16)],
}

Maximiser = Callable[[], list[list[int]]]
Timer = Callable[..., dict[str, list[float]]]


def tokens(count: int, width: int, kind: str, generator: torch.Generator) -> torch.Tensor:
    """(count, width) vision tokens.

    "image": neighbouring patches are alike, as in images: smooth fields over grids of 24 x 24, with noise.
    "noise": no token is like another, the hardest case for bounds on gains.
    """
    noise = torch.randn(count, width, generator=generator)
    if kind == "noise":
        return noise
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
        "mmtok": lambda: greedy_coverage(coverage, budget).indices.tolist(),
        "mmtok, from rows": lambda: greedy_coverage(by_row, budget).indices.tolist(),
    }
    try:
        from submodlib import FacilityLocationFunction
    except ImportError:
        pass
    else:
        rows = [item.numpy() for item in by_row]

        def submodlib(function: Any) -> list[int]:
            picks = function.maximize(
                budget=budget,
                optimizer="LazyGreedy",
                stopIfZeroGain=False,
                stopIfNegativeGain=False,
                show_progress=False,
            )
            return [index for index, _ in picks]

        def facility_location(item: Any) -> Any:
            return FacilityLocationFunction(n=count, mode="dense", separate_rep=True, n_rep=len(item), sijs=item)

        functions["submodlib"] = lambda: [submodlib(facility_location(item)) for item in rows]
    try:
        from apricot import FacilityLocationSelection
    except ImportError:
        pass
    else:
        # Several crops take it seconds, and tell nothing that one does not.
        columns = [item.t().double().contiguous().numpy() for item in by_row]

        def apricot(item: Any) -> list[int]:
            return FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy").fit(item).ranking.tolist()

        if len(columns) == 1:
            functions["apricot"] = lambda: [apricot(columns[0])]
    return functions


def compare(items: int, count: int, budget: int, kind: str, side_by_side: Timer) -> dict[str, Any]:
    """One case; apricot takes square matrices only, so that no text rows stand in it."""
    coverage = matrices(items, count, kind, words=0)
    functions = maximisers(coverage, budget)
    picks = {name: torch.tensor(function()) for name, function in functions.items()}
    values = {name: coverage_value(coverage, indices).sum().item() for name, indices in picks.items()}
    # apricot can take hundreds of times as long as the others: it takes turns with ours alone, and not as often.
    slow = {name: functions.pop(name) for name in ("apricot",) if name in functions}
    times = side_by_side(functions)
    faster = {
        name: times_faster({"mmtok": times["mmtok"], name: times[name]}, name)["mmtok"]
        for name in times
        if not name.startswith("mmtok")
    }
    for name, function in slow.items():
        apart = side_by_side({name: function, "mmtok": functions["mmtok"]}, warm_up=False, at_least=1)
        times[name], faster[name] = apart[name], times_faster(apart, name)["mmtok"]
    return {
        "tokens_are": kind,
        "items": items,
        "tokens": count,
        "budget": budget,
        "rounds": {name: len(values) for name, values in times.items()},
        "ms": milliseconds(times),
        "mmtok_times_faster_than": faster,
        "same_picks_as_plain": {name: bool(torch.equal(indices, picks["plain"])) for name, indices in picks.items()},
        "coverage_over_plain": {name: value / values["plain"] for name, value in values.items()},
    }


def grow(items: int, count: int, budget: int, side_by_side: Timer) -> dict[str, Any]:
    """Both ways of `mmtok.hub.greedy`, and what `greedy_coverage` makes of them with its checks."""
    coverage = matrices(items, count, "image")
    columns = coverage.transpose(-1, -2)
    available = torch.ones(items, count, dtype=torch.bool)
    functions = {
        "every gain": lambda: plain_greedy(columns, available, [budget] * items),
        "lazy": lambda: lazy_greedy(columns, available, [budget] * items),
        "greedy_coverage": lambda: greedy_coverage(coverage, budget),
    }
    times = side_by_side(functions)
    return {"items": items, "tokens": count, "budget": budget, "ms": milliseconds(times)}


def similarity(items: int, count: int, side_by_side: Timer) -> dict[str, Any]:
    """The coverage matrix at the widths of LLaVA-7B, beside the one matrix product that it cannot do without."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(items, WORDS, WIDTH, generator=generator)
    vision = torch.randn(items, count, WIDTH, generator=generator)
    raw = torch.randn(items, count, RAW_WIDTH, generator=generator)
    functions = {
        "coverage_matrix": lambda: coverage_matrix(text, vision, raw),
        "raw @ raw.T": lambda: raw @ raw.transpose(-1, -2),
    }
    return {"items": items, "tokens": count, "ms": milliseconds(side_by_side(functions))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="per case; at least three rounds are run")
    parser.add_argument("--output", default="selection-cpu", help="name of the file in benchmarks/results")
    parser.add_argument("--threads", type=int, help="torch's own number without it")
    parser.add_argument(
        "--processor-time", action="store_true", help="of this process instead of the time that passes; for one thread"
    )
    options = parser.parse_args()
    if options.processor_time and options.threads != 1:
        parser.error("--processor-time adds up the time of all threads: give --threads 1 with it")
    torch.set_num_threads(options.threads or torch.get_num_threads())
    where = machine("mmtok", "numpy", "submodlib-py", "apricot-select", "numba")
    clock = process_time if options.processor_time else perf_counter

    def timer(share: int) -> Timer:
        return partial(measure.side_by_side, seconds=options.seconds / share, clock=clock)

    results = {
        "command": shlex.join(["python", "benchmarks/selection.py", *sys.argv[1:]]),
        "machine": where,
        "clock": "processor" if options.processor_time else "passed",
        "comparison": [compare(*case, kind, timer(1)) for case in CASES for kind in ("image", "noise")],
        "growth": {name: [grow(*case, timer(6)) for case in cases] for name, cases in GROWTH.items()},
        "similarity": [similarity(items, count, timer(3)) for items, count, _ in CASES],
    }
    print(save(options.output, results))


if __name__ == "__main__":
    main()
