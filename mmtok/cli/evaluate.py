"""`mmtok eval`."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from typing import Any

from mmtok.evaluation.__main__ import add_arguments, evaluate

from .common import add_json_option, add_parser, print_json

_DESCRIPTION = """\
Accuracy on question files in POPE's format with the pictures in a folder: all tokens, and every method with every
budget. Answers are kept in the output folder, so that an interrupted run goes on; under `accelerate launch -m mmtok`
the questions are shared between the processes."""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    example = (
        "mmtok eval --model ./llava-mmtok --questions coco_pope_random.json --images val2014 --budgets 192 128 64 4"
    )
    parser = add_parser(commands, name, help, _DESCRIPTION, example)
    add_arguments(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluates; the runner prints its table, with --json to standard error."""
    with redirect_stdout(sys.stderr if options.json else sys.stdout):
        results = evaluate(options)
    if options.json:
        print_json(results)
