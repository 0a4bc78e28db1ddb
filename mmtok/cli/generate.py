"""`mmtok generate`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .common import (
    add_image_memory_option,
    add_length_option,
    add_model_options,
    add_parser,
    call_pruning_options,
    print_json,
    staged_model,
)
from .pruning_arguments import add_call_options
from .values import at_least, budget

_DESCRIPTION = """\
Answers a file of questions about images. Every line of the input is a JSON object:

  {"image": "photos/1.jpg", "question": "Is there a dog?"}

`image` is relative to the file; further fields are copied. The output has one line for each, in the same order, with
`answer`, or with `error` where an image cannot be read or the model refuses the question. Interrupted, the same command
continues where it was."""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    example = (
        "accelerate launch --num_processes 2 -m mmtok generate --model ./llava-mmtok --input questions.jsonl "
        "--output answers.jsonl --budget 64"
    )
    parser = add_parser(commands, name, help, _DESCRIPTION, example)
    parser.add_argument("--input", required=True, type=Path, metavar="FILE", help="the questions, JSON lines")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the answers, JSON lines")
    # Without a default: argparse would read one, and None, which other options have, is a budget.
    parser.add_argument(
        "--budget",
        type=budget,
        default=argparse.SUPPRESS,
        metavar="N",
        help="vision tokens kept per crop: a number, a share such as 0.25, or all (default: the model's own)",
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=at_least(1), default=8, help="questions at once (default: %(default)s)"
    )
    add_length_option(parser, 64)
    add_image_memory_option(parser)
    add_model_options(parser, required=True)
    add_call_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Generates; 1 where a line has an error."""
    from accelerate import PartialState

    from mmtok.apps.answering import counted
    from mmtok.apps.batch_generate import BatchSettings, generate_file

    with staged_model(options.model) as model:
        settings = BatchSettings(
            model=str(model),
            input=options.input,
            output=options.output,
            budget=getattr(options, "budget", "model"),
            pruning_options=call_pruning_options(options),
            batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens,
            dtype=options.dtype,
            revision=options.revision,
            device=options.device,
            image_memory=options.image_memory * 2**20,
        )
        result = generate_file(settings)
    if PartialState().is_main_process:
        if options.json:
            print_json({**asdict(result), "output": str(options.output)})
        else:
            print(f"{counted(result.lines, 'line')} in {options.output}, {result.resumed} of them from an earlier run.")
            if result.cut_off:
                print(f"Of {counted(result.cut_off, 'image')} the model sees the middle square alone.")
            if result.errors:
                have = "has" if result.errors == 1 else "have"
                print(f"{counted(result.errors, 'line')} {have} `error` in place of `answer`.")
    return 1 if result.errors else 0
