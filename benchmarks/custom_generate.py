"""What `custom_generate` adds to a call: `python benchmarks/custom_generate.py`.

Writes results/custom-generate-cpu.json. Two parts of a call are timed in turns: transformers finds the code, compares
its hash and imports it; the model is shared with an object of the class that prunes. Neither depends on the size of
the model, which is the embedded one here.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measure import machine, milliseconds, save, side_by_side
from transformers import LlavaForConditionalGeneration

from mmtok.publish import stage_generate
from mmtok.tiny import checkpoint_path


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Median milliseconds of both parts, for a folder that `stage_generate` made."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint_path())
    load = partial(model.load_custom_generate, str(folder), trust_remote_code=True)
    module = sys.modules[load().__module__]
    share = partial(module.prune, model, module.CLASSES, {})
    times = side_by_side({"loading": load, "sharing": share}, rounds=rounds, seconds=60)
    return {"rounds": len(times["loading"]), "ms": milliseconds(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, help="torch's own number without it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    with TemporaryDirectory() as scratch:
        measured = measure(stage_generate(Path(scratch) / "mmtok_generate", check=False).path, options.rounds)
    results = {
        "command": shlex.join(["python", "benchmarks/custom_generate.py", *sys.argv[1:]]),
        "machine": machine("mmtok", "transformers"),
        "measured": measured,
    }
    print(save("custom-generate-cpu", results))


if __name__ == "__main__":
    main()
