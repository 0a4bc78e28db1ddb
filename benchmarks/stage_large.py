"""Stages and verifies a checkpoint of a published model's size, and measures time and memory.

`python -m benchmarks.stage_large llava-1.5-7b-hf --folder FOLDER --results FILE` writes a checkpoint with the names,
shapes and types of that model's tensors (`benchmarks/facts`) and random weights into FOLDER, in shards of 5 GB, stages
it with `mmtok stage`, verifies it with `mmtok verify`, and writes what it measured. The tokenizer is a small one, and
the ids of the configuration are its ids. FOLDER takes as much room as the model, and is deleted at the end.

`--layers 6 --check full` takes the first 6 layers of the language model, and compares two whole models of that size.
`--layers 220 --sparse` makes a language model of 220 such layers, of which those from the fifth on are holes in the
files: they are read as zeros and take no room, so that a checkpoint of 72 billion parameters fits any disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import torch

from benchmarks.checkpoint_shapes import NAMES, Member
from mmtok.measuring import machine
from mmtok.publish.base import TensorHeader, encode_header
from mmtok.publish.repository import INDEX_FILE

ROOT = Path(__file__).resolve().parents[1]
# Of the published checkpoints; one that does not fit into memory cannot be mapped.
SHARD_GB = 5
BLOCK = 2**24
FIRST_HOLE = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--layers", type=int, help="of the language model; those of the published one without it")
    parser.add_argument("--sparse", action="store_true", help="layers from the fifth on are holes in the files")
    parser.add_argument("--check", choices=["quick", "full"], default="quick")
    parser.add_argument("--folder", type=Path, required=True, help="a new folder")
    parser.add_argument("--results", type=Path, required=True, help="a JSON file, to which this model is added")
    parsed = parser.parse_args()
    parsed.folder.mkdir()
    try:
        name, found = staged(Member.read(parsed.name), parsed.folder, parsed.layers, parsed.check, parsed.sparse)
    finally:
        shutil.rmtree(parsed.folder)
    results = json.loads(parsed.results.read_text(encoding="utf-8")) if parsed.results.exists() else {}
    results[name] = {**found, "source": "python -m benchmarks.stage_large", "machine": machine("transformers")}
    parsed.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results[name], indent=2))


def staged(member: Member, folder: Path, layers: int | None, check: str, sparse: bool) -> tuple[str, dict[str, Any]]:
    """What it takes to stage and verify a model, under its name in the results."""
    name = member.hub_id.partition("/")[2].lower()
    if layers is not None:
        name += f", {layers} layers"
        member.config["text_config"]["num_hidden_layers"] = layers
    name += ", sparse" * sparse + f", --check {check}" * (check != "quick")
    base, out = folder / "base", folder / "out"
    write_checkpoint(member, base, sparse)
    stage = measured("stage", base, out, "--check", check)
    verify = measured("verify", out, "--base", base)
    sizes = [math.prod(tensor.shape) for tensor in member.tensors().values()]
    gigabytes = sum(tensor.size for tensor in member.tensors().values()) / 1e9
    return name, {
        "weights_gb": round(gigabytes, 1),
        "parameters": sum(sizes),
        "stage": stage,
        "verify": verify,
    }


def write_checkpoint(member: Member, folder: Path, sparse: bool) -> None:
    """Writes settings of a small checkpoint with the sizes of a large one, and its weights."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from chat_checkpoints import make_checkpoint

    vision = member.config["vision_config"]
    make_checkpoint(folder, member.config["model_type"])
    (folder / "model.safetensors").unlink()
    small = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ids = {key: value for key, value in small.items() if key.endswith(("_token_id", "_token_index"))}
    _edit(folder / "config.json", {**member.config, **ids}, replaces=True)
    _edit(folder / "processor_config.json", {"patch_size": vision["patch_size"]}, only_known=True)
    side = vision.get("image_size")
    image = {"patch_size": vision["patch_size"], "merge_size": vision.get("spatial_merge_size")}
    image |= {"temporal_patch_size": vision.get("temporal_patch_size"), "min_pixels": 3136, "max_pixels": 12845056}
    image |= {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
    if side is None:
        image |= {"size": {"shortest_edge": 3136, "longest_edge": 12845056}}
    _edit(folder / "preprocessor_config.json", image, only_known=True)
    tensors = member.tensors()
    shards: list[list[str]] = [[]]
    for name, tensor in tensors.items():
        if sum(tensors[other].size for other in shards[-1]) + tensor.size > SHARD_GB * 1e9:
            shards.append([])
        shards[-1].append(name)
    weight_map: dict[str, str] = {}
    for shard, part in enumerate(shards):
        file = f"model-{shard + 1:05}-of-{len(shards):05}.safetensors"
        write_random(folder / file, {name: tensors[name] for name in part}, shard, sparse)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(tensor.size for tensor in tensors.values())}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def _edit(path: Path, fields: dict[str, Any], *, only_known: bool = False, replaces: bool = False) -> None:
    if not path.exists():
        return
    there = {} if replaces else json.loads(path.read_text(encoding="utf-8"))
    there |= {key: value for key, value in fields.items() if not only_known or key in there}
    path.write_text(json.dumps(there), encoding="utf-8")


def write_random(path: Path, tensors: dict[str, TensorHeader], seed: int, sparse: bool) -> None:
    """A safetensors file of normal values; every tensor is another part of one random block, repeated, or a hole."""
    types = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(BLOCK, generator=generator) * 0.02
    random = numpy.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(encode_header(tensors))
        for name, tensor in tensors.items():
            layer = re.search(r"language_model\.(?:.*\.)?layers\.(\d+)\.", name)
            if sparse and layer and int(layer[1]) >= FIRST_HOLE:
                file.truncate(file.seek(tensor.size, os.SEEK_CUR))
                continue
            content = block.to(types[tensor.dtype]).view(torch.uint8).numpy()
            width = tensor.size // max(1, int(numpy.prod(tensor.shape)))
            rest, start = tensor.size, int(random.integers(BLOCK)) * width
            while rest:
                piece = content[start : start + rest]
                file.write(piece.tobytes())
                rest, start = rest - piece.size, 0


def measured(*command: Any) -> dict[str, Any]:
    """Runs a command of mmtok; its time, and the most memory that it and its children had together at one moment."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    most = {"anonymous": 0, "with_mapped_files": 0}
    arguments = [sys.executable, "-m", "mmtok", *map(str, command), "--json"]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            anonymous, mapped = memory_of(process.pid)
            most["anonymous"] = max(most["anonymous"], anonymous)
            most["with_mapped_files"] = max(most["with_mapped_files"], anonymous + mapped)
            time.sleep(0.05)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with code {process.returncode}: {said}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "cpu_seconds": round(seconds, 1),
        "wall_seconds": round(time.perf_counter() - began, 1),
        "peak_gb": {name: round(value / 1e9, 2) for name, value in most.items()},
        "report": json.loads(said).get("report"),
    }


def memory_of(pid: int) -> tuple[int, int]:
    """Bytes of a process and its children that are its own, and those of mapped files."""
    anonymous = mapped = 0
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            status = Path(f"/proc/{one}/status").read_text()
            children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
        except OSError:
            continue
        waiting += map(int, children)
        sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Rss"))
        anonymous += int(sizes.get("RssAnon", "0 kB").split()[0]) * 1024
        mapped += int(sizes.get("RssFile", "0 kB").split()[0]) * 1024
    return anonymous, mapped


if __name__ == "__main__":
    main()
