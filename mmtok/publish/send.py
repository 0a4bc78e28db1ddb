"""Sending: one commit on top of the commit that the plan was made against, then the tag, then the verification.

The branch holds either what it held or all of the new version. What was cut off is completed by running it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import get_token

from .hub_errors import PublishError
from .hub_plan import Contents, PushPlan, RepoState, can_copy_between_repos, make_plan, operations
from .hub_repo import CopyRefused, HubRepo
from .recipe import Destination
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


@dataclass(frozen=True)
class Sending:
    """What is to be sent.

    Attributes:
        contents: what the branch is to hold.
        message, description: of the commit.
        download: gets local copies of the weights by path, called where the server does not copy them.
        refuse: raises a PublishError for a branch that must not be written to; None for any branch.
    """

    contents: Contents
    message: str
    description: str = ""
    download: Callable[[], Mapping[str, Path]] = dict
    refuse: Callable[[RepoState], None] | None = None


def send(sending: Sending, destination: Destination, *, verify_after: bool = True, dry_run: bool = False) -> PushReport:
    """Sends what changes; `verify_after` and `dry_run` are those of `push`.

    Raises:
        PublishError: the Hub refused or failed; the message says what holds now.
    """
    if not dry_run and get_token() is None:
        raise PublishError("There is no token for the Hub: log in with `hf auth login`. Nothing was changed.")
    repo = HubRepo(destination.repo_id, destination.branch)
    if sending.refuse is not None:
        sending.refuse(repo.state_at(_parent(repo, destination.private, create=False)))
    parent = _parent(repo, destination.private, create=not dry_run)
    plan = make_plan(destination, repo.state_at(parent), sending.contents)
    _check_tag(repo, destination.tag, plan)
    if dry_run:
        return PushReport(plan)
    report = _commit(repo, plan, sending, destination.create_pr) if plan.changes else PushReport(plan, plan.parent)
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


def _check_tag(repo: HubRepo, tag: str | None, plan: PushPlan) -> None:
    """Refuses a tag that names another commit than the one that is about to be there."""
    if tag is None or plan.parent is None:
        return
    named = repo.tags().get(tag)
    if named is not None and (plan.changes or named != plan.parent):
        raise PublishError(
            f"The tag {tag} of {repo.repo_id} names commit {named} already: choose another. Nothing was changed."
        )


def _commit(repo: HubRepo, plan: PushPlan, sending: Sending, create_pr: bool) -> PushReport:
    assert plan.parent is not None
    log.info("Committing %d files to %s", len(plan.changes), repo.repo_id)
    told = (sending.message, sending.description, plan.parent, create_pr)
    weights, uploaded = sending.contents.weights, False
    try:
        if not all(weight.copyable for weight in weights):
            raise CopyRefused("the Hub stores the base's weights without the hashes that copying needs")
        if weights and not can_copy_between_repos():
            raise CopyRefused("the installed huggingface_hub is too old for it")
        done = repo.commit(operations(plan), *told)
    except CopyRefused as refusal:
        log.warning("The server does not copy the weights (%s): they are downloaded and sent instead.", refusal)
        done = repo.commit(operations(plan, sending.download()), *told)
        uploaded = True
    return PushReport(plan, done.oid, done.pr_url, None, uploaded)
