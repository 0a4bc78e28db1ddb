"""What takes the time above the limit of `prefill.py`: each part inside `generate` beside the same part alone.

`python benchmarks/limit.py` runs LLaVA-1.5-7B at full depth (20 GiB of memory, 4 minutes on two cores) and writes
results/limit-cpu.json. No call of the unpruned class stands between the calls that are compared.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from statistics import median
from time import perf_counter
from typing import Any

import torch
from measure import machine, save
from prefill import BUDGET, BUDGET_NEXT, WORDS, Phases, cache_of, new_tokens, tower
from shapes import SHAPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="language layers; all of them without it")
    parser.add_argument("--model", choices=list(SHAPES), default="LLaVA-1.5-7B")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", default="limit-cpu", help="name of the file in benchmarks/results")
    options = parser.parse_args()
    torch.manual_seed(0)
    shape = SHAPES[options.model].reduced(options.layers)
    stock, ours = shape.models(torch.bfloat16, "cpu")
    ours.config.vision_token_budget = BUDGET_NEXT if shape.next else BUDGET
    inputs = shape.inputs(1, WORDS, torch.bfloat16, "cpu")
    words = torch.full((1, cache_of(ours, inputs)[0]), 5)
    text = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    pixels = inputs["pixel_values"].flatten(0, -4)
    tower(stock, pixels), new_tokens(stock, text, 1)

    rounds = [one_round(stock, ours, inputs, text, pixels) for _ in range(options.rounds)]
    results = {
        "command": shlex.join(["python", "benchmarks/limit.py", *sys.argv[1:]]),
        "machine": machine("mmtok", "transformers"),
        "model": shape.name,
        "layers": shape.layers,
        "vision_layers": shape.vision_layers,
        "rounds": rounds,
        "ms": {name: round(1e3 * median(each[name] for each in rounds), 2) for name in rounds[0]},
        "over_limit": round(median(over_limit(each) for each in rounds), 4),
        # The same of two calls that do the same: how far apart two measurements of one thing are.
        "text_twice": round(median(abs(each["text again"] / each["text alone"] - 1) for each in rounds), 4),
    }
    print(save(options.output, results))


def one_round(stock: Any, ours: Any, inputs: Any, text: Any, pixels: torch.Tensor) -> dict[str, float]:
    """Seconds of the parts of one call of `generate`, and of the same parts alone."""
    seconds: dict[str, float] = {}
    watch = Phases(lambda: None)
    start = perf_counter()
    with watch.watching(ours):
        new_tokens(ours, inputs, 1)
    seconds["generate"] = perf_counter() - start
    seconds |= watch.seconds
    seconds["rest"] = seconds["generate"] - sum(watch.seconds.values())
    start = perf_counter()
    tower(stock, pixels)
    seconds["tower alone"] = perf_counter() - start
    for name in ("text alone", "text again"):
        watch = Phases(lambda: None)
        start = perf_counter()
        with watch.watching(stock):
            new_tokens(stock, text, 1)
        seconds[name] = perf_counter() - start
        seconds[f"language model of {name}"] = watch.seconds["language model"]
    return seconds


def over_limit(seconds: dict[str, float]) -> float:
    """The time of `generate` over that of the tower and the text alone."""
    return seconds["generate"] / (seconds["tower alone"] + seconds["text alone"])


if __name__ == "__main__":
    main()
