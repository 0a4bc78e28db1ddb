"""`mmtok stage-generate`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .common import add_json_option, add_parser, print_json
from .pushing import tidy_end

_DESCRIPTION = """\
Makes the folder of a code repository without weights, with which `generate` of any stock checkpoint prunes:

  model.generate(**inputs, custom_generate=OUT, trust_remote_code=True, vision_token_budget=64)

At the end the folder is loaded in a clean process and prunes a small model there. A call without custom_generate runs
without pruning."""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    parser = add_parser(commands, name, help, _DESCRIPTION, "mmtok stage-generate ./mmtok_generate")
    parser.add_argument("out", metavar="OUT", help="the folder to make; new or empty")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it was made by this command")
    parser.add_argument("--no-check", action="store_true", help="leave out the load in a clean process")
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Stages and prints a report."""
    from mmtok.publish import stage_generate

    with tidy_end():
        staged = stage_generate(options.out, overwrite=options.overwrite, check=not options.no_check)
    if options.json:
        print_json(asdict(staged))
        return
    print(f"{staged.path}: {len(staged.files)} files")
    if staged.checked:
        print(f"Checked in a clean process: {', '.join(staged.checked)} can be pruned, and the full budget is stock's.")
    else:
        print("Not checked.")
