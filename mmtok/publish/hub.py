"""The Hub: names that reach it, the files of a commit, and what it answers, as a sentence.

No credential gets into a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from transformers import PretrainedConfig

from mmtok.hub.families import Family, family_of

UNTOUCHED = "Nothing was changed; run the same command again."
# Answers of the Hub, trouble with the connection, and trouble with the disk.
HUB_ERRORS: tuple[type[Exception], ...] = tuple(HfHubHTTPError.__bases__)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9_]{8,}|(?i:bearer)\s+\S+")
# What git and a path both read as one name.
_REFERENCE = re.compile(r"(?!refs/)(?!.*(\.\.|//))[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,99}(?<![/.])(?<!\.lock)")
_REASONS = {
    401: "The Hub does not know the repository or refuses these credentials ({status}) while {doing}: check the name, "
    "and log in with `hf auth login` using a token that may write there.",
    403: "The Hub forbids it (403) while {doing}: the token needs write permission there.",
    412: "The branch has moved since it was read (412) while {doing}: there is a new commit.",
    429: "The Hub asks to wait{seconds} (429, too many requests) while {doing}.",
}


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
    """The folder with this name, None for a Hub id; a ValueError for neither, or for a folder with a revision."""
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
    """The `config.json` of a model in a folder or on the Hub, stock or staged, and its family.

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
    """Returns the name of a branch or tag (`what`, for the message); what git could misread is a ValueError."""
    if not _REFERENCE.fullmatch(name):
        raise ValueError(f"{name!r} is not a name for a {what}: give letters, digits and . _ - + such as 'v1.0'.")
    return name


def files_at(repo_id: str, commit: str | None) -> dict[str, RepoFile]:
    """The files of a commit on the Hub by path; the errors are huggingface_hub's own."""
    entries = HfApi().list_repo_tree(repo_id, recursive=True, revision=commit)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def sha256_of_large(files: Mapping[str, RepoFile]) -> dict[str, str]:
    """sha256 of the large files among those of a commit, as the Hub keeps it."""
    return {path: file.lfs.sha256 for path, file in files.items() if file.lfs}


class PublishError(RuntimeError):
    """A publication or verification that was refused or failed; the message says what is there now and what to do."""


@contextmanager
def failing_as(
    doing: str, state: str = UNTOUCHED, refused: str | None = None, others: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turns what huggingface_hub raises, and `others`, into a PublishError without the request, which holds the token.

    The message says that it failed while `doing`, as in "reading org/model", and what holds then: `refused` where the
    server answered that it will not do it (4xx), else `state`.
    """
    try:
        yield
    except (*HUB_ERRORS, *others) as error:
        holds = refused if refused and _status_of(error) in range(400, 500) else state
        raise PublishError(without_tokens(f"{_reason(error, doing)} {holds}")) from None


def without_tokens(text: str) -> str:
    """`text` with everything that looks like a token of the Hub blacked out."""
    return _TOKEN.sub("hf_***", text)


def _status_of(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, also when it is wrapped; None where no answer came."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code
        error = error.__cause__ or error.__context__
    return None


def _reason(error: Exception, doing: str) -> str:
    status = _status_of(error)
    if status is None:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        first = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        return f"The connection to the Hub broke, or its answer made no sense, while {doing}: {first.rstrip('.')}."
    wait = error.response.headers.get("Retry-After") if isinstance(error, HfHubHTTPError) else None
    known = _REASONS.get(401 if isinstance(error, RepositoryNotFoundError) else status)
    reason = (known or "The Hub answered {status} while {doing}.").format(
        status=status, doing=doing, seconds=f" {wait} seconds" if wait else ""
    )
    said = str(getattr(error, "server_message", None) or "").strip().rstrip(".")
    return f"{reason} It says: {said}." if said and status not in (401, 412, 429) else reason
