"""Pushing: a staged model becomes one commit of a Hub repo, with the base's weights copied on the server.

Everything is made and checked before anything is sent. The branch then holds exactly the release, in one commit on top
of the commit that the plan was made against, then the tag is made, then what is there is verified. The branch holds
either what it held or all of the new version. What was cut off is completed by running it again.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    get_token,
    hf_hub_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    NotASafetensorsRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import sha
from tqdm import tqdm

import mmtok

from .base import BaseCheckpoint, TensorHeader, open_base, sha256_of
from .card import edited_by_hand, render_card
from .clean_process import check_staged
from .hub import UNTOUCHED, PublishError, failing_as, files_at, sha256_of_large
from .recipe import Destination, Recipe
from .repository import CARD_FILE, files_inside, is_known_file, listed, shown
from .stage import target_workspace, write_repository
from .verify import Verification, verify

log = logging.getLogger(__name__)

Action = Literal["send", "copy", "delete", "same", "kept"]


@dataclass(frozen=True)
class PlannedFile:
    """One file of the repo and what happens to it.

    Attributes:
        path, size: in the repo, in bytes.
        action: "send" uploads it, "copy" lets the server copy it, "delete" removes it, "same" leaves what is there
            already, "kept" leaves another version that is there.
    """

    path: str
    size: int
    action: Action


@dataclass(frozen=True)
class PushReport:
    """A push: what it sets out to do, and what it did.

    Attributes:
        repo_id, branch: where to.
        parent: the commit that it builds on; None for a repo that does not exist yet.
        files: what happens to each file, by path.
        commit, tag: of the new version; None before that, and for a dry run.
        pull_request: the address of the pull request, where one was asked for.
        uploaded: whether weights of a Hub base were sent because the server does not copy them.
        verification: of what was published; None where it was not asked for.
    """

    repo_id: str
    branch: str
    parent: str | None
    files: tuple[PlannedFile, ...]
    commit: str | None = None
    pull_request: str | None = None
    tag: str | None = None
    uploaded: bool = False
    verification: Verification | None = None

    @property
    def changes(self) -> tuple[PlannedFile, ...]:
        return tuple(file for file in self.files if file.action in ("send", "copy", "delete"))

    @property
    def card_kept(self) -> bool:
        return any(file.action == "kept" for file in self.files)

    def describe(self) -> str:
        """What was done as text, in at most ten lines; of a dry run what would be, a line for each kind of change."""
        lines = []
        if self.card_kept:
            lines.append("The card there was edited by hand and stays; --overwrite-card replaces it.")
        if self.commit is None:
            there = f"commit {self.parent[:12]}" if self.parent else "a repository that does not exist yet"
            lines.append(f"{self.repo_id}, branch {self.branch}, on top of {there}:")
            for action in ("send", "copy", "delete", "same"):
                files = [file for file in self.files if file.action == action]
                size = tqdm.format_sizeof(sum(file.size for file in files), "B")
                lines += [f"  {action:7}{size:>8}  {listed(file.path for file in files)}"] if files else []
            lines.append("Nothing was sent.")
        elif not self.changes:
            lines.append(f"{self.repo_id} holds all of this already, as commit {self.commit}.")
        elif self.pull_request:
            lines.append(f"Opened {self.pull_request} with {len(self.changes)} files.")
        else:
            lines.append(f"Published {len(self.changes)} files as commit {self.commit} of {self.repo_id}.")
        if self.tag:
            lines.append(f"Tagged as {self.tag}.")
        if self.verification is not None:
            lines.append(self.verification.verdict())
        return "\n".join(lines)


@dataclass(frozen=True)
class Release:
    """What a branch is to hold; without a base it is code alone."""

    files: Mapping[str, Path]  # to send, by path, the card aside; for a base in a folder its weights too
    card: Callable[[Destination], str]
    message: str  # of the commit
    base: BaseCheckpoint | None = None
    weights: Mapping[str, RepoFile] = field(default_factory=dict)  # by path, of a base on the Hub
    check: Callable[[], object] = tuple  # in a clean process; called once nothing on the Hub stands in the way


class CopyRefused(Exception):
    """The server does not copy the base's weights into this repo; nothing was committed."""


def push(
    base: str | os.PathLike[str],
    destination: Destination | str,
    recipe: Recipe | None = None,
    *,
    verify_after: bool = True,
    dry_run: bool = False,
    check: bool | Literal["full"] = True,
) -> PushReport:
    """Publishes a stock checkpoint as a repo of pruning remote code, in one commit.

    Args:
        base: folder or Hub id of the stock checkpoint. The weights of a Hub id are copied on the server.
        destination: where to; a text is the repo id.
        recipe: options, words and card; the defaults without one.
        verify_after: downloads what was published, the weights aside, and compares it with the release.
        dry_run: sends nothing; the report holds the plan.
        check: loads the files in a clean process before anything is sent; see `stage` and `prepare`.

    Raises:
        ValueError: a name, option or base that cannot be used; nothing was sent.
        CheckFailed: the staged files do not load, or are not the base; nothing was sent.
        PublishError: the Hub refused or failed; the message says what holds now.
    """
    if isinstance(destination, str):
        destination = Destination(destination)
    if str(base) == destination.repo_id and not Path(base).is_dir():
        raise ValueError(f"{destination.repo_id} is the base itself: publish under another name.")
    with push_workspace(destination.repo_id) as space:
        release = prepare(base, recipe or Recipe(), space / "new", check=check)
        return publish(release, destination, verify_after=verify_after, dry_run=dry_run)


def push_workspace(repo_id: str) -> AbstractContextManager[Path]:
    """The `target_workspace` of pushes to one repo, among the temporary files of this user."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return target_workspace(Path(tempfile.gettempdir()) / f"push-{user}-{repo_id.replace('/', '--')}")


def prepare(
    base: str | os.PathLike[str], recipe: Recipe, folder: Path, *, check: bool | Literal["full"] = True
) -> Release:
    """Makes what `publish` sends in a new or empty folder, and the check of it, which `publish` runs before it sends.

    The check is that of `stage`. The weights of a base on the Hub are not here: names, types and shapes are compared
    by the headers of their files, and the logits are not. The errors are those of `push`.
    """
    recipe.check_base(base)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{shown(folder)} is not empty, and everything in it would be published: give a new folder.")
    log.info("Reading the base %s", base)
    with failing_as(f"reading {base}"):
        found = open_base(base, revision=recipe.base_revision, weights=Path(base).is_dir())
        headers, weights = (found.headers, {}) if found.repo_id is None else _weights_on_the_hub(found)
    with tempfile.TemporaryDirectory(prefix="base-", dir=folder.parent) as temporary:
        facts = write_repository(found.copied_to(Path(temporary) / "base"), folder, recipe)

    def check_release() -> None:
        with tempfile.TemporaryDirectory(prefix="check-", dir=folder.parent) as temporary:
            base_copy, model = found.copied_to(Path(temporary) / "base"), Path(temporary) / "model"
            shutil.copytree(folder, model)
            for name, source in found.weights.items():
                (model / name).symlink_to(source)
            check_staged(model, base_copy, Path(temporary), headers=headers, full=check == "full")

    files = {**files_inside(folder), **found.weights}
    files.pop(CARD_FILE)
    return Release(
        files,
        lambda destination: render_card(replace(facts, repo_id=destination.repo_id, tag=destination.tag)),
        message=f"MMTok {mmtok.__version__} on {found.repo_id or found.name.rpartition('/')[2]}",
        base=found,
        weights=weights,
        check=check_release if check else tuple,
    )


def _weights_on_the_hub(base: BaseCheckpoint) -> tuple[dict[str, TensorHeader], dict[str, RepoFile]]:
    """Name, type and shape of every tensor, of which a few hundred kilobytes are read, and the files."""
    assert base.repo_id is not None
    try:
        metadata = HfApi().get_safetensors_metadata(base.repo_id, revision=base.commit)
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise ValueError(f"{base.repo_id} has no weights in safetensors files that can be read: {error}") from None
    headers = {
        name: TensorHeader(tensor.dtype, tuple(tensor.shape))
        for _, file in sorted(metadata.files_metadata.items())
        for name, tensor in file.tensors.items()
    }
    there = files_at(base.repo_id, base.commit)
    weights = {name: there[name] for name in base.weight_files}
    for name in sorted(weights.keys() - sha256_of_large(weights)):
        raise ValueError(f"{name} of {base.repo_id} is not a large file of the Hub: stage and push it from a folder.")
    return headers, weights


def publish(
    release: Release, destination: Destination, *, verify_after: bool = True, dry_run: bool = False
) -> PushReport:
    """Sends what changes; `verify_after`, `dry_run` and the errors of the Hub are those of `push`."""
    if not dry_run and get_token() is None:
        raise PublishError("There is no token for the Hub: log in with `hf auth login`. Nothing was changed.")
    api, repo_id, card = HfApi(), destination.repo_id, release.card(destination).encode()
    with failing_as(f"reading {repo_id}"):
        plan = _plan(release, card, destination)
        tags = api.list_repo_refs(repo_id).tags if destination.tag and plan.parent else []
    for tag in tags:
        if tag.name == destination.tag and (plan.changes or tag.target_commit != plan.parent):
            raise PublishError(
                f"The tag {tag.name} of {repo_id} names commit {tag.target_commit} already: choose another. Nothing "
                "was changed."
            )
    release.check()
    if dry_run:
        return plan
    with failing_as(f"creating {repo_id} or its branch {destination.branch}"):
        if plan.parent is None:
            api.create_repo(repo_id, private=destination.private, exist_ok=True)
        if destination.branch != "main":
            api.create_branch(repo_id, branch=destination.branch, exist_ok=True)
        plan = replace(plan, parent=plan.parent or _head(destination))
    report = _commit(plan, release, card, destination) if plan.changes else replace(plan, commit=plan.parent)
    assert report.commit is not None
    if destination.tag is not None:
        state = (
            f"The files are published as commit {report.commit}, only the tag is missing; run the same command again."
        )
        with failing_as(f"tagging {repo_id} as {destination.tag}", state):
            api.create_tag(repo_id, tag=destination.tag, revision=report.commit, exist_ok=True)
        report = replace(report, tag=destination.tag)
    if not verify_after:
        return report
    log.info("Verifying commit %s", report.commit)
    return replace(report, verification=verify(repo_id, revision=report.commit))


def _head(destination: Destination) -> str | None:
    """The commit to build on: the top of the branch, or of main without such a branch; None without the repo."""
    api = HfApi()
    try:
        main = api.repo_info(destination.repo_id)
    except RepositoryNotFoundError:
        return None
    if destination.private and not main.private:
        raise PublishError(
            f"{destination.repo_id} exists and is public, but a private one was asked for. Nothing was changed."
        )
    try:
        return api.repo_info(destination.repo_id, revision=destination.branch).sha
    except RevisionNotFoundError:
        return main.sha


def _plan(release: Release, card: bytes, destination: Destination) -> PushReport:
    """Compares what is to be published with what is there; a PublishError for other files that may not be deleted."""
    repo_id, parent = destination.repo_id, _head(destination)
    there = files_at(repo_id, parent) if parent else {}
    large, wanted, planned = sha256_of_large(there), sha256_of_large(release.weights), []
    for path, source in release.files.items():
        same = path in there and _is_same(source, there[path])
        planned.append(PlannedFile(path, source.stat().st_size, "same" if same else "send"))
    for path, weight in release.weights.items():
        same = large.get(path) == wanted[path]
        planned.append(PlannedFile(path, weight.size, "same" if same else "copy"))
    action: Action = "send"
    if CARD_FILE in there:
        found = Path(hf_hub_download(repo_id, CARD_FILE, revision=parent)).read_bytes()
        if found == card:
            action = "same"
        elif not destination.overwrite_card and edited_by_hand(found.decode("utf-8", "replace")):
            action = "kept"
    planned.append(PlannedFile(CARD_FILE, len(card), action))
    kept = {file.path for file in planned}
    others = sorted(path for path in there if path not in kept and not is_known_file(path, (), ()))
    if others and not destination.delete_others:
        raise PublishError(
            f"{repo_id} holds files that are not part of this release: {listed(others)}. --delete-others deletes them "
            "in the same commit; or give another repository. Nothing was changed."
        )
    planned += [PlannedFile(path, there[path].size, "delete") for path in others]
    return PushReport(repo_id, destination.branch, parent, tuple(sorted(planned, key=lambda file: file.path)))


def _is_same(source: Path, there: RepoFile) -> bool:
    if there.size != source.stat().st_size:
        return False
    if there.lfs is None:
        return sha.git_hash(source.read_bytes()) == there.blob_id
    return sha256_of(source) == there.lfs.sha256


def _commit(plan: PushReport, release: Release, card: bytes, destination: Destination) -> PushReport:
    """All changes as one commit; the base's weights are downloaded and sent where the server does not copy them."""
    log.info("Committing %d files to %s", len(plan.changes), plan.repo_id)
    sources: dict[str, Path | bytes] = {**release.files, CARD_FILE: card}
    try:
        done, uploaded = _send(plan, release, sources, destination), False
    except CopyRefused as refusal:
        log.warning("The server does not copy the weights (%s): they are downloaded and sent instead.", refusal)
        assert release.base is not None
        assert release.base.repo_id is not None
        with failing_as(f"reading {release.base.repo_id}"):
            sources |= open_base(release.base.repo_id, revision=release.base.commit).weights
        done, uploaded = _send(plan, release, sources, destination), True
    return replace(plan, commit=done.oid, pull_request=done.pr_url, uploaded=uploaded)


def _send(
    plan: PushReport, release: Release, sources: Mapping[str, Path | bytes], destination: Destination
) -> CommitInfo:
    """Commits the changes of a plan; weights without a source are copied on the server, or a CopyRefused is raised."""
    open_end = (
        f"The branch {plan.branch} holds what it held or, if only the answer got lost, all of the new version; run the "
        "same command again: it completes what is missing."
    )
    base, weights = release.base, [weight for path, weight in release.weights.items() if path not in sources]
    # huggingface_hub before 1.0 does not know this hash.
    if any(getattr(weight, "xet_hash", None) is None for weight in weights):
        raise CopyRefused("the Hub stores the base's weights without the hashes that copying needs")
    if weights and not can_copy_between_repos():
        raise CopyRefused("the installed huggingface_hub is too old for it")
    with failing_as(f"committing to {plan.repo_id}", open_end, UNTOUCHED, (RuntimeError, ValueError)):
        try:
            return HfApi().create_commit(
                plan.repo_id,
                list(_operations(plan, base, sources)),
                commit_message=release.message,
                commit_description=f"Weights of {base.repo_id} at {base.commit}." if base and base.repo_id else "",
                revision=plan.branch,
                parent_commit=plan.parent,
                create_pr=destination.create_pr,
            )
        except Exception as error:
            if _refuses_copy(error):
                raise CopyRefused(str(error)) from error
            raise


def can_copy_between_repos() -> bool:
    """Whether the installed huggingface_hub lets the server copy blobs from another repo."""
    return "src_repo_id" in {copied.name for copied in fields(CommitOperationCopy)}


def _refuses_copy(error: Exception) -> bool:
    """Whether an error means "upload instead", not "try again" or "you may not"."""
    if isinstance(error, HfHubHTTPError):
        duplicating = "/lfs-files/duplicate" in str(error.response.request.url)
        return duplicating and error.response.status_code in (400, 403, 404, 405, 409, 422, 501)
    # Older releases of huggingface_hub have no such class.
    return type(error).__name__ == "FileDuplicationError" or "no xet hash" in str(error)


def _operations(
    plan: PushReport, base: BaseCheckpoint | None, sources: Mapping[str, Path | bytes]
) -> Iterator[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete]:
    for file in plan.changes:
        if file.action == "delete":
            yield CommitOperationDelete(file.path, is_folder=False)
        elif file.path in sources:
            yield CommitOperationAdd(file.path, sources[file.path])
        else:
            assert base is not None
            yield CommitOperationCopy(file.path, file.path, base.commit, base.repo_id, "model")
