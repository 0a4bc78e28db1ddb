"""`mmtok verify`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .common import add_json_option, add_parser, base_of, print_json
from .pushing import tidy_end

_DESCRIPTION = """\
Compares a published repository, or a staged folder, with the installed release of mmtok, by what transformers loads:
code files are the released ones, nothing else is there, no JSON file leads to other code, another repository, a kernel,
an adapter or other weights, and settings and weights are those of the base. Exit code 1 where something is not so. What
was not compared is said.

Nothing but small files is downloaded, and nothing is run."""

_EXAMPLES = """\
mmtok verify me/llava-1.5-7b-mmtok --revision v0.1.0
mmtok verify ./llava-1.5-7b-mmtok --base ./llava-1.5-7b-hf"""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    parser = add_parser(commands, name, help, _DESCRIPTION, _EXAMPLES)
    parser.add_argument("repo_or_folder", metavar="REPO_OR_FOLDER", help="Hub id or folder")
    parser.add_argument("--revision", help="branch, tag or commit of a repository (default: main)")
    parser.add_argument("--base", help="folder or Hub id to compare with (default: the one that the card names)")
    parser.add_argument("--verbose", action="store_true", help="a line for each file, every option and every problem")
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Verifies and prints the findings; 1 where something differs from the release."""
    from mmtok.publish import verify

    base = None if options.base is None else base_of(options.base)
    with tidy_end():
        found = verify(options.repo_or_folder, revision=options.revision, base=base)
    if options.json:
        print_json(asdict(found))
    else:
        print(found.describe(verbose=options.verbose))
    return 0 if found.ok else 1
