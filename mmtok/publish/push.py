"""Pushing: a staged model becomes one commit of a Hub repo, with the base's weights copied on the server.

Everything is made and checked before anything is sent. All files reach the branch in one commit on top of the commit
that the plan was made against, so that the branch holds either what it held or all of the new version; the tag and the
verification come after. A push that was cut off is completed by running it again.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

import mmtok

from .base import CARD_FILE
from .card import CardFacts, Measurements, render_card
from .hub_errors import PublishError
from .hub_names import check_reference, check_repo_id, files_inside
from .hub_plan import PushPlan, can_copy_between_repos, make_plan, operations
from .hub_repo import CopyRefused, HubRepo
from .ignored_text import INSTRUCTIONS, STOP_WORDS
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
    repo_id: str,
    *,
    knobs: Mapping[str, Any] | None = None,
    stop_words: Sequence[str] = STOP_WORDS,
    instructions: Sequence[str] = INSTRUCTIONS,
    base_revision: str | None = None,
    base_model: str | None = None,
    measurements: Measurements | None = None,
    branch: str = "main",
    tag: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    overwrite_card: bool = False,
    verify_after: bool = True,
    dry_run: bool = False,
) -> PushReport:
    """Publishes a stock checkpoint as a repo of pruning remote code, in one commit.

    Args:
        base: folder or Hub id of the stock checkpoint. The weights of a Hub id are copied on the server.
        repo_id: "ORGANISATION/NAME"; created where it is not there.
        knobs, stop_words, instructions: as in `stage`.
        base_revision: branch, tag or commit of a base on the Hub.
        base_model: Hub id to name as the base on the card when `base` is a folder.
        measurements: results to show on the card.
        branch: where to commit; another one than main is created where it is not there.
        tag: names the commit.
        private: creates the repo as a private one. A public repo is refused then, not changed.
        create_pr: opens a pull request instead of committing to the branch.
        overwrite_card: replaces a card that somebody edited by hand.
        verify_after: downloads what was published, the weights aside, and compares it with the release.
        dry_run: sends nothing; the report holds the plan.

    Raises:
        ValueError: a name, knob or base that cannot be used; nothing was sent.
        CheckFailed: the staged files do not load, or are not the base; nothing was sent.
        PublishError: the Hub refused or failed; the message says what holds now.
    """
    _check_request(base, repo_id, base_revision, base_model, branch, tag, create_pr)
    with tempfile.TemporaryDirectory(prefix="mmtok-push-") as scratch:
        release = prepare(
            base,
            Path(scratch),
            knobs=knobs,
            stop_words=stop_words,
            instructions=instructions,
            base_revision=base_revision,
            base_model=base_model,
            measurements=measurements,
        )
        return publish(
            release,
            repo_id,
            branch=branch,
            tag=tag,
            private=private,
            create_pr=create_pr,
            overwrite_card=overwrite_card,
            verify_after=verify_after,
            dry_run=dry_run,
        )


def publish(
    release: Release,
    repo_id: str,
    *,
    branch: str = "main",
    tag: str | None = None,
    private: bool = False,
    create_pr: bool = False,
    overwrite_card: bool = False,
    verify_after: bool = True,
    dry_run: bool = False,
) -> PushReport:
    """Sends a prepared release; the arguments are those of `push`.

    Raises:
        ValueError: a name that cannot be used; nothing was sent.
        PublishError: the Hub refused or failed; the message says what holds now.
    """
    _check_request(release.base.folder, repo_id, None, None, branch, tag, create_pr)
    if release.base.repo_id == repo_id:
        raise ValueError(f"{repo_id} is the base itself: publish under another name.")
    if not dry_run and get_token() is None:
        raise PublishError("There is no token for the Hub: log in with `hf auth login`. Nothing was changed.")
    repo = HubRepo(repo_id, branch)
    parent = _parent(repo, private, create=not dry_run)
    plan = _plan(repo, parent, release, tag, overwrite_card)
    _check_tag(repo, tag, plan)
    if dry_run:
        return PushReport(plan)
    report = _commit(repo, plan, release, create_pr) if plan.changes else PushReport(plan, plan.parent)
    assert report.commit is not None
    if tag is not None:
        repo.tag(tag, report.commit)
        report = replace(report, tag=tag)
    if not verify_after:
        return report
    log.info("Verifying commit %s", report.commit)
    return replace(report, verification=verify(repo_id, revision=report.commit))


def _check_request(
    base: str | os.PathLike[str],
    repo_id: str,
    base_revision: str | None,
    base_model: str | None,
    branch: str,
    tag: str | None,
    create_pr: bool,
) -> None:
    check_repo_id(repo_id)
    check_reference(branch, "branch")
    if tag is not None:
        check_reference(tag, "tag")
    if tag is not None and create_pr:
        raise ValueError(f"tag={tag!r} was given with create_pr: tag the commit once the pull request is merged.")
    if base_revision is not None:
        check_reference(base_revision, "revision")
    if base_model is not None:
        check_repo_id(base_model)
        if not Path(base).is_dir():
            raise ValueError(f"base_model={base_model!r} was given with the Hub id {base}, which is the base itself.")
    if str(base) == repo_id and not Path(base).is_dir():
        raise ValueError(f"{repo_id} is the base itself: publish under another name.")


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


def _plan(repo: HubRepo, parent: str | None, release: Release, tag: str | None, overwrite_card: bool) -> PushPlan:
    there = repo.files_at(parent) if parent else {}
    card_there = repo.text_at(parent, CARD_FILE) if parent and CARD_FILE in there else None
    files = files_inside(release.folder)
    files.pop(CARD_FILE, None)
    facts = CardFacts.of_folder(
        release.folder,
        release=mmtok.__version__,
        base_folder=release.base.folder,
        repo_id=repo.repo_id,
        tag=tag,
        **release.known,
    )
    return make_plan(
        repo.repo_id,
        repo.branch,
        parent,
        there=there,
        files=files,
        weights=release.weights,
        card=render_card(facts),
        card_there=card_there,
        overwrite_card=overwrite_card,
    )


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
