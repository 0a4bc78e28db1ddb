"""`mmtok push`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import add_parser, base_of
from .pruning_arguments import add_pruning_arguments, pruning_options_of
from .pushing import add_check_options, add_destination_options, check_of, destination_of, finish, show_steps, tidy_end

_DESCRIPTION = """\
Publishes a stock LLaVA or LLaVA-NeXT checkpoint with MMTok pruning as a model repository on the Hugging Face Hub.

When BASE is a Hub id its weights are copied on the server: a few hundred kilobytes are sent, whatever the model's
size. When BASE is a folder, or the server does not copy, the weights are uploaded.

Code and configuration are loaded in a clean process and compared with the base before anything is sent. Everything
reaches the branch in one commit, then the commit is tagged and what was published is verified. Cut off at any point,
the branch holds what it held or all of the new version, and the same command completes it. A repository that holds
other files than a release is left alone, unless --delete-others says that these may go.

Log in first, once, with `hf auth login`."""

_EXAMPLES = """\
mmtok push llava-hf/llava-1.5-7b-hf me/llava-1.5-7b-mmtok --dry-run
mmtok push llava-hf/llava-1.5-7b-hf me/llava-1.5-7b-mmtok --tag v0.1.0 --vision-token-budget 64
mmtok push ./my-llava me/my-llava-mmtok --base-model llava-hf/llava-1.5-7b-hf --private"""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    parser = add_parser(commands, name, help, _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "base", metavar="BASE", help="Hub id or folder of the stock checkpoint; tiny is the embedded one"
    )
    add_destination_options(parser)
    parser.add_argument("--base-revision", metavar="REVISION", help="branch, tag or commit of a BASE on the Hub")
    parser.add_argument("--base-model", metavar="HUB_ID", help="base to name on the card when BASE is a folder")
    parser.add_argument("--results", metavar="FILE", type=Path, help="JSON file of measured results for the card")
    add_check_options(parser)
    add_pruning_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Pushes and prints a report; 1 where the published files are not the released ones."""
    from mmtok.publish import Measurements, Recipe, push

    show_steps()
    base, destination = base_of(options.base), destination_of(options)
    recipe = Recipe(
        options=pruning_options_of(options, base, options.base_revision),
        base_revision=options.base_revision,
        base_model=options.base_model,
        measurements=Measurements.from_file(options.results) if options.results else None,
    )
    sending = {"verify_after": not options.no_verify, "dry_run": options.dry_run}
    with tidy_end():
        report = push(base, destination, recipe, check=check_of(options), **sending)
    return finish(report, options.json)
