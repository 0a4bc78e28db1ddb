"""`mmtok push-generate`."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_parser
from .pushing import add_destination_options, destination_of, finish, show_steps, tidy_end

_DESCRIPTION = """\
Publishes the code repository of `mmtok stage-generate` on the Hugging Face Hub. With its name, `generate` of any stock
checkpoint prunes, and no weights are published:

  model.generate(**inputs, custom_generate="me/mmtok", trust_remote_code=True, vision_token_budget=64)

The code is loaded in a clean process first. Everything reaches the branch in one commit, which is verified afterwards.
A repository that holds other files, such as a model, is left alone. Log in first, once, with `hf auth login`."""

_EXAMPLES = """\
mmtok push-generate me/mmtok --dry-run
mmtok push-generate me/mmtok --tag v0.1.0"""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    parser = add_parser(commands, name, help, _DESCRIPTION, _EXAMPLES)
    add_destination_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Pushes and prints a report; 1 where the published files are not the released ones."""
    from mmtok.publish import push_generate

    show_steps()
    with tidy_end():
        report = push_generate(destination_of(options), verify_after=not options.no_verify, dry_run=options.dry_run)
    return finish(report, options.json)
