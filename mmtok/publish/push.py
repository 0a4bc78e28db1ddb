"""Pushing: a staged model becomes one commit of a Hub repo, with the base's weights copied on the server.

Everything is made and checked before anything is sent. All files reach the branch in one commit on top of the commit
that the plan was made against, so that the branch holds either what it held or all of the new version; the tag and the
verification come after. A push that was cut off is completed by running it again.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import get_token

import mmtok

from .base import CARD_FILE
from .card import CardFacts, render_card
from .hub_errors import PublishError
from .hub_names import files_inside
from .hub_plan import Contents, PushPlan, can_copy_between_repos, make_plan, operations
from .hub_repo import CopyRefused, HubRepo
from .recipe import Destination, Recipe
from .release import Release, download_weights, prepare
from .verify import Verification, verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    Attributes:
        plan: what it set out to do.
        commit: the commit that holds the new version; None for a dry run.
        pull_request: the address of the pull request, where one was asked for.
        tag: the tag that names the commit.
        uploaded: whether weights of a Hub base were sent because the server does not copy them.
        verification: of what was published; None where it was not asked for.
    """

    plan: PushPlan
    commit: str | None = None
    pull_request: str | None = None
    tag: str | None = None
    uploaded: bool = False
    verification: Verification | None = None


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
    if not dry_run and get_token() is None:
        raise PublishError("There is no token for the Hub: log in with `hf auth login`. Nothing was changed.")
    repo = HubRepo(destination.repo_id, destination.branch)
    parent = _parent(repo, destination.private, create=not dry_run)
    plan = make_plan(destination, repo.state_at(parent), _contents(release, destination))
    _check_tag(repo, destination.tag, plan)
    if dry_run:
        return PushReport(plan)
    report = _commit(repo, plan, release, destination.create_pr) if plan.changes else PushReport(plan, plan.parent)
    assert report.commit is not None
    if destination.tag is not None:
        repo.tag(destination.tag, report.commit)
        report = replace(report, tag=destination.tag)
    if not verify_after:
        return report
    log.info("Verifying commit %s", report.commit)
    return replace(report, verification=verify(destination.repo_id, revision=report.commit))


def _parent(repo: HubRepo, private: bool, *, create: bool) -> str | None:
    """The commit to build on; creates the repo and the branch where they are not there and `create` says so."""
    head, exists = repo.head()
    if exists and private and not repo.is_private():
        raise PublishError(
            f"{repo.repo_id} exists and is public, but a private one was asked for. Nothing was changed."
        )
    if head is None and exists and not create:
        return HubRepo(repo.repo_id, "main").head()[0]
    if head is not None or not create:
        return head
    if not exists:
        repo.create(private)
        head, exists = repo.head()
    if head is None:
        repo.create_branch()
        head, _ = repo.head()
    if head is None:
        raise PublishError(f"{repo.repo_id} has no branch {repo.branch} although it was just created. Try again.")
    return head


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


def _check_tag(repo: HubRepo, tag: str | None, plan: PushPlan) -> None:
    """Refuses a tag that names another commit than the one that is about to be there."""
    if tag is None or plan.parent is None:
        return
    named = repo.tags().get(tag)
    if named is not None and (plan.changes or named != plan.parent):
        raise PublishError(
            f"The tag {tag} of {repo.repo_id} names commit {named} already: choose another. Nothing was changed."
        )


def _commit(repo: HubRepo, plan: PushPlan, release: Release, create_pr: bool) -> PushReport:
    assert plan.parent is not None
    base = release.base
    log.info("Committing %d files to %s", len(plan.changes), repo.repo_id)
    message = f"MMTok {mmtok.__version__} on {base.repo_id or base.folder.name}"
    description = f"Weights of {base.repo_id} at {base.commit}." if base.repo_id else ""
    uploaded = False
    try:
        if not all(weight.copyable for weight in release.weights):
            raise CopyRefused("the Hub stores the base's weights without the hashes that copying needs")
        if release.weights and not can_copy_between_repos():
            raise CopyRefused("the installed huggingface_hub is too old for it")
        done = repo.commit(operations(plan), message, description, plan.parent, create_pr)
    except CopyRefused as refusal:
        log.warning("The server does not copy the weights (%s): they are downloaded and sent instead.", refusal)
        downloaded = download_weights(release)
        done = repo.commit(operations(plan, downloaded), message, description, plan.parent, create_pr)
        uploaded = True
    return PushReport(plan, done.oid, done.pr_url, None, uploaded)
