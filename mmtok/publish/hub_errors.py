"""What the Hub or the connection answered, as one sentence that says what to do; no credential gets into it."""

from __future__ import annotations

import re

from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

# Answers of the Hub, trouble with the connection, and trouble with the disk.
HUB_ERRORS: tuple[type[Exception], ...] = tuple(HfHubHTTPError.__bases__)

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9_]{8,}|(?i:bearer)\s+\S+")


class PublishError(RuntimeError):
    """A publication or verification that was refused or failed; the message says what is there now and what to do."""


def publish_error(error: Exception, doing: str, state: str) -> PublishError:
    """The error to raise for what a call of huggingface_hub raised.

    Args:
        error: an `HfHubHTTPError`, a connection error, or the ValueError and RuntimeError that wrap them.
        doing: what was tried, as in "reading org/model".
        state: what holds now, and what to do about it, in a sentence.
    """
    return PublishError(without_tokens(f"{_reason(error, doing)} {state}"))


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
        return f"The Hub asks to wait{_waiting_time(error)} (429, too many requests) while {doing}."
    if status is not None:
        return f"The Hub answered {status} while {doing}. {_server(error)}"
    return f"The connection to the Hub broke, or its answer made no sense, while {doing}: {_first_line(error)}."


def _server(error: Exception) -> str:
    message = getattr(error, "server_message", None)
    return f"It says: {message.strip().rstrip('.')}." if message else ""


def _waiting_time(error: Exception) -> str:
    response = getattr(error, "response", None)
    seconds = response.headers.get("Retry-After") if response is not None else None
    return f" {seconds} seconds" if seconds else ""


def _first_line(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__).rstrip(".")
