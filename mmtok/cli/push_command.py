"""`hub_upload.py push`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from mmtok.publish.card import Measurements
from mmtok.publish.push import PushReport, push

from .knob_options import add_knob_options, add_word_options, knobs_of, word_lists_of

_DESCRIPTION = """\
Publishes a stock LLaVA or LLaVA-NeXT checkpoint with MMTok pruning as a model repository on the Hugging Face Hub.

When BASE is a Hub id its weights are copied on the server: a few hundred kilobytes are sent, whatever the model's
size. When BASE is a folder, or the server does not copy, the weights are uploaded.

Code and configuration are loaded in a clean process and compared with the base before anything is sent. Everything
reaches the branch in one commit, then the commit is tagged and what was published is verified. Cut off at any point,
the branch holds what it held or all of the new version, and the same command completes it.

Log in first, once, with `hf auth login`."""

_EPILOG = """\
examples:
  hub_upload.py push llava-hf/llava-1.5-7b-hf me/llava-1.5-7b-mmtok --dry-run
  hub_upload.py push llava-hf/llava-1.5-7b-hf me/llava-1.5-7b-mmtok --tag v0.1.0 --vision-token-budget 64
  hub_upload.py push ./my-llava me/my-llava-mmtok --base-model llava-hf/llava-1.5-7b-hf --private

exit codes: 0 published (or planned), 1 refused, failed or not verified, 2 wrong usage"""


def add_command(commands: Any) -> None:
    """Adds the command to the subparsers of `hub_upload.py`."""
    parser = commands.add_parser(
        "push",
        help="publish a stock checkpoint on the Hub, in one commit",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    parser.add_argument("base", metavar="BASE", help="Hub id or folder of the stock checkpoint")
    parser.add_argument("repo_id", metavar="REPO_ID", help="ORGANISATION/NAME; created where it is not there")
    parser.add_argument("--dry-run", action="store_true", help="show files, sizes, copies and card diff; send nothing")
    parser.add_argument("--private", action="store_true", help="create REPO_ID as a private repository")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--tag", metavar="vX.Y", help="name the commit")
    parser.add_argument("--revision", metavar="BRANCH", default="main", help="branch to commit to (default: main)")
    parser.add_argument("--base-revision", metavar="REVISION", help="branch, tag or commit of a BASE on the Hub")
    parser.add_argument("--base-model", metavar="HUB_ID", help="base to name on the card when BASE is a folder")
    parser.add_argument("--results", metavar="FILE", type=Path, help="JSON file of measured results for the card")
    parser.add_argument("--overwrite-card", action="store_true", help="replace a card that was edited by hand, too")
    parser.add_argument("--no-verify", action="store_true", help="do not verify what was published")
    add_knob_options(parser)
    add_word_options(parser)
    parser.set_defaults(run=run)


def push_as_told(arguments: argparse.Namespace) -> PushReport:
    """Pushes what the command line says."""
    return push(
        arguments.base,
        arguments.repo_id,
        knobs=knobs_of(arguments, arguments.base, arguments.base_revision),
        base_revision=arguments.base_revision,
        base_model=arguments.base_model,
        measurements=Measurements.from_file(arguments.results) if arguments.results else None,
        branch=arguments.revision,
        tag=arguments.tag,
        private=arguments.private,
        create_pr=arguments.create_pr,
        overwrite_card=arguments.overwrite_card,
        verify_after=not arguments.no_verify,
        dry_run=arguments.dry_run,
        **word_lists_of(arguments),
    )


def run(arguments: argparse.Namespace) -> int:
    """Pushes, and says what was done; 1 where what was published is not as released."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mmtok").setLevel(logging.INFO)
    report = push_as_told(arguments)
    plan = report.plan
    if report.commit is None:
        print(plan.describe())
        print("Nothing was sent.")
        return 0
    if plan.card_kept:
        print("The card there was edited by hand and stays; --overwrite-card replaces it.")
    if not plan.changes:
        print(f"{plan.repo_id} holds all of this already, as commit {report.commit}.")
    elif report.pull_request:
        print(f"Opened {report.pull_request} with {len(plan.changes)} files.")
    else:
        print(f"Published {len(plan.changes)} files as commit {report.commit} of {plan.repo_id}.")
    if report.tag:
        print(f"Tagged as {report.tag}.")
    if report.verification is None:
        return 0
    print(report.verification.describe())
    return 0 if report.verification.ok else 1
