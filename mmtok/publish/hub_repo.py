"""One model repository on the Hub: what is there, the few requests that change it, and what the Hub answers.

No credential gets into a message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from .hub_errors import HUB_ERRORS, publish_error, status_of

try:
    from huggingface_hub.errors import FileDuplicationError
except ImportError:  # a huggingface_hub that does not copy between repos
    FileDuplicationError = HfHubHTTPError  # type: ignore[misc,assignment]

UNTOUCHED = "Nothing was changed; run the same command again."


class CopyRefused(Exception):
    """The server does not copy the base's weights into this repo."""


@dataclass
class HubRepo:
    """A model repo and the branch to publish on.

    Every method raises a PublishError when the Hub refuses or cannot be reached.

    Attributes:
        repo_id, branch: where it is.
        api: sends the requests.
        after_failure: the end of the message when a request fails that changes nothing.
    """

    repo_id: str
    branch: str = "main"
    api: HfApi = field(default_factory=HfApi)
    after_failure: str = UNTOUCHED

    def head(self) -> tuple[str | None, bool]:
        """The commit at the top of the branch, None without repo or branch; whether the repo exists."""
        with self._failing_as(f"reading {self.repo_id}"):
            try:
                return self.api.repo_info(self.repo_id, revision=self.branch).sha, True
            except RevisionNotFoundError:
                return None, True
            except RepositoryNotFoundError:
                return None, False

    def commit_of(self, revision: str | None) -> str:
        """The commit that a branch, tag or commit names; that of the main branch without one."""
        with self._failing_as(f"reading {self.repo_id}"):
            commit = self.api.repo_info(self.repo_id, revision=revision).sha
        assert commit is not None
        return commit

    def is_private(self) -> bool:
        with self._failing_as(f"reading {self.repo_id}"):
            return bool(self.api.repo_info(self.repo_id).private)

    def create(self, private: bool) -> None:
        """Creates the repo where it is not there."""
        with self._failing_as(f"creating {self.repo_id}"):
            self.api.create_repo(self.repo_id, private=private, exist_ok=True)

    def create_branch(self) -> None:
        """Lets the branch begin at main where it is not there."""
        with self._failing_as(f"creating the branch {self.branch} of {self.repo_id}"):
            self.api.create_branch(self.repo_id, branch=self.branch, exist_ok=True)

    def files_at(self, commit: str | None) -> dict[str, RepoFile]:
        """The files of a commit by path; of the main branch without one."""
        with self._failing_as(f"reading the files of {self.repo_id}"):
            entries = self.api.list_repo_tree(self.repo_id, recursive=True, revision=commit)
            return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def bytes_at(self, commit: str, path: str) -> bytes:
        """The content of a file of a commit."""
        with self._failing_as(f"reading {path} of {self.repo_id}"):
            return Path(self.api.hf_hub_download(self.repo_id, path, revision=commit)).read_bytes()

    def tags(self) -> dict[str, str]:
        """The commit of every tag."""
        with self._failing_as(f"reading the tags of {self.repo_id}"):
            return {tag.name: tag.target_commit for tag in self.api.list_repo_refs(self.repo_id).tags}

    def commit(
        self, operations: Sequence[Any], message: str, description: str, parent: str, create_pr: bool
    ) -> CommitInfo:
        """All operations as one commit on top of `parent`.

        Raises:
            CopyRefused: the server copies no weights into this repo; nothing was committed.
        """

        open_end = (
            f"The branch {self.branch} holds what it held or, if only the answer got lost, all of the new version; run "
            "the same command again: it completes what is missing."
        )
        with self._failing_as(f"committing to {self.repo_id}", open_end, UNTOUCHED, RuntimeError, ValueError):
            try:
                return self.api.create_commit(
                    self.repo_id,
                    operations,
                    commit_message=message,
                    commit_description=description,
                    revision=self.branch,
                    parent_commit=parent,
                    create_pr=create_pr,
                )
            except (FileDuplicationError, HfHubHTTPError, ValueError) as error:
                if _refuses_copy(error):
                    raise CopyRefused(str(error)) from error
                raise

    def tag(self, name: str, commit: str) -> None:
        with self._failing_as(
            f"tagging {self.repo_id} as {name}",
            f"The files are published as commit {commit}, only the tag is missing; run the same command again.",
        ):
            self.api.create_tag(self.repo_id, tag=name, revision=commit, exist_ok=True)

    @contextmanager
    def _failing_as(
        self, doing: str, state: str | None = None, refused: str | None = None, *others: type[Exception]
    ) -> Iterator[None]:
        """Turns what huggingface_hub raises into a PublishError without the request, which holds the token.

        Args:
            doing: what is being tried.
            state: what holds when it fails; None for `after_failure`.
            refused: what holds when the server answered that it will not do it (4xx); None for `state`.
            others: exceptions to turn beside those of the Hub, the connection and the disk.
        """
        try:
            yield
        except (*HUB_ERRORS, *others) as error:
            is_refusal = status_of(error) in range(400, 500)
            holds = refused if refused and is_refusal else state or self.after_failure
            raise publish_error(error, doing, holds) from None


def _refuses_copy(error: Exception) -> bool:
    """Whether an error means "upload instead", not "try again" or "you may not"."""
    if isinstance(error, HfHubHTTPError):
        duplicating = "/lfs-files/duplicate" in str(error.response.request.url)
        return duplicating and error.response.status_code in (400, 403, 404, 405, 409, 422, 501)
    return isinstance(error, FileDuplicationError) or "no xet hash" in str(error)
