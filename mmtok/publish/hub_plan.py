"""What a push would change: the staged files and the base's weights compared with the repository as it is now."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import sha

from .base import CARD_FILE
from .card import edited_by_hand
from .hub_names import check_repo_path
from .orphans import orphans
from .recipe import Destination

_WEIGHTS = re.compile(r"(model|pytorch_model)[^/]*\.(safetensors|bin)(\.index\.json)?")


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
class RepoState:
    """What a branch holds before a push.

    Attributes:
        commit: at its top; None for a repo that does not exist yet.
        files: of that commit by path.
        card: of that commit, None without one.
    """

    commit: str | None
    files: Mapping[str, RepoFile] = field(default_factory=dict)
    card: str | None = None


@dataclass(frozen=True)
class Contents:
    """What a branch is to hold after a push.

    Attributes:
        files: the staged files by path, the card aside.
        weights: the weights that come from the base's repo.
        card: the card.
    """

    files: Mapping[str, Path]
    weights: tuple[HubWeight, ...]
    card: str


@dataclass(frozen=True)
class PlannedFile:
    """One file of the published repo and what happens to it.

    Attributes:
        path: in the repo.
        size: in bytes.
        action: "add" sends it, "copy" lets the server copy it, "delete" removes it, "same" leaves what is there
            already, "kept" leaves another version that is there.
        source: where its content comes from, for "add" and "copy".
    """

    path: str
    size: int
    action: Literal["add", "copy", "delete", "same", "kept"]
    source: Path | bytes | HubWeight | None = None


@dataclass(frozen=True)
class PushPlan:
    """A push before anything is sent.

    Attributes:
        repo_id, branch: where to.
        parent: the commit that the plan was made against; None for a repo that does not exist yet.
        files: what happens to each file.
        card_diff: unified diff from the card that is there to the new one; empty where they are the same.
    """

    repo_id: str
    branch: str
    parent: str | None
    files: tuple[PlannedFile, ...]
    card_diff: str

    @property
    def changes(self) -> tuple[PlannedFile, ...]:
        return tuple(file for file in self.files if file.action in ("add", "copy", "delete"))

    @property
    def bytes_to_send(self) -> int:
        return sum(file.size for file in self.files if file.action == "add")

    @property
    def bytes_to_copy(self) -> int:
        return sum(file.size for file in self.files if file.action == "copy")

    @property
    def card_kept(self) -> bool:
        return any(file.path == CARD_FILE and file.action == "kept" for file in self.files)

    def describe(self) -> str:
        """The plan as text: one line per file, the sums, and the diff of the card."""
        there = f"commit {self.parent[:12]}" if self.parent else "a repository that does not exist yet"
        lines = [f"{self.repo_id}, branch {self.branch}, on top of {there}:"]
        lines += [f"  {file.action:6} {_size(file.size):>10}  {file.path}" for file in self.files]
        lines.append(
            f"{len(self.changes)} of {len(self.files)} files change: {_size(self.bytes_to_send)} to send, "
            f"{_size(self.bytes_to_copy)} copied on the server."
        )
        if self.card_kept:
            lines.append("The card there was edited by hand and stays; --overwrite-card would replace it like this:")
        return "\n".join(lines + ([self.card_diff.rstrip("\n")] if self.card_diff else []))


def make_plan(destination: Destination, there: RepoState, new: Contents) -> PushPlan:
    """Compares what is to be published with what is there."""
    planned = [
        _planned_file(check_repo_path(path), source, there.files.get(path)) for path, source in new.files.items()
    ]
    planned += [_planned_weight(weight, there.files.get(check_repo_path(weight.path))) for weight in new.weights]
    planned.append(_planned_card(new.card, there.card, destination.overwrite_card))
    kept = {file.path for file in planned}
    old_weights = {path for path in there.files if path not in kept and is_weight_file(path)}
    for path in old_weights.union(orphans(there.files, kept, there.card)):
        planned.append(PlannedFile(path, there.files[path].size, "delete"))
    before, after = (there.card or "").splitlines(True), new.card.splitlines(True)
    diff = "".join(difflib.unified_diff(before, after, "card there", "new card"))
    in_order = tuple(sorted(planned, key=lambda file: file.path))
    return PushPlan(destination.repo_id, destination.branch, there.commit, in_order, diff)


def is_weight_file(path: str) -> bool:
    """Whether a loader of models could take a file for weights."""
    return _WEIGHTS.fullmatch(path) is not None


def can_copy_between_repos() -> bool:
    """Whether the installed huggingface_hub lets the server copy blobs from another repo."""
    return "src_repo_id" in {copied.name for copied in fields(CommitOperationCopy)}


def operations(
    plan: PushPlan, downloaded: Mapping[str, Path] | None = None
) -> list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete]:
    """The changes of a plan as one commit's operations.

    Args:
        plan: the plan.
        downloaded: local copies of the base's weights by path, sent instead of being copied on the server.
    """
    result: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = []
    for file in plan.changes:
        if file.action == "delete":
            result.append(CommitOperationDelete(file.path, is_folder=False))
        elif not isinstance(file.source, HubWeight):
            assert file.source is not None
            result.append(CommitOperationAdd(file.path, file.source))
        elif downloaded is not None:
            result.append(CommitOperationAdd(file.path, downloaded[file.path]))
        else:
            weight = file.source
            result.append(CommitOperationCopy(weight.path, file.path, weight.commit, weight.repo_id, "model"))
    return result


def _planned_file(path: str, source: Path, there: RepoFile | None) -> PlannedFile:
    size = source.stat().st_size
    return PlannedFile(path, size, "same" if _is_same(source, size, there) else "add", source)


def _is_same(source: Path, size: int, there: RepoFile | None) -> bool:
    if there is None or there.size != size:
        return False
    if there.lfs is None:
        return sha.git_hash(source.read_bytes()) == there.blob_id
    with source.open("rb") as content:
        return sha.sha_fileobj(content).hex() == there.lfs.sha256


def _planned_weight(weight: HubWeight, there: RepoFile | None) -> PlannedFile:
    same = there is not None and there.lfs is not None and there.lfs.sha256 == weight.sha256
    return PlannedFile(weight.path, weight.size, "same" if same else "copy", weight)


def _planned_card(card: str, there: str | None, overwrite: bool) -> PlannedFile:
    content = card.encode()
    if there == card:
        return PlannedFile(CARD_FILE, len(content), "same")
    if there is not None and edited_by_hand(there) and not overwrite:
        return PlannedFile(CARD_FILE, len(there.encode()), "kept")
    return PlannedFile(CARD_FILE, len(content), "add", content)


def _size(count: int) -> str:
    value, units = float(count), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
