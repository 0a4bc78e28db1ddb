"""`mmtok demo`."""

from __future__ import annotations

import argparse
from typing import Any

from mmtok.apps import demo

from .values import writable_picture


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        name, help=help, description=demo.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    demo.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the demo, if its picture can be written."""
    if not options.web:
        writable_picture(options.output)
    demo.run(options)
