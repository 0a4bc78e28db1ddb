"""`mmtok push`."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmtok.publish import Destination, Measurements, PushReport, Recipe, push

from .common import add_json_option, add_parser, base_of, print_json
from .pruning_arguments import add_pruning_arguments, add_word_options, pruning_options_of, word_lists_of

_DESCRIPTION = """\
Publishes a stock LLaVA or LLaVA-NeXT checkpoint with MMTok pruning as a model repository on the Hugging Face Hub.

When BASE is a Hub id its weights are copied on the server: a few hundred kilobytes are sent, whatever the model's
size. When BASE is a folder, or the server does not copy, the weights are uploaded.

Code and configuration are loaded in a clean process and compared with the base before anything is sent. Everything
reaches the branch in one commit, then the commit is tagged and what was published is verified. Cut off at any point,
the branch holds what it held or all of the new version, and the same command completes it.

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
    add_json_option(parser)
    add_pruning_arguments(parser)
    add_word_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Pushes and prints a report; 1 where the published files are not the released ones."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mmtok").setLevel(logging.INFO)
    base = base_of(options.base)
    destination = Destination(
        options.repo_id,
        branch=options.revision,
        tag=options.tag,
        private=options.private,
        create_pr=options.create_pr,
        overwrite_card=options.overwrite_card,
    )
    recipe = Recipe(
        options=pruning_options_of(options, base, options.base_revision),
        base_revision=options.base_revision,
        base_model=options.base_model,
        measurements=Measurements.from_file(options.results) if options.results else None,
        **word_lists_of(options),
    )
    report = push(base, destination, recipe, verify_after=not options.no_verify, dry_run=options.dry_run)
    if options.json:
        print_json(_as_json(report))
    else:
        print(_described(report))
    return 0 if report.verification is None or report.verification.ok else 1


def _as_json(report: PushReport) -> dict[str, Any]:
    plan, verified = report.plan, report.verification
    return {
        "repo_id": plan.repo_id,
        "commit": report.commit,
        "pull_request": report.pull_request,
        "tag": report.tag,
        "uploaded_weights": report.uploaded,
        "card_kept": plan.card_kept,
        "changes": [{"path": file.path, "size": file.size, "action": file.action} for file in plan.changes],
        "verification": None if verified is None else asdict(verified),
    }


def _described(report: PushReport) -> str:
    plan = report.plan
    if report.commit is None:
        return f"{plan.describe()}\nNothing was sent."
    lines = []
    if plan.card_kept:
        lines.append("The card there was edited by hand and stays; --overwrite-card replaces it.")
    if not plan.changes:
        lines.append(f"{plan.repo_id} holds all of this already, as commit {report.commit}.")
    elif report.pull_request:
        lines.append(f"Opened {report.pull_request} with {len(plan.changes)} files.")
    else:
        lines.append(f"Published {len(plan.changes)} files as commit {report.commit} of {plan.repo_id}.")
    if report.tag:
        lines.append(f"Tagged as {report.tag}.")
    if report.verification is not None:
        lines.append(report.verification.describe())
    return "\n".join(lines)
