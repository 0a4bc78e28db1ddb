"""vLLM with the plugin against stock vLLM, on the CPU: throughput, time to the first token, and room in the KV cache.

`python benchmarks/serving.py --model LLaVA --part 8` measures one part and adds it to results/serving-cpu.json: 1, 8
and 32 are requests in flight, `fit` is how many requests one cache holds. It needs the environment of `make test-vllm`.
Engines are in this process and answer in turns, so that what disturbs the machine disturbs all alike; every request has
an image and a question of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from importlib.metadata import version
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

# vLLM reads these when it is imported.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
)

import torch
from measure import RESULTS, save
from serving_models import MODELS, WORDS, image, make

RESULT, BLOCK, QUESTION, NEW_TOKENS = "serving-cpu", 32, 32, 16
# Requests in a round by requests in flight. LLaVA-NeXT takes five times as long.
ROUND = {"LLaVA": {1: 4, 8: 16, 32: 32}, "LLaVA-NeXT": {1: 2, 8: 8, 32: 32}}
# What is compared: the folder and the options of a request.
WAYS: dict[str, tuple[int, dict[str, Any]]] = {
    "stock": (0, {}),
    "64 a crop": (1, {"vision_token_budget": 64}),
    "16 a crop": (1, {"vision_token_budget": 16}),
}
# Tokens of the longest request with its answer, in blocks.
LONGEST = {"LLaVA": 672, "LLaVA-NeXT": 3072}
FIT_TOKENS, FIT_LENGTH = 16384, 4096
FIT_REQUESTS = {"stock": 40, "64 a crop": 200, "16 a crop": 300}


class Engine:
    """One vLLM engine in this process."""

    def __init__(self, folder: Path, cache_tokens: int, longest: int, **options: Any) -> None:
        from vllm import LLM

        self.llm = LLM(
            model=str(folder),
            dtype="float32",
            max_model_len=longest,
            block_size=BLOCK,
            enforce_eager=True,
            enable_prefix_caching=False,
            kv_cache_memory_bytes=MODELS["LLaVA"].cache_bytes(cache_tokens, 4),
            **options,
        )
        self.engine = self.llm.llm_engine
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self._numbers = count()

    def add(self, request: dict[str, Any], new_tokens: int = NEW_TOKENS) -> str:
        """Takes a request in; its image is processed here and now."""
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True)
        [prompt] = self.llm.renderer.render_cmpl([request])
        return self.engine.add_request(str(next(self._numbers)), prompt, parameters)

    @property
    def used_blocks(self) -> int:
        return self.pool.num_gpu_blocks - 1 - self.pool.get_num_free_blocks()

    def serve(self, requests: list[dict[str, Any]], in_flight: int) -> dict[str, Any]:
        """Answers requests, so many at a time: the next one comes when one is answered."""
        begin, waiting = perf_counter(), list(requests)
        started: dict[str, float] = {}
        first: dict[str, float] = {}
        blocks, done, lengths = 0, 0, set[int]()
        while done < len(requests):
            while waiting and len(started) - done < in_flight:
                now = perf_counter()
                started[self.add(waiting.pop()).split("-")[0]] = now
            outputs = self.engine.step()
            now, blocks = perf_counter(), max(blocks, self.used_blocks)
            for output in outputs:
                first.setdefault(output.request_id, now - started[output.request_id])
                lengths.add(len(output.prompt_token_ids))
                done += output.finished
        return {
            "requests_per_second": len(requests) / (perf_counter() - begin),
            "first_token_ms": 1e3 * median(first.values()),
            "kv_blocks": blocks,
            "prompt_tokens": max(lengths),
        }

    def fit(self, requests: list[dict[str, Any]]) -> int:
        """Requests that run at once until the cache is full, while none is finished."""
        for request in requests:
            self.add(request, new_tokens=500)
        most = still = 0
        while still < 3 and self.scheduler.waiting:
            self.engine.step()
            most, still = (
                max(most, len(self.scheduler.running)),
                still + 1 if len(self.scheduler.running) <= most else 0,
            )
        return most


def requests_of(name: str, number: int, options: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Requests with an image and a question of their own; the same for every way but for the options."""
    made = []
    for own in range(number):
        generator = torch.Generator().manual_seed(1000 * seed + own)
        words = torch.randint(2, WORDS, (QUESTION,), generator=generator).tolist()
        made.append(
            {
                "prompt": " ".join(["<image>", *(f"w{word}" for word in words)]),
                "multi_modal_data": {"image": image(name, 1000 * seed + own)},
                "mm_processor_kwargs": options,
            }
        )
    return made


def engines_of(name: str, folders: tuple[Path, Path], cache_tokens: int) -> dict[str, Engine]:
    """One engine for the stock checkpoint and one for the staged one, which serves every budget."""
    made: dict[int, Engine] = {}
    for folder, _ in WAYS.values():
        if folder not in made:
            made[folder] = Engine(folders[folder], cache_tokens, LONGEST[name], max_num_seqs=32)
    return {way: made[folder] for way, (folder, _) in WAYS.items()}


def measure_serving(name: str, folders: tuple[Path, Path], in_flight: int, rounds: int) -> dict[str, Any]:
    """Requests a second and the like of every way, in turns; a round of two requests warms up and does not count."""
    engines = engines_of(name, folders, (in_flight + 1) * LONGEST[name])
    seen: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way, (_, options) in WAYS.items():
            found = engines[way].serve(
                requests_of(name, ROUND[name][in_flight] if number else 2, options, number), in_flight
            )
            if number:
                seen[way].append(found)
    return {
        way: {
            **{key: round(median(each[key] for each in own), 3) for key in own[0]},
            "times_the_requests": round(median(ratios(own, seen["stock"], "requests_per_second")), 2),
            "first_token_times_faster": round(median(ratios(seen["stock"], own, "first_token_ms")), 2),
        }
        for way, own in seen.items()
    }


def ratios(over: list[dict[str, Any]], under: list[dict[str, Any]], key: str) -> list[float]:
    """The ratio within each round."""
    return [mine[key] / other[key] for mine, other in zip(over, under, strict=True)]


def measure_fit(name: str, folders: tuple[Path, Path]) -> dict[str, Any]:
    """How many requests with an answer under way one cache of `FIT_TOKENS` tokens holds."""
    # All of them first: an engine that goes takes the process groups of the others with it.
    engines = {
        way: Engine(folders[folder], FIT_TOKENS, FIT_LENGTH, max_num_seqs=FIT_TOKENS // BLOCK)
        for way, (folder, _) in WAYS.items()
    }
    return {
        way: {"requests": engine.fit(requests_of(name, FIT_REQUESTS[way], WAYS[way][1], 0))}
        for way, engine in engines.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--part", choices=("1", "8", "32", "fit"), required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/serving"), help="for the random checkpoints")
    options = parser.parse_args()
    folders = make(options.model, options.folder)
    part = options.part
    measured = (
        measure_fit(options.model, folders)
        if part == "fit"
        else measure_serving(options.model, folders, int(part), options.rounds)
    )
    print(json.dumps(measured, indent=1))
    path = RESULTS / f"{RESULT}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    entry = {"ways": measured, "command": shlex.join(["python", *sys.argv]), "rounds": options.rounds}
    parts = {**known, f"{options.model}, {part}": entry}
    save(RESULT, {"vllm": version("vllm_cpu"), "parts": parts}, "mmtok", "transformers")


if __name__ == "__main__":
    main()
