"""Holds a published repository or a staged folder against the installed release: what transformers loads from it.

Nothing of it is run. A repository of this project holds files of a list, and everything else is a problem; code is
compared with the release; every JSON file is read for fields that lead out of the repository; settings and weights are
compared with those of the base, from which the settings are made again.
"""

from __future__ import annotations

import os
import reprlib
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils import validate_repo_id
from transformers import AutoTokenizer

from configuration_mmtok import OPTION_NAMES, PruningOptions
from mmtok import __version__
from mmtok.hub.families import FAMILIES, PREFIX
from mmtok.hub.handler import Limits

from .base import BaseCheckpoint, open_base, sha256_of
from .card import metadata_of
from .hub import (
    PublishError,
    check_reference,
    check_repo_id,
    failing_as,
    files_at,
    folder_of,
    sha256_of_large,
)
from .repository import (
    CARD_FILE,
    CONFIG_FILE,
    GENERATE_FILE,
    GENERATE_FOLDER,
    HANDLER_FILE,
    INDEX_FILE,
    MOST_JSON_BYTES,
    SETTING_FILES,
    SINGLE_FILE,
    as_json,
    auto_map,
    files_inside,
    generate_files,
    is_known_file,
    leads_away,
    parse_json,
    published_code,
    shown,
    weight_names,
)
from .settings import published_config, write_settings

NOTHING_VERIFIED = "Nothing was verified; run the same command again."
# With these a report has ten lines.
_MOST_PROBLEMS = 3
# An operator writes it into config.json.
_LIMITS = "handler_limits"
# Fields of config.json that `_check_config` checks: they lead nowhere, whatever they hold.
_CHECKED_FIELDS = frozenset({"auto_map", "covered_text", "question_format"})
_SETTINGS = frozenset({CONFIG_FILE, INDEX_FILE, *SETTING_FILES})


@dataclass(frozen=True)
class VerifiedFile:
    """One file.

    Attributes:
        path: in the repository.
        kind: "code", "settings", "weights" or "card"; "other" for a file that has no place there.
        found: what was compared, such as "the released file".
    """

    path: str
    kind: str
    found: str


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        name, commit: of the repo; of a folder the name alone.
        release: the installed version.
        files: every file, and what was compared of it.
        pruning_options: the pruning options of `config.json`.
        origin: one line on what settings and weights were compared with.
        problems: everything that is not as released; empty when all is well.
    """

    name: str
    commit: str | None
    release: str
    files: tuple[VerifiedFile, ...]
    pruning_options: Mapping[str, Any]
    origin: str
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return not self.problems

    def describe(self, *, verbose: bool = False) -> str:
        """The findings as text, in at most ten lines unless `verbose`; the last line is the verdict."""
        at = f" at {self.commit}" if self.commit else ""
        lines = [f"{shown(self.name)}{at}, against mmtok {self.release}:"]
        if verbose:
            lines += [f"  {each.kind:8} {shown(each.path)}: {each.found}" for each in self.files]
        else:
            counted = Counter(
                (each.kind, each.found) for each in self.files if each.kind in ("code", "settings", "weights")
            )
            lines += [
                f"  {kind:8} {count} file{'s' * (count > 1)}: {found}" for (kind, found), count in counted.items()
            ]
        if self.pruning_options:
            told = (
                f"{name} {reprlib.repr(value)}"
                for name, value in self.pruning_options.items()
                if verbose or value != getattr(PruningOptions, name)
            )
            lines.append(f"  options  {', '.join(told) or 'the defaults'}")
        return "\n".join([*lines, f"  {self.origin}", self.verdict(verbose=verbose)])

    def verdict(self, *, verbose: bool = False) -> str:
        """Whether it is the release, on the last line, below the problems: the first few, or with `verbose` all."""
        if self.ok:
            return f"It is what mmtok {self.release} publishes."
        most = len(self.problems) if verbose else _MOST_PROBLEMS
        lines = [f"Problem: {shown(problem)}" for problem in self.problems[:most]]
        rest = len(self.problems) - most
        more = f", {rest} of them not shown: mmtok verify --verbose shows all" if rest > 0 else ""
        lines.append(f"It is NOT what mmtok {self.release} publishes: {len(self.problems)} problems{more}.")
        return "\n".join(lines)


class _File(NamedTuple):
    """A file of a folder, where it has a path, or of a commit, which is downloaded when it is read."""

    size: int
    read: Callable[[], bytes]
    sha256: Callable[[], str]
    path: Path | None = None

    def holds(self, content: bytes) -> bool:
        return self.size == len(content) and self.read() == content


Files = Mapping[str, _File]


def _files_of_repo(repo_id: str, commit: str | None) -> Files:
    """Every file of one commit; the sha256 of a large one is what the Hub keeps."""
    there = files_at(repo_id, commit)
    large = sha256_of_large(there)

    def file_of(name: str, size: int) -> _File:
        def downloaded() -> Path:
            with failing_as(f"reading {name} of {repo_id}", NOTHING_VERIFIED):
                return Path(hf_hub_download(repo_id, name, revision=commit))

        return _File(size, lambda: downloaded().read_bytes(), lambda: large.get(name) or sha256_of(downloaded()))

    return {name: file_of(name, file.size) for name, file in there.items()}


@dataclass
class _Base:
    """What settings and weights are compared with."""

    name: str
    settings: dict[str, bytes]  # expected content of each file
    weights: dict[str, str | Path]  # sha256 of each file; a path for one of a folder
    binding: bool  # whether a difference is a problem: the card pins this base, or it was asked for


def verify(
    repo_or_folder: str | Path, *, revision: str | None = None, base: str | os.PathLike[str] | None = None
) -> Verification:
    """Compares what is published, or staged, with the installed release: a model, or a `custom_generate` repository.

    Args:
        repo_or_folder: a Hub id or a folder; nothing but small files is downloaded.
        revision: branch, tag or commit of the repo.
        base: folder or Hub id to compare settings and weights with; that of the card by default.

    Raises:
        ValueError: no folder and no Hub id, a folder with a revision, or a base that cannot be used.
        PublishError: the Hub refuses or cannot be reached.
    """
    problems: list[str] = []
    folder = folder_of(repo_or_folder, revision)
    if folder is not None:
        files: Files = {
            name: _File(path.stat().st_size, path.read_bytes, partial(sha256_of, path), path)
            for name, path in files_inside(folder, problems).items()
        }
        return _verify(files, str(folder), None, base, problems)
    repo_id = check_repo_id(str(repo_or_folder))
    if revision is not None:
        check_reference(revision, "revision")
    with failing_as(f"reading {repo_id}", NOTHING_VERIFIED):
        commit = HfApi().repo_info(repo_id, revision=revision).sha
        files = _files_of_repo(repo_id, commit)
    return _verify(files, repo_id, commit, base, problems)


def _verify(
    files: Files, name: str, commit: str | None, base: str | os.PathLike[str] | None, problems: list[str]
) -> Verification:
    parsed = _parsed(files, problems)
    config = parsed.get(CONFIG_FILE, {})
    against: _Base | None = None
    weights: tuple[str, ...] = ()
    if CONFIG_FILE not in files and f"{GENERATE_FOLDER}/{GENERATE_FILE}" in files:
        code, origin = generate_files(), "Code alone: a custom_generate repository."
    else:
        if CONFIG_FILE not in files:
            problems.append("There is no config.json.")
        model_type = _check_config(config, problems) if CONFIG_FILE in parsed else "llava"
        code, weights = published_code(model_type), _weight_names(files, parsed, problems)
        against, origin = _base_of(files, config, base)
    if HANDLER_FILE not in files:  # `save_pretrained` copies what the model imports, and it does not import this
        code.pop(HANDLER_FILE, None)
    found = [VerifiedFile(path, "code", _code_found(files, path, code[path], problems)) for path in sorted(code)]
    for path in sorted(set(files) - set(code)):
        if not is_known_file(path, code, weights):
            problems.append(f"{path} has no place in a repository of mmtok: remove it.")
            found.append(VerifiedFile(path, "other", "not read"))
        elif path in _SETTINGS:
            found.append(VerifiedFile(path, "settings", _settings_found(files[path], path, against, problems)))
        elif path in weights:
            found.append(VerifiedFile(path, "weights", _weights_found(files[path], path, against, problems)))
        else:
            found.append(VerifiedFile(path, "card", "for readers"))
    if against is not None and against.binding:
        missing = sorted(set(against.settings) - set(files))
        problems += [f"{path} is missing; {against.name} has it." for path in missing]
    options = {option: config[option] for option in OPTION_NAMES if option in config}
    return Verification(name, commit, __version__, tuple(found), options, origin, tuple(problems))


def _parsed(files: Files, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Every JSON file, with a problem noted for each field that leads out of the repository."""
    parsed = {}
    for path in sorted(_SETTINGS & set(files)):
        if not path.endswith(".json"):
            continue
        try:
            if files[path].size > MOST_JSON_BYTES:
                raise ValueError(f"{path} has {files[path].size} bytes: a JSON file has at most {MOST_JSON_BYTES}.")
            parsed[path] = parse_json(files[path].read(), path)
        except ValueError as error:
            problems.append(str(error))
            continue
        checked = _CHECKED_FIELDS if path == CONFIG_FILE else ()
        content = {key: value for key, value in parsed[path].items() if key not in checked}
        problems += [f"{path}: {each}, which leads out of the repository." for each in leads_away(path, content)]
    return parsed


def _check_config(config: Mapping[str, Any], problems: list[str]) -> str:
    """The stock model type, LLaVA's for one that is not ours; notes what does not lead to the released classes."""
    given = config.get("model_type")
    model_type = str(given).removeprefix(PREFIX)
    family = FAMILIES.get(model_type)
    if family is None or given != PREFIX + model_type:
        problems.append(f"config.json has the model_type {given!r}, which is none of mmtok's.")
    elif config.get("auto_map") != auto_map(family):
        problems.append("auto_map in config.json names other code than the released classes.")
    elif config.get("architectures") != [family.model_class]:
        problems.append(f"architectures in config.json is {config.get('architectures')!r}.")
    problems += [f"config.json lacks the option {option}." for option in OPTION_NAMES if option not in config]
    try:
        PruningOptions(**{option: config[option] for option in OPTION_NAMES if option in config})
        Limits.of(config.get(_LIMITS, {}))
    except (ValueError, TypeError) as error:
        problems.append(f"config.json: {error}")
    return "llava" if family is None else model_type


def _weight_names(files: Files, parsed: Mapping[str, Any], problems: list[str]) -> tuple[str, ...]:
    """The files that transformers takes for the weights, the index among them."""
    names: tuple[str, ...] = (SINGLE_FILE,)
    if SINGLE_FILE not in files and INDEX_FILE in files:
        try:
            names = (INDEX_FILE, *weight_names(parsed.get(INDEX_FILE, {}).get("weight_map"), INDEX_FILE))
        except ValueError as error:
            problems.append(str(error))
    problems += [f"{name} is missing." for name in names if name not in files]
    return names


def _code_found(files: Files, path: str, released: bytes, problems: list[str]) -> str:
    if path not in files:
        problems.append(f"{path} is missing.")
        return "missing"
    if files[path].holds(released):
        return "the released file"
    problems.append(f"{path} is not the released file.")
    return "NOT the released file"


def _settings_found(file: _File, path: str, against: _Base | None, problems: list[str]) -> str:
    if against is None:
        return "leads nowhere else; not compared"
    expected = against.settings.get(path)
    same = expected is not None and file.holds(expected)
    if expected is not None and path == CONFIG_FILE:  # people edit it for the handler
        with suppress(ValueError):  # it is a problem already
            same = parse_json(file.read(), path) == parse_json(expected, path)
    if same:
        return "what this release makes of the base"
    if against.binding:
        problems.append(f"{path} is not what this release makes of {against.name}.")
    return f"not those of {against.name}"


def _weights_found(file: _File, path: str, against: _Base | None, problems: list[str]) -> str:
    if against is None:
        return "not compared"
    there = against.weights.get(path)
    if isinstance(there, Path):
        if file.path is not None and os.path.samefile(file.path, there):
            return "the base's own file on the disk"
        there = sha256_of(there)
    if file.sha256() == there:
        return "sha256 of the base's"
    if against.binding:
        problems.append(f"{path}: not the weights of {against.name}.")
    return f"NOT those of {against.name}"


def _base_of(files: Files, config: Mapping[str, Any], given: str | os.PathLike[str] | None) -> tuple[_Base | None, str]:
    """What to compare with, and a line on it; None with the reason where there is nothing."""
    base, commit, asked = given, None, given is not None
    if base is None:
        card = files[CARD_FILE].read().decode("utf-8", "replace") if CARD_FILE in files else ""
        metadata = metadata_of(card)
        base, commit = metadata.get("base_model"), metadata.get("base_model_revision")
        if base is None:
            return None, "Not compared: settings and weights, as the card names no base; --base BASE compares them."
        try:
            validate_repo_id(base)
            commit = None if commit is None else check_reference(str(commit), "revision")
        except ValueError as error:  # the Hub's own is one
            named = f"as the card names the base {shown(repr(base))}: {shown(error)}"
            return None, f"Not compared: settings and weights, {named}"
    try:
        if asked and Path(base).is_dir():
            found = open_base(base)
            weights: dict[str, str | Path] = dict(found.weights)
        else:
            with failing_as(f"reading {base}", "They were not compared."):
                commit = HfApi().repo_info(str(base), revision=commit).sha
                weights = {**sha256_of_large(files_at(str(base), commit))}
            found = open_base(str(base), revision=commit, weights=False)
        settings = _settings_of(found, config)
    except (PublishError, ValueError) as error:
        if asked:
            raise
        return None, f"Not compared: settings and weights. {shown(error)}"
    pinned = asked or metadata.get("base_model_revision") is not None
    at = f" at {found.commit}" if found.commit else ""
    said = "compared with" if pinned else "held beside, as the card names no commit,"
    return _Base(f"{found.name}{at}", settings, weights, pinned), f"Settings and weights {said} {found.name}{at}."


def _settings_of(base: BaseCheckpoint, config: Mapping[str, Any]) -> dict[str, bytes]:
    """The settings that a stage of a base makes, with the options of a configuration."""
    with tempfile.TemporaryDirectory(prefix="mmtok-verify-") as scratch:
        copy, made = base.copied_to(Path(scratch) / "base"), Path(scratch) / "made"
        made.mkdir()
        with base.reading("The tokenizer"):
            write_settings(copy, AutoTokenizer.from_pretrained(copy.folder, trust_remote_code=False), made)
        options = {name: config[name] for name in OPTION_NAMES if name in config}
        with suppress(ValueError, TypeError):  # options that are none are a problem already
            limits = {_LIMITS: config[_LIMITS]} if _LIMITS in config else {}
            (made / CONFIG_FILE).write_text(as_json({**published_config(base, options), **limits}), encoding="utf-8")
        expected = {path.name: path.read_bytes() for path in made.iterdir()}
        if INDEX_FILE in base.sources:
            expected[INDEX_FILE] = base.sources[INDEX_FILE].read_bytes()
        return {name: content for name, content in expected.items() if name in _SETTINGS}
