"""Measures how much of the answers survives pruning: `python -m benchmarks.quality`, or with names of cases.

    scenes       answers of the embedded model about 2 to 5 objects in the styles of training
    crowded      its answers about 8 to 11 smaller objects
    unseen       its answers about 2 to 5 objects in a style that training did not draw
    tiles        answers about five crops of crowded images, in the layout of LLaVA-NeXT, after training for it

Each case writes benchmarks/results/quality-CASE.json; answers are kept in runs/quality, so that an interrupted run goes
on. `python benchmarks/report.py quality` writes the page.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.measure import save
from mmtok.tiny import checkpoint_path

from .cases import CASES, ROOT, measure


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all if none is named")
    named = parser.parse_args().cases or list(CASES)
    if unknown := sorted(set(named) - set(CASES)):
        parser.error(f"there is no case {unknown[0]!r}: choose from {', '.join(CASES)}")
    torch.set_num_threads(2)
    for name in named:
        results = measure(name, checkpoint_path(), ROOT / "runs" / "quality" / name)
        print(save(f"quality-{name}", results, "mmtok", "transformers"), f"{results['seconds']} s")


if __name__ == "__main__":
    main()
