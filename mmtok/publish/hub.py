"""The Hub: names that reach it, one repository with the requests that change it, and what it answers, as a sentence.

No credential gets into a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from transformers import PretrainedConfig

from mmtok.hub.families import Family, family_of

try:
    from huggingface_hub.errors import FileDuplicationError
except ImportError:  # a huggingface_hub that does not copy between repos
    FileDuplicationError = HfHubHTTPError  # type: ignore[misc,assignment]

UNTOUCHED = "Nothing was changed; run the same command again."
# Answers of the Hub, trouble with the connection, and trouble with the disk.
HUB_ERRORS: tuple[type[Exception], ...] = tuple(HfHubHTTPError.__bases__)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9_]{8,}|(?i:bearer)\s+\S+")
_REFERENCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,99}")


def check_repo_id(repo_id: str) -> str:
    """Returns a repo id with its namespace; anything else is a ValueError."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is not a Hub id: give ORGANISATION/NAME. {error}") from None
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} has no organisation or user: give ORGANISATION/NAME.")
    return repo_id


def folder_of(name: str | os.PathLike[str], revision: str | None = None) -> Path | None:
    """The folder with this name; None for a Hub id.

    Raises:
        ValueError: neither of them, or a folder with a revision.
    """
    text, folder = os.fspath(name), Path(name)
    if text and folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} was given with the folder {folder}: only a Hub id has revisions.")
        return folder
    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise ValueError(
            f"{text!r} is neither a folder nor a Hub id such as org/llava: give one of the two."
        ) from error
    return None


def check_model_name(model: str | os.PathLike[str]) -> str:
    """Returns what a model can be loaded from: a folder with a configuration, or a Hub id; else a ValueError."""
    folder = folder_of(model)
    if folder is not None and not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: give the folder of a staged model.")
    return str(model)


def config_of(model: str | os.PathLike[str], revision: str | None = None) -> tuple[dict[str, Any], Family]:
    """The `config.json` of a model, stock or staged, and its family.

    Args:
        model: folder or Hub id.
        revision: branch, tag or commit of the Hub repository.

    Raises:
        ValueError: neither a folder with a configuration nor a Hub id, or a model of no family.
        OSError: there is no such model.
    """
    config, _ = PretrainedConfig.get_config_dict(check_model_name(model), revision=revision)
    try:
        return config, family_of(config.get("model_type"))
    except ValueError as error:
        raise ValueError(f"{model} cannot be pruned. {error}") from None


def check_reference(name: str, what: str) -> str:
    """Returns the name of a branch or tag; anything that git or a path could misread is a ValueError.

    Args:
        name: such as "main" or "v1.0".
        what: what it names, for the message.
    """
    bad_parts = ("..", "//", "@{")
    if (
        not _REFERENCE.fullmatch(name)
        or any(part in name for part in bad_parts)
        or name.endswith(("/", ".", ".lock"))
        or name.startswith("refs/")
    ):
        raise ValueError(f"{name!r} is not a name for a {what}: give letters, digits and . _ - + such as 'v1.0'.")
    return name


def check_repo_path(path: str) -> str:
    """Returns a path inside a repo or folder: relative, without "..", "." or a backslash; else a ValueError."""
    parts = PurePosixPath(path).parts
    inside = path and not path.startswith("/") and "\\" not in path and "\0" not in path and ":" not in path
    if not inside or any(part in ("..", ".") for part in path.split("/")) or ".git" in parts or "" in path.split("/"):
        raise ValueError(f"{path!r} is not a path inside a repository: give a relative path without '..'.")
    return path


class PublishError(RuntimeError):
    """A publication or verification that was refused or failed; the message says what is there now and what to do."""


@contextmanager
def failing_as(
    doing: str, state: str = UNTOUCHED, refused: str | None = None, others: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turns what huggingface_hub raises into a PublishError without the request, which holds the token.

    Args:
        doing: what is being tried, as in "reading org/model".
        state: what holds when it fails, and what to do about it, in a sentence.
        refused: what holds when the server answered that it will not do it (4xx); None for `state`.
        others: exceptions to turn beside those of the Hub, the connection and the disk.
    """
    try:
        yield
    except (*HUB_ERRORS, *others) as error:
        holds = refused if refused and status_of(error) in range(400, 500) else state
        raise PublishError(without_tokens(f"{_reason(error, doing)} {holds}")) from None


def without_tokens(text: str) -> str:
    """`text` with everything that looks like a token of the Hub blacked out."""
    return _TOKEN.sub("hf_***", text)


def status_of(error: Exception) -> int | None:
    """The HTTP status behind an error, also when it is wrapped; None where no answer came."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, HfHubHTTPError):
            return seen.response.status_code
        seen = seen.__cause__ or seen.__context__
    return None


def _reason(error: Exception, doing: str) -> str:
    status = status_of(error)
    if status == 401 or isinstance(error, RepositoryNotFoundError):
        return (
            f"The Hub does not know the repository or refuses these credentials ({status}) while {doing}: check the "
            "name, and log in with `hf auth login` using a token that may write there."
        )
    if status == 403:
        return f"The Hub forbids it (403) while {doing}: the token needs write permission there. {_server(error)}"
    if status == 412:
        return f"The branch has moved since it was read (412) while {doing}: there is a new commit."
    if status == 429:
        response = getattr(error, "response", None)
        seconds = response.headers.get("Retry-After") if response is not None else None
        return f"The Hub asks to wait{f' {seconds} seconds' if seconds else ''} (429, too many requests) while {doing}."
    if status is not None:
        return f"The Hub answered {status} while {doing}. {_server(error)}"
    return f"The connection to the Hub broke, or its answer made no sense, while {doing}: {_first_line(error)}."


def _server(error: Exception) -> str:
    message = getattr(error, "server_message", None)
    return f"It says: {message.strip().rstrip('.')}." if message else ""


def _first_line(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__).rstrip(".")


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
        with failing_as(f"committing to {self.repo_id}", open_end, UNTOUCHED, (RuntimeError, ValueError)):
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
        with failing_as(
            f"tagging {self.repo_id} as {name}",
            f"The files are published as commit {commit}, only the tag is missing; run the same command again.",
        ):
            self.api.create_tag(self.repo_id, tag=name, revision=commit, exist_ok=True)

    def _failing_as(self, doing: str) -> AbstractContextManager[None]:
        return failing_as(doing, self.after_failure)


def _refuses_copy(error: Exception) -> bool:
    """Whether an error means "upload instead", not "try again" or "you may not"."""
    if isinstance(error, HfHubHTTPError):
        duplicating = "/lfs-files/duplicate" in str(error.response.request.url)
        return duplicating and error.response.status_code in (400, 403, 404, 405, 409, 422, 501)
    return isinstance(error, FileDuplicationError) or "no xet hash" in str(error)
