"""What the commands that publish share: where to, the end by a signal, and the report."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from .common import add_json_option, print_json

if TYPE_CHECKING:
    from mmtok.publish import Destination, PushReport


def add_destination_options(parser: argparse.ArgumentParser) -> None:
    """REPO_ID, and what happens to the repository."""
    parser.add_argument("repo_id", metavar="REPO_ID", help="ORGANISATION/NAME; created where it is not there")
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be sent, copied and deleted; send nothing"
    )
    parser.add_argument("--private", action="store_true", help="create REPO_ID as a private repository")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--tag", metavar="vX.Y", help="name the commit")
    parser.add_argument("--revision", metavar="BRANCH", default="main", help="branch to commit to (default: main)")
    parser.add_argument("--overwrite-card", action="store_true", help="replace a card that was edited by hand, too")
    parser.add_argument(
        "--delete-others", action="store_true", help="delete the files of REPO_ID that are not part of this release"
    )
    parser.add_argument("--no-verify", action="store_true", help="do not verify what was published")
    add_json_option(parser)


def add_check_options(parser: argparse.ArgumentParser) -> None:
    """`--check` and `--no-check`."""
    parser.add_argument(
        "--check",
        choices=["quick", "full"],
        default="quick",
        help="quick compares names, shapes and a few layers, full all layers of two models (default: %(default)s)",
    )
    parser.add_argument("--no-check", action="store_true", help="leave out the load in a clean process")


def check_of(options: argparse.Namespace) -> bool | Literal["full"]:
    """The argument `check` that was asked for."""
    return False if options.no_check else "full" if options.check == "full" else True


@contextmanager
def tidy_end() -> Iterator[None]:
    """A SIGTERM ends the command as Ctrl-C does: what was begun is removed first. Exit code 143."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show_steps() -> None:
    """Says on standard error what a push is doing."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mmtok").setLevel(logging.INFO)


def destination_of(options: argparse.Namespace) -> Destination:
    """Where to, as it was given."""
    from mmtok.publish import Destination

    return Destination(
        options.repo_id,
        branch=options.revision,
        tag=options.tag,
        private=options.private,
        create_pr=options.create_pr,
        overwrite_card=options.overwrite_card,
        delete_others=options.delete_others,
    )


def finish(report: PushReport, as_json: bool) -> int:
    """Prints a report; 1 where the published files are not the released ones."""
    if as_json:
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
