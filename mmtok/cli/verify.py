"""`mmtok verify`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .common import add_json_option, add_parser, print_json

_DESCRIPTION = """\
Compares a published repository, or a staged folder, with the installed release of mmtok: the sha256 of every published
code file, the classes that config.json names, the options of the pruning, whether the weights are the blobs of the base
that the card names, code files of an earlier release, and that there is no pickle. The last line says whether the
remote code is the released code. Exit code 1 where something is not as released.

Nothing but small files is downloaded, and none of them is run."""

_EXAMPLES = """\
mmtok verify me/llava-1.5-7b-mmtok --revision v0.1.0
mmtok verify ./llava-1.5-7b-mmtok"""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    parser = add_parser(commands, name, help, _DESCRIPTION, _EXAMPLES)
    parser.add_argument("repo_or_folder", metavar="REPO_OR_FOLDER", help="Hub id or folder")
    parser.add_argument("--revision", help="branch, tag or commit of a repository (default: main)")
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Verifies and prints the findings; 1 where something differs from the release."""
    from mmtok.publish import verify

    found = verify(options.repo_or_folder, revision=options.revision)
    if options.json:
        print_json(asdict(found))
    else:
        print(found.describe())
    return 0 if found.ok else 1
