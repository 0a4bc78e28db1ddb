"""Where a model's tokenizer is, with which it reads the questions: an object, or the file beside its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file, hub, logging

from .question import QuestionFormat, QuestionReader

logger = logging.get_logger(__name__)


class TokenizerSource:
    """Where the tokenizer of a model is: an object, or the file beside its weights, which is read when it is needed.

    Args:
        tokenizer: a fast tokenizer of transformers, or None.
        name: folder or Hub id of the checkpoint.
        commit: of the Hub repository's weights: a branch or tag may have moved since, and nothing is asked of the Hub
            where the file is in the cache.
        hub_arguments: of `from_pretrained`, such as `token` and `cache_dir`. A copy or pickle leaves `token` out.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        name: Any = "",
        commit: str | None = None,
        hub_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._given, self._name, self._commit = tokenizer, str(name), commit
        self._hub_arguments = dict(hub_arguments or {})
        self._readers: dict[Any, QuestionReader | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        shared = {name: value for name, value in self._hub_arguments.items() if name != "token"}
        return {**vars(self), "_hub_arguments": shared, "_readers": {}}

    def reader(self, question_format: Mapping[str, Any] | None, object_ids: Sequence[int]) -> QuestionReader | None:
        """Reads questions of this format; None where there is no tokenizer, with a warning that says so once."""
        key = (repr(question_format), *object_ids)
        if key not in self._readers:
            self._readers[key] = self._read(question_format, tuple(object_ids))
        if self._readers[key] is None:
            logger.warning_once(
                f"There is no tokenizer.json beside {self._name or 'the model'}: every token of a prompt that is not a "
                "special one is covered, words of the chat template too. Save the processor beside the weights, or "
                "give it: mmtok.prune(model, processor)."
            )
        return self._readers[key]

    def file(self) -> str | None:
        """The path of tokenizer.json; None where there is none."""
        if not self._name:
            return None
        at = {} if self._commit is None else {"revision": self._commit}
        try:
            return cached_file(
                self._name,
                "tokenizer.json",
                _commit_hash=self._commit,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **{**self._hub_arguments, **at},
            )
        except OSError:  # neither a folder nor a repository: a name that somebody gave a model
            return None

    def copy_to(self, folder: Any) -> None:
        """Writes the tokenizer into a folder that has none, so that a model saved there reads the same words."""
        if TokenizerSource(name=folder).file() is not None:
            return
        path = None if self._given is not None else self.file()
        tokenizer = self._given if path is None else PreTrainedTokenizerFast(tokenizer_file=path)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    def _read(self, question_format: Mapping[str, Any] | None, object_ids: tuple[int, ...]) -> QuestionReader | None:
        if self._given is not None:
            # A copy: whoever pads or truncates with the given one changes it, also while it is read from here.
            tokenizer = Tokenizer.from_str(self._given.backend_tokenizer.to_str())
        else:
            path = self.file()
            if path is None:
                return None
            tokenizer = Tokenizer.from_file(path)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return QuestionReader(tokenizer, QuestionFormat.of(question_format), object_ids, self._name)


def resolved_revision(name: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The argument `revision` with the commit that it names now, as `from_pretrained` of transformers finds it.

    Weights and tokenizer are then of one commit. Empty for a folder, and where transformers writes the commit into the
    configuration, as older releases do.
    """
    resolve = getattr(hub, "resolve_revision", None)
    if resolve is None:
        return {}
    known = {each: arguments[each] for each in ("token", "local_files_only", "cache_dir") if each in arguments}
    revision = resolve(name, arguments.get("revision"), **known)
    return {} if revision is None else {"revision": revision}


@lru_cache(maxsize=4)
def source_of(name: str, commit: str | None) -> TokenizerSource:
    """The source of a checkpoint, for objects that live for one call: the file is read once for all of them."""
    return TokenizerSource(name=name, commit=commit)


def checked_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer, or None for None.

    Raises:
        ValueError: a tokenizer that has no `tokenizer.json`.
    """
    if tokenizer is not None and getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(
            f"The tokenizer is a {type(tokenizer).__name__} without a tokenizer.json: give its fast form, which "
            "AutoTokenizer.from_pretrained(...) loads."
        )
    return tokenizer


def special_ids(config: Any) -> Iterator[int]:
    """The ids that a configuration and its text configuration name as special."""
    for each in (config, config.get_text_config()):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "vision_start_token_id", "vision_end_token_id"):
            value = getattr(each, name, None)
            yield from () if value is None else value if isinstance(value, (list, tuple)) else [value]
