"""`mmtok eval`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .common import (
    add_image_memory_option,
    add_length_option,
    add_model_options,
    add_parser,
    base_of,
    call_pruning_options,
    print_json,
)
from .pruning_arguments import add_call_options
from .values import at_least, budget

_DESCRIPTION = """\
Accuracy on question files in POPE's format with the images in a folder: all tokens, and every method with every
budget. Answers are kept in the output folder, so that an interrupted run goes on; under `accelerate launch -m mmtok`
the questions are shared between the processes."""
# What results call the model's own settings with the options of the command line in their place.
_GIVEN = "given"


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    example = (
        "mmtok eval --model ./llava-mmtok --questions coco_pope_random.json --images val2014 --budgets 192 128 64 4"
    )
    parser = add_parser(commands, name, help, _DESCRIPTION, example)
    parser.add_argument("--questions", required=True, nargs="+", type=Path, metavar="FILE", help="in POPE's format")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="folder of the images")
    parser.add_argument(
        "--budgets",
        required=True,
        nargs="+",
        metavar="N",
        type=budget,
        help="vision tokens kept per crop: numbers, shares such as 0.25, or all, which is measured in any case",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        default=["MMTok"],
        help="such as MMTok, DivPrune or uniform; another name is refused with the list (default: MMTok)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/evaluation"),
        help="folder for answers and results (default: %(default)s)",
    )
    parser.add_argument(
        "--instruction", help="written behind every question (default: to answer with a single word or phrase)"
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=at_least(1), default=16, help="questions at once (default: %(default)s)"
    )
    add_length_option(parser, 16)
    add_image_memory_option(parser)
    parser.add_argument("--limit", metavar="N", type=at_least(1), help="only the first questions of each file")
    add_model_options(parser, required=True)
    add_call_options(parser, f"for one more method, {_GIVEN}: the model's own settings with these in their place")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluates, writes `results.json` into the output folder, and prints a table."""
    import torch
    from accelerate import PartialState

    from mmtok.evaluation import INSTRUCTION, RunSettings, methods_named, summarize, table
    from mmtok.evaluation import run as run_evaluation
    from mmtok.evaluation.selectors import ModelPruning
    from mmtok.machine import machine

    model, pruning = base_of(options.model), call_pruning_options(options)
    given = [ModelPruning(_GIVEN, pruning)] if pruning else []
    settings = RunSettings(
        model=model,
        questions=options.questions,
        images=options.images,
        budgets=_token_counts(options.budgets, model, options.revision),
        output=options.output,
        methods=[*methods_named(options.methods, model, options.revision), *given],
        instruction=INSTRUCTION if options.instruction is None else options.instruction,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        limit=options.limit,
        dtype=getattr(torch, options.dtype) if options.dtype else None,
        revision=options.revision,
        device=options.device,
        image_memory=options.image_memory * 2**20,
    )
    result = run_evaluation(settings)
    if not PartialState().is_main_process:
        return
    results = {"machine": machine("mmtok", "transformers"), **summarize(result)}
    (options.output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if options.json:
        print_json(results)
    else:
        print(table(results))


def _token_counts(budgets: Sequence[int | float | None], model: str | Path, revision: str | None) -> list[int]:
    """The budgets as numbers of tokens: selectors take no shares."""
    counts = [value for value in budgets if isinstance(value, int)]
    shares = [value for value in budgets if isinstance(value, float)]
    if shares:
        from transformers import PretrainedConfig

        config, _ = PretrainedConfig.get_config_dict(str(model), revision=revision)
        vision = config["vision_config"]
        if "image_size" not in vision:
            raise ValueError(
                f"The budget {shares[0]} is a share, and images of a {config['model_type']} have no fixed number of "
                "tokens: give numbers of tokens."
            )
        tokens = (vision["image_size"] // vision["patch_size"]) ** 2
        counts += [max(1, round(share * tokens)) for share in shares]
    return sorted(set(counts), reverse=True)
