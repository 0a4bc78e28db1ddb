"""Measures how much of the answers survives pruning: `python -m benchmarks.quality`, or with names of cases.

    evidence     whether a token of the object that is asked for is kept, on all kinds of images, and settings swept
    scenes       answers of the embedded model on images like those it learned from, other ones
    crowded      its answers on images with 8 to 12 smaller objects
    padded       its answers on small images on a grey canvas, for the exclusion of padding
    preset       the settings recommended for one crop against the paper's, on more images of three kinds that none
                 of the other cases shows
    tiles        answers in the layout of LLaVA-NeXT, five crops of cluttered images, with relations between objects,
                 after teaching the embedded model to read them (a quarter of an hour; kept in runs/quality)
    relations    questions about where two objects stand to each other, after teaching the embedded model to keep a
                 token's place and to compare (ten minutes; kept in runs/quality)

Each case writes benchmarks/results/quality-CASE.json; answers are kept in runs/quality, so that an interrupted run goes
on. `python -m benchmarks.quality.report` makes docs/quality.md and its figures of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from mmtok.tiny import checkpoint_path

from .cases import CASES, RESULTS, ROOT
from .runs import measure, measure_evidence, measure_preset


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all if none is named")
    parser.add_argument("--checkpoint", type=Path, default=checkpoint_path(), help="the embedded one if not given")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality", help="images and answers")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    known = ["evidence", *CASES, "preset"]
    unknown = sorted(set(options.cases) - set(known))
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}: choose from {', '.join(known)}")
    torch.set_num_threads(options.threads)
    for name in options.cases or known:
        folder = options.runs / name
        if name == "evidence":
            results = measure_evidence(options.checkpoint, folder)
        elif name == "preset":
            results = measure_preset(options.checkpoint, folder, options.runs / "tiles", options.batch_size)
        else:
            results = measure(name, options.checkpoint, folder, options.batch_size)
        if PartialState().is_main_process:
            RESULTS.mkdir(parents=True, exist_ok=True)
            path = RESULTS / f"quality-{name}.json"
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(path, f"{results['seconds']} s")


if __name__ == "__main__":
    main()
