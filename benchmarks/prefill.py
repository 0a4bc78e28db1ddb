"""End to end: the stock class against ours in one process, in turns, in the real shapes with random weights.

`python benchmarks/prefill.py --layers 2` runs on any CPU (real widths, two language layers and the same share of the
vision tower) and writes results/prefill-cpu.json; `--device cuda` runs the full depth and writes
results/prefill-cuda.json. Random weights make tokens that are hardly alike, which is hard for the selector and does
not matter to anything else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from measure import milliseconds, save, side_by_side, times_faster
from shapes import SHAPES, Shape

from mmtok.hub import pruned_model
from mmtok.hub.prompt import PrunedPrompt

# Tokens kept of a crop: the paper's 64 of LLaVA-1.5, and 160 of a LLaVA-NeXT image with five crops.
BUDGET, BUDGET_NEXT = 64, 32
WORDS = 32
PACKAGES = ("mmtok", "transformers")


def parts_of(model: Any) -> list[tuple[str, Any, str]]:
    """The parts of the way to the first token: name, owner and attribute of each function that belongs to one."""
    return [
        ("vision tower", model.model.vision_tower, "forward"),
        ("projector", model.model.multi_modal_projector, "forward"),
        ("language model", model.model.language_model, "forward"),
        ("selection", pruned_model, "select"),
        ("packing", PrunedPrompt, "of"),
    ]


@contextmanager
def wrapped_parts(model: Any, wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Puts `wrap(name, function)` in the place of each function of `parts_of`."""
    with ExitStack() as stack:
        for name, owner, function in parts_of(model):
            stack.enter_context(patch.object(owner, function, wrap(name, getattr(owner, function))))
        yield


def new_tokens(model: Any, inputs: dict[str, torch.Tensor], count: int, **kwargs: Any) -> Any:
    """Exactly `count` new tokens, greedily."""
    return model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, **kwargs)


def arrivals(model: Any, inputs: dict[str, torch.Tensor], count: int, synchronize: Callable[[], None]) -> list[float]:
    """Seconds from the call of `generate` to each of `count` new tokens."""
    times: list[float] = []
    start = perf_counter()

    def note(input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        synchronize()
        times.append(perf_counter() - start)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    new_tokens(model, inputs, count, stopping_criteria=[note])
    return times


def phases(model: Any, inputs: dict[str, torch.Tensor], rounds: int, synchronize: Callable[[], None]) -> dict[str, Any]:
    """Median milliseconds of the phases up to the first new token, and of what is in none of them.

    Waiting for the device at the ends of phases costs time.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            synchronize()
            start = perf_counter()
            result = function(*args, **kwargs)
            synchronize()
            seconds[name] = seconds.get(name, 0.0) + perf_counter() - start
            return result

        return run

    watched = []
    with wrapped_parts(model, timed):
        for _ in range(rounds):
            seconds.clear()
            start = perf_counter()
            new_tokens(model, inputs, 1)
            synchronize()
            total = perf_counter() - start
            watched.append({**seconds, "rest": total - sum(seconds.values())})
    return {name: round(1e3 * median(each[name] for each in watched), 3) for name in watched[0]}


def peak_bytes(function: Callable[[], Any], device: str) -> int | None:
    """Largest amount of device memory that a call takes, with the weights; None on the CPU."""
    if device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated()


def cache_of(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Tokens and bytes of the key-value cache behind the prompt."""
    cache = new_tokens(model, inputs, 1, return_dict_in_generate=True).past_key_values
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return int(tensors[0].shape[-2]), sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure(shape: Shape, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """One model with one batch size."""
    device, dtype = options.device, torch.bfloat16
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    stock, ours = shape.models(dtype, device)
    ours.config.vision_token_budget = BUDGET_NEXT if shape.next else BUDGET
    inputs = shape.inputs(batch, WORDS, dtype, device)
    tokens, cache = cache_of(stock, inputs)
    pruned_tokens, pruned_cache = cache_of(ours, inputs)
    short, long = sorted(options.answers)
    marks: dict[str, list[list[float]]] = {"stock": [], "mmtok": []}
    # Everything has run once by now.
    side_by_side(
        {
            "stock": lambda: marks["stock"].append(arrivals(stock, inputs, long, synchronize)),
            "mmtok": lambda: marks["mmtok"].append(arrivals(ours, inputs, long, synchronize)),
        },
        warm_up=False,
        rounds=options.rounds,
        seconds=options.seconds,
        synchronize=synchronize,
    )
    rounds = len(marks["stock"])
    times: dict[str, list[float]] = {}
    for name, arrived in marks.items():
        times |= {f"{name} {count}": [each[count - 1] for each in arrived] for count in (1, short, long)}
        times[f"{name} decode"] = [(each[-1] - each[0]) / (long - 1) for each in arrived]
    return {
        "model": shape.name,
        "layers": shape.layers,
        "vision_layers": shape.vision_layers,
        "batch": batch,
        "budget_per_crop": ours.config.vision_token_budget,
        "attention": ours.config.get_text_config()._attn_implementation,
        "rounds": rounds,
        "prompt_tokens": {"stock": tokens, "mmtok": pruned_tokens},
        "cache_bytes": {"stock": cache, "mmtok": pruned_cache},
        "peak_bytes": {
            "stock": peak_bytes(partial(new_tokens, stock, inputs, short), device),
            "mmtok": peak_bytes(partial(new_tokens, ours, inputs, short), device),
        },
        "ms": milliseconds(times),
        "mmtok_times_faster": {
            count: times_faster({"stock": times[f"stock {count}"], "mmtok": times[f"mmtok {count}"]}, "stock")["mmtok"]
            for count in (1, short, long)
        },
        "phases_ms": {
            "stock": phases(stock, inputs, rounds, synchronize),
            "mmtok": phases(ours, inputs, rounds, synchronize),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="language layers; all of them without it")
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=["LLaVA-1.5-7B", "LLaVA-NeXT-7B"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--answers", nargs=2, type=int, default=[2, 64], help="new tokens of a short and a long answer")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20.0, help="per model and batch; three rounds are always run")
    parser.add_argument("--output", help="name of the file in benchmarks/results; prefill-DEVICE without it")
    options = parser.parse_args()
    torch.manual_seed(0)
    results: dict[str, Any] = {"dtype": "bfloat16", "words": WORDS, "measured": [], "out_of_memory": []}
    for name in options.models:
        for batch in options.batches:
            try:
                results["measured"].append(measure(SHAPES[name].reduced(options.layers), batch, options))
            except torch.OutOfMemoryError:
                # The stock model needs the most; what is smaller or comes later may still fit.
                results["out_of_memory"].append([name, batch])
            # Written after each, so that a run which is stopped has not been for nothing.
            print(name, batch, save(options.output or f"prefill-{options.device}", results, *PACKAGES))


if __name__ == "__main__":
    main()
