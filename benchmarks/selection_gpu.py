"""Time of the greedy maximiser on a GPU: `python benchmarks/selection_gpu.py` writes results/selection-cuda.json.

The kernel that the model runs (`mmtok.hub.fused_greedy`), the loop of `mmtok.hub.greedy` in whose place it stands, and
that loop captured as a CUDA graph, in turns on the same matrices. Needs Triton, which comes with PyTorch for CUDA. On a
machine without a GPU, `TRITON_INTERPRET=1 python benchmarks/selection_gpu.py --device cpu --tokens 48` shows that it
runs; such times say nothing, and nothing is written.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import machine, milliseconds, save, side_by_side, times_faster
from selection import matrices

from mmtok.hub.fused_greedy import fused_greedy
from mmtok.hub.greedy import GreedyPath, plain_greedy

# (units, tokens of a unit, budget of a unit): one image, five crops, a batch of 16 images, five crops as one unit.
CASES = [(1, 576, 32), (1, 576, 64), (5, 576, 32), (16, 576, 64), (1, 2880, 160)]

Maximiser = Callable[[], GreedyPath]


def captured(columns: torch.Tensor, available: torch.Tensor, picks: list[int]) -> Maximiser:
    """The plain loop as a CUDA graph, replayed on the same tensors."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        plain_greedy(columns, available, picks)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        path = plain_greedy(columns, available, picks)

    def replay() -> GreedyPath:
        graph.replay()
        return path

    return replay


def compare(items: int, count: int, budget: int, kind: str, device: str, rounds: int) -> dict[str, Any]:
    """One case: medians, and whether the same is picked."""
    columns = matrices(items, count, kind).transpose(-1, -2).contiguous().to(device)
    available = torch.ones(items, count, dtype=torch.bool, device=device)
    picks = [budget] * items
    functions: dict[str, Maximiser] = {
        "loop": lambda: plain_greedy(columns, available, picks),
        "fused": lambda: fused_greedy(columns, available, picks),
    }
    refused = None
    if device == "cuda":
        try:
            functions["captured"] = captured(columns, available, picks)
        except RuntimeError as error:
            refused = str(error)
    paths = {name: function() for name, function in functions.items()}
    reached = {name: path.best.sum().item() for name, path in paths.items()}
    times = side_by_side(
        functions, rounds=rounds, synchronize=torch.cuda.synchronize if device == "cuda" else lambda: None
    )
    return {
        "tokens_are": kind,
        "items": items,
        "tokens": count,
        "budget": budget,
        "rounds": len(times["loop"]),
        "ms": milliseconds(times),
        "times_faster_than_loop": times_faster(times, "loop"),
        "same_picks_as_loop": {
            name: torch.equal(path.indices, paths["loop"].indices) for name, path in paths.items() if name != "loop"
        },
        "coverage_over_loop": {name: value / reached["loop"] for name, value in reached.items() if name != "loop"},
        "graph_refused": refused,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tokens", type=int, help="tokens of a unit, with an eighth of them as its budget; every case")
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    cases: list[tuple[int, int, int]] = CASES
    if options.tokens is not None:
        cases = [(2, options.tokens, max(1, options.tokens // 8))]
    results = {
        "command": shlex.join(["python", "benchmarks/selection_gpu.py", *sys.argv[1:]]),
        "machine": machine("mmtok", "triton"),
        "comparison": [
            compare(*case, kind, options.device, options.rounds) for case in cases for kind in ("image", "noise")
        ],
    }
    for case in results["comparison"]:
        print(case)
    if options.device == "cuda":
        print(save("selection-cuda", results))


if __name__ == "__main__":
    main()
