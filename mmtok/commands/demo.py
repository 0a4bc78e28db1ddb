"""`mmtok demo`."""

from __future__ import annotations

import argparse
from typing import Any

from mmtok import demo


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        name, help=help, description=demo.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    demo.add_arguments(parser)
    parser.set_defaults(run=demo.run)
