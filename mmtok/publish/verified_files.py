"""What `verify` reads: the files of a folder, or of one commit of a repository on the Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub.hf_api import RepoFile

from .hub_names import check_repo_path, files_inside
from .hub_repo import HubRepo

NOTHING_VERIFIED = "Nothing was verified; run the same command again."


class FolderFiles:
    """The files of a folder.

    Raises:
        ValueError: a link leads out of the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._files = files_inside(folder)
        self.paths = frozenset(self._files)

    def read(self, path: str) -> bytes:
        """The content of one file."""
        return self._files[path].read_bytes()

    def weights(self) -> dict[str, str]:
        """sha256 of every safetensors file."""
        return {path: _sha256(file) for path, file in self._files.items() if path.endswith(".safetensors")}


class RepoFiles:
    """The files of one commit of a repository.

    Raises:
        PublishError: the Hub refuses or cannot be reached.
    """

    def __init__(self, repo: HubRepo, commit: str) -> None:
        self._repo, self._commit = repo, commit
        self._files = repo.files_at(commit)
        self.paths = frozenset(check_repo_path(path) for path in self._files)

    def read(self, path: str) -> bytes:
        """The content of one file, which is downloaded."""
        return self._repo.bytes_at(self._commit, path)

    def weights(self) -> dict[str, str]:
        """sha256 of every safetensors file that the Hub keeps as a blob; nothing is downloaded."""
        return blobs(self._files.values())


def blobs(files: Iterable[RepoFile]) -> dict[str, str]:
    """sha256 of every safetensors file that the Hub keeps as a blob."""
    return {file.path: file.lfs.sha256 for file in files if file.path.endswith(".safetensors") and file.lfs}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
