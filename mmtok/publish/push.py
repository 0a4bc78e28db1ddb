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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import sha

import mmtok

from .base import BaseCheckpoint, TensorHeader, open_base, sha256_of
from .card import edited_by_hand, render_card
from .clean_process import check_staged
from .hub import CopyRefused, HubRepo, PublishError, check_repo_path, failing_as
from .recipe import Destination, Recipe
from .repository import CARD_FILE, files_inside, is_known_file, shown
from .stage import workspace, write_repository
from .verify import Verification, verify

log = logging.getLogger(__name__)

_CARD_KEPT = "The card there was edited by hand and stays; --overwrite-card replaces it."
Action = Literal["send", "copy", "delete", "same", "kept"]


@dataclass(frozen=True)
class HubWeight:
    """A weight file of the base's repo: it can be copied on the server by its hashes.

    Attributes:
        path: in both repos.
        size: in bytes.
        sha256: of its content.
        repo_id, commit: where it stands.
        copyable: the Hub stores it such that it can be copied between repos.
    """

    path: str
    size: int
    sha256: str
    repo_id: str
    commit: str
    copyable: bool = True


@dataclass(frozen=True)
class PlannedFile:
    """One file of the repo and what happens to it.

    Attributes:
        path: in the repo.
        size: in bytes.
        action: "send" uploads it, "copy" lets the server copy it, "delete" removes it, "same" leaves what is there
            already, "kept" leaves another version that is there.
        source: where its content comes from, for "send" and "copy".
    """

    path: str
    size: int
    action: Action
    source: Path | bytes | HubWeight | None = None


@dataclass(frozen=True)
class PushReport:
    """A push: what it sets out to do, and what it did.

    Attributes:
        repo_id, branch: where to.
        parent: the commit that it builds on; None for a repo that does not exist yet.
        files: what happens to each file, by path.
        commit: the commit that holds the new version; None before that, and for a dry run.
        pull_request: the address of the pull request, where one was asked for.
        tag: the tag that names the commit.
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

    def with_action(self, *actions: Action) -> tuple[PlannedFile, ...]:
        """The files with which one of these is done."""
        return tuple(file for file in self.files if file.action in actions)

    @property
    def changes(self) -> tuple[PlannedFile, ...]:
        return self.with_action("send", "copy", "delete")

    @property
    def card_kept(self) -> bool:
        return bool(self.with_action("kept"))

    def describe(self) -> str:
        """What was done as text, in at most ten lines; of a dry run what would be, a line for each kind of change."""
        kept = [_CARD_KEPT] if self.card_kept else []
        if self.commit is None:
            return "\n".join([*self._plan(), *(f"  {each}" for each in kept), "Nothing was sent."])
        if not self.changes:
            done = f"{self.repo_id} holds all of this already, as commit {self.commit}."
        elif self.pull_request:
            done = f"Opened {self.pull_request} with {len(self.changes)} files."
        else:
            done = f"Published {len(self.changes)} files as commit {self.commit} of {self.repo_id}."
        tagged = [f"Tagged as {self.tag}."] if self.tag else []
        verified = [self.verification.verdict()] if self.verification is not None else []
        return "\n".join([*kept, done, *tagged, *verified])

    def _plan(self) -> Iterator[str]:
        there = f"commit {self.parent[:12]}" if self.parent else "a repository that does not exist yet"
        yield f"{self.repo_id}, branch {self.branch}, on top of {there}:"
        for action in ("send", "copy", "delete", "same"):
            if files := self.with_action(action):
                names = ", ".join(shown(file.path) for file in files[:4])
                more = f" and {len(files) - 4} more" if len(files) > 4 else ""
                yield f"  {action:7}{_size(sum(file.size for file in files)):>10}  {names}{more}"


@dataclass(frozen=True)
class Release:
    """What a branch is to hold.

    Attributes:
        files: every file to send by path, the card aside; for a base in a folder its weights too.
        card: writes the card for a destination.
        message, description: of the commit.
        weights: the base's weight files on the Hub; empty for a base in a folder.
        download: gets local copies of these by path, called where the server does not copy them.
        check: loads the release in a clean process; called once nothing on the Hub stands in the way.
    """

    files: Mapping[str, Path]
    card: Callable[[Destination], str]
    message: str
    description: str = ""
    weights: tuple[HubWeight, ...] = ()
    download: Callable[[], Mapping[str, Path]] = field(default=dict)
    check: Callable[[], object] = field(default=tuple)


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
        check: as in `prepare`.

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


def push_workspace(repo_id: str) -> Any:
    """The `workspace` of pushes to one repo, among the temporary files of this user."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    name = f"mmtok-push-{user}-{repo_id.replace('/', '--')}"
    return workspace(Path(tempfile.gettempdir()) / name, Path(repo_id))


def prepare(
    base: str | os.PathLike[str], recipe: Recipe, folder: Path, *, check: bool | Literal["full"] = True
) -> Release:
    """Makes what `publish` sends, and the check of it, which `publish` runs before anything is sent.

    The check is that of `stage`. The weights of a base on the Hub are not here: names, types and shapes are compared
    by the headers of their files, and the logits are not.

    Args:
        base: folder or Hub id of the stock checkpoint.
        recipe: options, words and card.
        folder: a new or empty folder.
        check: False leaves the check out, "full" is that of `stage`.

    Raises:
        ValueError, CheckFailed, PublishError: as in `push`.
    """
    recipe.check_base(base)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{shown(folder)} is not empty, and everything in it would be published: give a new folder.")
    log.info("Reading the base %s", base)
    found = _open(base, recipe.base_revision, weights=Path(base).is_dir())
    headers, weights = (found.headers, ()) if found.repo_id is None else _weights_on_the_hub(found)
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
        description=f"Weights of {found.repo_id} at {found.commit}." if found.repo_id else "",
        weights=weights,
        # Whole files, with a progress bar.
        download=lambda: _open(base, found.commit, weights=True).weights,
        check=check_release if check else tuple,
    )


def _open(base: str | os.PathLike[str], revision: str | None, *, weights: bool) -> BaseCheckpoint:
    with failing_as(f"reading {base}"):
        return open_base(base, revision=revision, weights=weights)


def _weights_on_the_hub(base: BaseCheckpoint) -> tuple[dict[str, TensorHeader], tuple[HubWeight, ...]]:
    """Name, type and shape of every tensor, of which a few hundred kilobytes are read, and the files."""
    assert base.repo_id is not None
    assert base.commit is not None
    with failing_as(f"reading the weights' headers of {base.repo_id}"):
        try:
            metadata = HfApi().get_safetensors_metadata(base.repo_id, revision=base.commit)
        except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
            raise ValueError(f"{base.repo_id} has no weights in safetensors files that can be read: {error}") from None
    there = HubRepo(base.repo_id).files_at(base.commit)
    headers: dict[str, TensorHeader] = {}
    weights = []
    for name, header in sorted(metadata.files_metadata.items()):
        headers |= {key: TensorHeader(found.dtype, tuple(found.shape)) for key, found in header.tensors.items()}
        file = there[check_repo_path(name)]
        if file.lfs is None:
            raise ValueError(
                f"{name} of {base.repo_id} is not a large file of the Hub: stage and push it from a folder."
            )
        copyable = getattr(file, "xet_hash", None) is not None  # huggingface_hub before 1.0 does not know it
        weights.append(HubWeight(name, file.size, file.lfs.sha256, base.repo_id, base.commit, copyable))
    return headers, tuple(weights)


def publish(
    release: Release, destination: Destination, *, verify_after: bool = True, dry_run: bool = False
) -> PushReport:
    """Sends what changes; `verify_after` and `dry_run` are those of `push`.

    Raises:
        PublishError: the Hub refused or failed; the message says what holds now.
    """
    if any(weight.repo_id == destination.repo_id for weight in release.weights):
        raise ValueError(f"{destination.repo_id} is the base itself: publish under another name.")
    if not dry_run and get_token() is None:
        raise PublishError("There is no token for the Hub: log in with `hf auth login`. Nothing was changed.")
    repo = HubRepo(destination.repo_id, destination.branch)
    plan = _plan(repo, _parent(repo, destination.private, create=False), release, destination)
    _check_tag(repo, destination.tag, plan)
    release.check()
    if dry_run:
        return plan
    created = _parent(repo, destination.private, create=True)
    plan = plan if plan.parent else replace(plan, parent=created)
    report = _commit(repo, plan, release, destination.create_pr) if plan.changes else replace(plan, commit=plan.parent)
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


def _plan(repo: HubRepo, parent: str | None, release: Release, destination: Destination) -> PushReport:
    """Compares what is to be published with what is there.

    Raises:
        PublishError: the branch holds other files, which may not be deleted.
    """
    there = repo.files_at(parent) if parent else {}
    card_there = repo.bytes_at(parent, CARD_FILE) if parent and CARD_FILE in there else None
    planned = [_planned_file(check_repo_path(path), source, there.get(path)) for path, source in release.files.items()]
    planned += [_planned_weight(weight, there.get(check_repo_path(weight.path))) for weight in release.weights]
    planned.append(_planned_card(release.card(destination).encode(), card_there, destination.overwrite_card))
    kept = {file.path for file in planned}
    others = sorted(path for path in there if path not in kept and not is_known_file(path, (), ()))
    if others and not destination.delete_others:
        names = ", ".join(map(shown, others[:4])) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        raise PublishError(
            f"{repo.repo_id} holds files that are not part of this release: {names}. --delete-others deletes them in "
            "the same commit; or give another repository. Nothing was changed."
        )
    planned += [PlannedFile(path, there[path].size, "delete") for path in others]
    return PushReport(repo.repo_id, repo.branch, parent, tuple(sorted(planned, key=lambda file: file.path)))


def _planned_file(path: str, source: Path, there: RepoFile | None) -> PlannedFile:
    size = source.stat().st_size
    return PlannedFile(path, size, "same" if _is_same(source, size, there) else "send", source)


def _is_same(source: Path, size: int, there: RepoFile | None) -> bool:
    if there is None or there.size != size:
        return False
    if there.lfs is None:
        return sha.git_hash(source.read_bytes()) == there.blob_id
    return sha256_of(source, "Comparing") == there.lfs.sha256


def _planned_weight(weight: HubWeight, there: RepoFile | None) -> PlannedFile:
    same = there is not None and there.lfs is not None and there.lfs.sha256 == weight.sha256
    return PlannedFile(weight.path, weight.size, "same" if same else "copy", weight)


def _planned_card(card: bytes, there: bytes | None, overwrite: bool) -> PlannedFile:
    if there == card:
        return PlannedFile(CARD_FILE, len(card), "same")
    if there is not None and not overwrite and edited_by_hand(there.decode("utf-8", "replace")):
        return PlannedFile(CARD_FILE, len(there), "kept")
    return PlannedFile(CARD_FILE, len(card), "send", card)


def _check_tag(repo: HubRepo, tag: str | None, plan: PushReport) -> None:
    """Refuses a tag that names another commit than the one that is about to be there."""
    if tag is None or plan.parent is None:
        return
    named = repo.tags().get(tag)
    if named is not None and (plan.changes or named != plan.parent):
        raise PublishError(
            f"The tag {tag} of {repo.repo_id} names commit {named} already: choose another. Nothing was changed."
        )


def _commit(repo: HubRepo, plan: PushReport, release: Release, create_pr: bool) -> PushReport:
    assert plan.parent is not None
    log.info("Committing %d files to %s", len(plan.changes), repo.repo_id)
    told = (release.message, release.description, plan.parent, create_pr)
    uploaded = False
    try:
        if not all(weight.copyable for weight in release.weights):
            raise CopyRefused("the Hub stores the base's weights without the hashes that copying needs")
        if release.weights and not can_copy_between_repos():
            raise CopyRefused("the installed huggingface_hub is too old for it")
        done = repo.commit(list(_operations(plan.changes)), *told)
    except CopyRefused as refusal:
        log.warning("The server does not copy the weights (%s): they are downloaded and sent instead.", refusal)
        done = repo.commit(list(_operations(plan.changes, release.download())), *told)
        uploaded = True
    return replace(plan, commit=done.oid, pull_request=done.pr_url, uploaded=uploaded)


def can_copy_between_repos() -> bool:
    """Whether the installed huggingface_hub lets the server copy blobs from another repo."""
    return "src_repo_id" in {copied.name for copied in fields(CommitOperationCopy)}


def _operations(
    changes: Iterable[PlannedFile], downloaded: Mapping[str, Path] | None = None
) -> Iterable[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete]:
    """Changes as one commit's operations; weights that were downloaded are sent, others copied on the server."""
    for file in changes:
        if file.action == "delete":
            yield CommitOperationDelete(file.path, is_folder=False)
        elif isinstance(file.source, HubWeight) and downloaded is None:
            weight = file.source
            yield CommitOperationCopy(weight.path, file.path, weight.commit, weight.repo_id, "model")
        else:
            source = downloaded[file.path] if downloaded and file.path in downloaded else file.source
            assert isinstance(source, (Path, bytes))
            yield CommitOperationAdd(file.path, source)


def _size(count: int) -> str:
    value, units = float(count), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
