"""The repositories of the Hub's test double: commits, branches, tags and LFS blobs, changed atomically under a lock."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatch

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.model", "*.pt", "*.png", "tokenizer.json")
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()


class Refused(Exception):
    """An answer other than 200: a status, a message and the Hub's error code."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


def git_blob_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit: its bytes stand in the store under `sha256`, for LFS files and plain ones alike."""

    sha256: str
    size: int
    lfs: bool
    blob_id: str

    @classmethod
    def of(cls, content: bytes, *, lfs: bool) -> StoredFile:
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        return cls(sha256, len(content), lfs, git_blob_hash(pointer if lfs else content))

    def entry(self, path: str) -> dict[str, object]:
        """The file as the routes `tree` and `paths-info` describe it."""
        entry: dict[str, object] = {"type": "file", "path": path, "size": self.size, "oid": self.blob_id}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
            entry["xetHash"] = hashlib.sha256(b"xet" + self.sha256.encode()).hexdigest()
        return entry


@dataclass(frozen=True)
class Commit:
    """One commit: files by path, and the commit before it."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, StoredFile]


@dataclass
class Repository:
    """One model repo. `owned` are the LFS blobs that the repo may use: uploaded to it or duplicated into it."""

    repo_id: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    owned: set[str] = field(default_factory=set)

    def commit_at(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or self.pull_requests.get(revision) or revision
        if oid not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]


class Store:
    """All repositories and the bytes of their files."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}

    def repository(self, repo_id: str) -> Repository:
        if repo_id not in self.repositories:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return self.repositories[repo_id]

    def create(self, repo_id: str, *, private: bool = False) -> Repository:
        """A new repo with the Hub's own first commit; 409 where it exists."""
        with self.lock:
            if repo_id in self.repositories:
                raise Refused(409, "You already created this model repo")
            repository = self.repositories[repo_id] = Repository(repo_id, private)
            self._add_commit(repository, None, "initial commit", {".gitattributes": self.put(GITATTRIBUTES, lfs=False)})
            repository.branches["main"] = next(iter(repository.commits))
            return repository

    def put(self, content: bytes, *, lfs: bool) -> StoredFile:
        file = StoredFile.of(content, lfs=lfs)
        self.blobs[file.sha256] = content
        return file

    def content(self, file: StoredFile) -> bytes:
        return self.blobs[file.sha256]

    def seed(self, repo_id: str, files: dict[str, bytes], *, message: str = "Upload") -> str:
        """Commits `files` to main from behind the server, as somebody else would; returns the commit."""
        with self.lock:
            repository = self.repositories.get(repo_id) or self.create(repo_id)
            stored = {path: self.put(content, lfs=is_lfs(path, len(content))) for path, content in files.items()}
            repository.owned |= {file.sha256 for file in stored.values() if file.lfs}
            parent = repository.commit_at("main")
            commit = self._add_commit(repository, parent, message, {**parent.files, **stored})
            repository.branches["main"] = commit.oid
            return commit.oid

    def commit(
        self,
        repo_id: str,
        branch: str,
        *,
        title: str,
        parent: str | None,
        changes: dict[str, StoredFile | None],
        create_pr: bool = False,
    ) -> tuple[Commit, str | None]:
        """Applies all changes (None deletes) to a branch at once, or none of them.

        Returns:
            the commit, and the reference of the pull request where one was asked for.
        """
        with self.lock:
            repository = self.repository(repo_id)
            if branch not in repository.branches:
                raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            head = repository.commit_at(branch)
            if parent is not None and parent != head.oid:
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for path, file in changes.items():
                if file is None:
                    if files.pop(path, None) is None:
                        raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                    continue
                if file.lfs and file.sha256 not in repository.owned:
                    raise Refused(400, f"LFS object {file.sha256} of {path} is not in this repository")
                files[path] = file
            commit = self._add_commit(repository, head, title, files)
            if create_pr:
                reference = f"refs/pr/{len(repository.pull_requests) + 1}"
                repository.pull_requests[reference] = commit.oid
                return commit, reference
            repository.branches[branch] = commit.oid
            return commit, None

    def duplicate(self, source_id: str, target_id: str, hashes: list[str]) -> list[dict[str, str]]:
        """Lets the target use LFS blobs of the source; returns the Hub's list of failures."""
        with self.lock:
            source, target = self.repository(source_id), self.repository(target_id)
            missing = [sha256 for sha256 in hashes if sha256 not in source.owned]
            target.owned |= set(hashes) - set(missing)
            return [{"sha256": sha256, "error": "not found in the source"} for sha256 in missing]

    def _add_commit(
        self, repository: Repository, parent: Commit | None, title: str, files: dict[str, StoredFile]
    ) -> Commit:
        parent_oid = parent.oid if parent else None
        listing = "\n".join(f"{path} {file.blob_id}" for path, file in sorted(files.items()))
        oid = hashlib.sha1(f"{repository.repo_id}\n{parent_oid}\n{title}\n{listing}".encode()).hexdigest()
        commit = Commit(oid, parent_oid, title, files)
        repository.commits[oid] = commit
        return commit


def is_lfs(path: str, size: int) -> bool:
    """Whether the Hub keeps a file as an LFS blob: by its name, or above 10 MiB."""
    return any(fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in LFS_PATTERNS) or size > 10 * 2**20
