"""Pushing: a staged model becomes one commit of a Hub repo, with the base's weights copied on the server.

Everything is made and checked before anything is sent; see `send` for what reaches the branch, and when.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import mmtok

from .base import CARD_FILE
from .card import CardFacts, render_card
from .hub_names import files_inside
from .hub_plan import Contents
from .recipe import Destination, Recipe
from .release import Release, download_weights, prepare
from .send import PushReport, Sending, send


def push(
    base: str | os.PathLike[str],
    destination: Destination | str,
    recipe: Recipe | None = None,
    *,
    verify_after: bool = True,
    dry_run: bool = False,
) -> PushReport:
    """Publishes a stock checkpoint as a repo of pruning remote code, in one commit.

    Args:
        base: folder or Hub id of the stock checkpoint. The weights of a Hub id are copied on the server.
        destination: where to; a text is the repo id.
        recipe: options, words and card; the defaults without one.
        verify_after: downloads what was published, the weights aside, and compares it with the release.
        dry_run: sends nothing; the report holds the plan.

    Raises:
        ValueError: a name, option or base that cannot be used; nothing was sent.
        CheckFailed: the staged files do not load, or are not the base; nothing was sent.
        PublishError: the Hub refused or failed; the message says what holds now.
    """
    if isinstance(destination, str):
        destination = Destination(destination)
    if str(base) == destination.repo_id and not Path(base).is_dir():
        raise ValueError(f"{destination.repo_id} is the base itself: publish under another name.")
    with tempfile.TemporaryDirectory(prefix="mmtok-push-") as scratch:
        release = prepare(base, recipe or Recipe(), Path(scratch))
        return publish(release, destination, verify_after=verify_after, dry_run=dry_run)


def publish(
    release: Release, destination: Destination, *, verify_after: bool = True, dry_run: bool = False
) -> PushReport:
    """Sends a prepared release; the arguments are those of `push`.

    Raises:
        ValueError: the destination is the base; nothing was sent.
        PublishError: the Hub refused or failed; the message says what holds now.
    """
    if release.base.repo_id == destination.repo_id:
        raise ValueError(f"{destination.repo_id} is the base itself: publish under another name.")
    base = release.base
    sending = Sending(
        contents=_contents(release, destination),
        message=f"MMTok {mmtok.__version__} on {base.repo_id or base.folder.name}",
        description=f"Weights of {base.repo_id} at {base.commit}." if base.repo_id else "",
        download=partial(download_weights, release),
    )
    return send(sending, destination, verify_after=verify_after, dry_run=dry_run)


def _contents(release: Release, destination: Destination) -> Contents:
    """What the branch is to hold of a release; its card names the destination."""
    files = files_inside(release.folder)
    files.pop(CARD_FILE, None)
    facts = CardFacts.of_folder(
        release.folder,
        release=mmtok.__version__,
        base_folder=release.base.folder,
        repo_id=destination.repo_id,
        tag=destination.tag,
        **release.known,
    )
    return Contents(files, release.weights, render_card(facts))
