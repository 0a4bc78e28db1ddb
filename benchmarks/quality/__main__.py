"""Measures how much of the answers survives pruning: `python -m benchmarks.quality`, or with names of cases.

    evidence             whether a token of the object that is asked for is kept, on all kinds of images; settings swept
    scenes               answers of the embedded model about 2 to 5 objects in the styles of training
    crowded              its answers about 8 to 11 smaller objects
    unseen               its answers about 2 to 5 objects in a style that training did not draw
    instructed-scenes, instructed-crowded   its answers behind the benchmarks' instruction
    covered-scenes, covered-crowded   its answers where a text of the server, or none, is covered for the question
    padded               its answers about small images on a grey canvas, for the exclusion of padding
    tiles                answers about five crops of crowded images, in the layout of LLaVA-NeXT, after training for it
    padded-tiles         the same about images whose tiles are padded

Each case writes benchmarks/results/quality-CASE.json; answers are kept in runs/quality, so that an interrupted run goes
on. `python -m benchmarks.quality.plots` draws their figures, and `python benchmarks/report.py quality` writes the page.
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
from .runs import measure, measure_evidence


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all if none is named")
    parser.add_argument("--checkpoint", type=Path, default=checkpoint_path(), help="the embedded one if not given")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality", help="images and answers")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    known = ["evidence", *CASES]
    unknown = sorted(set(options.cases) - set(known))
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}: choose from {', '.join(known)}")
    torch.set_num_threads(options.threads)
    for name in options.cases or known:
        folder = options.runs / name
        if name == "evidence":
            results = measure_evidence(options.checkpoint, folder)
        else:
            results = measure(name, options.checkpoint, folder, options.batch_size)
        if PartialState().is_main_process:
            RESULTS.mkdir(parents=True, exist_ok=True)
            path = RESULTS / f"quality-{name}.json"
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(path, f"{results['seconds']} s")


if __name__ == "__main__":
    main()
