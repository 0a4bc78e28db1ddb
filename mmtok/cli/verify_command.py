"""`hub_upload.py verify`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from mmtok.publish.verify import verify

_DESCRIPTION = """\
Compares a published repository, or a staged folder, with the installed release of mmtok: the sha256 of every published
code file, the classes that config.json names, the pruning knobs, whether the weights are the blobs of the base that
the card names, and that there is no pickle. The last line says whether the remote code is the released code.

Nothing but small files is downloaded, and none of them is run."""

_EPILOG = """\
examples:
  hub_upload.py verify me/llava-1.5-7b-mmtok --revision v0.1.0
  hub_upload.py verify ./llava-1.5-7b-mmtok

exit codes: 0 all is as released, 1 something is not or the Hub refused, 2 wrong usage"""


def add_command(commands: Any) -> None:
    """Adds the command to the subparsers of `hub_upload.py`."""
    parser = commands.add_parser(
        "verify",
        help="compare a published repository with the installed release",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    parser.add_argument("repo_or_folder", metavar="REPO_OR_FOLDER", help="Hub id or folder")
    parser.add_argument("--revision", help="branch, tag or commit of a repository (default: main)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Verifies, and says what was found; 1 where something is not as released."""
    found = verify(arguments.repo_or_folder, revision=arguments.revision)
    print(json.dumps(asdict(found), indent=2) if arguments.json else found.describe())
    return 0 if found.ok else 1
