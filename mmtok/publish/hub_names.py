"""Names that reach the Hub or the disk: repo ids, branches, tags and paths, checked before they are used."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

_REFERENCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,99}")


def check_repo_id(repo_id: str) -> str:
    """Returns a repo id with its namespace; anything else is a ValueError."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no Hub id: give ORGANISATION/NAME. {error}") from None
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} has no organisation or user: give ORGANISATION/NAME.")
    return repo_id


def check_model_name(model: str | Path) -> str:
    """Returns what a model can be loaded from: a folder with a configuration, or a Hub id; else a ValueError."""
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} has no config.json: give the folder of a staged model.")
        return str(model)
    try:
        validate_repo_id(str(model))
    except HFValidationError as error:
        raise ValueError(f"{str(model)!r} is neither a folder nor a Hub id such as org/llava-mmtok.") from error
    return str(model)


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
        raise ValueError(f"{name!r} is no name for a {what}: give letters, digits and . _ - + such as 'v1.0'.")
    return name


def check_repo_path(path: str) -> str:
    """Returns a path inside a repo or folder: relative, without "..", "." or a backslash; else a ValueError."""
    parts = PurePosixPath(path).parts
    inside = path and not path.startswith("/") and "\\" not in path and "\0" not in path and ":" not in path
    if not inside or any(part in ("..", ".") for part in path.split("/")) or ".git" in parts or "" in path.split("/"):
        raise ValueError(f"{path!r} is no path inside a repository: give a relative path without '..'.")
    return path
