"""`python -m mmtok.evaluation`: compares pruning methods on a local checkpoint and local question files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from mmtok.cli.knob_options import add_call_options, knobs_of
from mmtok.machine import machine

from . import FULL, INSTRUCTION, RunSettings, methods_named, run, summarize
from .selectors import NAMED_METHODS, ModelPruning

# What results call the model's own settings with the options of the command line in their place.
GIVEN = "given"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of a run."""
    parser.add_argument("--model", required=True, help="staged folder, or stock LLaVA-1.5 or LLaVA-NeXT checkpoint")
    parser.add_argument(
        "--questions", required=True, nargs="+", type=Path, metavar="FILE", help="files in POPE's format"
    )
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="folder of the images")
    parser.add_argument(
        "--budgets", required=True, nargs="+", metavar="N", type=int, help="vision tokens kept per crop"
    )
    parser.add_argument(
        "--methods", nargs="+", default=["MMTok"], help=f"of {', '.join(NAMED_METHODS)}; MMTok alone if not given"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/evaluation"),
        help="folder for answers and results (default: %(default)s)",
    )
    parser.add_argument(
        "--instruction", default=INSTRUCTION, help='written behind every question (default: "%(default)s")'
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=int, default=16, help="questions at once (default: %(default)s)"
    )
    parser.add_argument(
        "--max-new-tokens", metavar="N", type=int, default=16, help="of an answer (default: %(default)s)"
    )
    parser.add_argument("--limit", metavar="N", type=int, help="only the first questions of each file")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="the checkpoint's own if not given")
    add_call_options(parser, f"for one more method, {GIVEN}: the model's own settings with these in their place")


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Runs, prints a table and writes `results.json` into the output folder."""
    pruning = knobs_of(options, options.model)
    settings = RunSettings(
        model=options.model,
        questions=options.questions,
        images=options.images,
        budgets=options.budgets,
        output=options.output,
        methods=[*methods_named(options.methods, options.model), *([ModelPruning(GIVEN, pruning)] if pruning else [])],
        instruction=options.instruction,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        limit=options.limit,
        dtype=getattr(torch, options.dtype) if options.dtype else None,
    )
    result = run(settings)
    results = {"machine": machine("mmtok", "transformers"), **summarize(result)}
    if PartialState().is_main_process:
        (options.output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(table(results))
    return results


def table(results: dict[str, Any]) -> str:
    """One line for each method and budget: tokens read, the metric of every task in percent, mean retention."""
    tasks = results["tasks"]
    lines = ["\t".join(["method", "budget", "tokens", *(f"{t} {tasks[t]['metric']}" for t in tasks), "kept"])]
    for cell in results["cells"]:
        scores = [f"{100 * cell['metrics'][task][tasks[task]['metric']]:.1f}" for task in tasks]
        mean = cell.get("retention", {}).get("mean")
        kept = (
            "" if mean is None else f"{100 * mean['estimate']:.1f} [{100 * mean['low']:.1f}, {100 * mean['high']:.1f}]"
        )
        budget = "" if cell["method"] == FULL else str(cell["budget"])
        lines.append("\t".join([cell["method"], budget, f"{cell['vision_tokens']:.1f}", *scores, kept]))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m mmtok.evaluation", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        evaluate(options)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
