"""Holds a published repository or a staged folder against the installed release: what transformers loads from it.

Nothing of it is run. A repository of this project holds files of a list, and everything else is a problem; code is
compared with the release; every JSON file is read for fields that lead out of the repository; settings and weights are
compared with those of the base, from which the settings are made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from transformers import AutoTokenizer

from configuration_mmtok import OPTION_NAMES, PruningOptions
from mmtok import __version__
from mmtok.hub.families import FAMILIES, PREFIX
from mmtok.hub.handler import Limits

from .base import BaseCheckpoint, open_base, sha256_of
from .card import metadata_of
from .hub import HubRepo, PublishError, check_reference, check_repo_id, check_repo_path, folder_of
from .repository import (
    CARD_FILE,
    CONFIG_FILE,
    GENERATE_FILE,
    GENERATE_FOLDER,
    HANDLER_FILE,
    INDEX_FILE,
    MOST_JSON_BYTES,
    REQUIREMENTS,
    REQUIREMENTS_FILE,
    SETTING_FILES,
    SINGLE_FILE,
    as_json,
    auto_map,
    files_inside,
    generate_code,
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


@dataclass(frozen=True)
class VerifiedFile:
    """One file.

    Attributes:
        path: in the repository.
        kind: "code", "settings", "weights" or "card"; "other" for a file that has no place there.
        found: what was compared, such as "the released file".
        sha256: of its content, None where it was not read.
    """

    path: str
    kind: str
    found: str
    sha256: str | None = None


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        name: the repo or folder.
        commit: the commit of the repo; None for a folder.
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
            lines += [f"  {each.kind:8} {shown(each.path)}: {each.found}, sha256 {each.sha256}" for each in self.files]
        else:
            lines += [f"  {kind:8} {text}" for kind, text in self._summary()]
        defaults = {each: getattr(PruningOptions(), each) for each in OPTION_NAMES}
        changed = {
            name: _short(value) for name, value in self.pruning_options.items() if verbose or value != defaults[name]
        }
        told = ", ".join(f"{name} {value}" for name, value in changed.items() if verbose or len(value) <= 40)
        lines += [f"  options  {told or 'the defaults'}"] if self.pruning_options else []
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

    def _summary(self) -> Iterable[tuple[str, str]]:
        for kind in ("code", "settings", "weights"):
            found: dict[str, int] = {}
            for each in self.files:
                if each.kind == kind:
                    found[each.found] = found.get(each.found, 0) + 1
            if found:
                yield kind, "; ".join(f"{count} file{'s' * (count > 1)}: {text}" for text, count in found.items())


class _FolderFiles:
    """The files of a folder; `links` are those that lead out of it, or are not files."""

    def __init__(self, folder: Path) -> None:
        self.links: list[str] = []
        self.paths = files_inside(folder, self.links)

    def read(self, path: str) -> bytes:
        """The content of one file."""
        return self.paths[path].read_bytes()

    def size(self, path: str) -> int:
        """In bytes."""
        return self.paths[path].stat().st_size

    def sha256(self, path: str) -> str:
        """Of one file."""
        return sha256_of(self.paths[path])


class _RepoFiles:
    """The files of one commit of a repository; large ones are not downloaded."""

    links: tuple[str, ...] = ()

    def __init__(self, repo: HubRepo, commit: str) -> None:
        self._repo, self._commit = repo, commit
        self.paths: dict[str, RepoFile] = {check_repo_path(path): file for path, file in repo.files_at(commit).items()}

    def read(self, path: str) -> bytes:
        """The content of one file, which is downloaded."""
        return self._repo.bytes_at(self._commit, path)

    def size(self, path: str) -> int:
        """In bytes."""
        return self.paths[path].size

    def sha256(self, path: str) -> str:
        """Of one file, as the Hub keeps it or of its download."""
        lfs = self.paths[path].lfs
        return lfs.sha256 if lfs else hashlib.sha256(self.read(path)).hexdigest()


Files = _FolderFiles | _RepoFiles


@dataclass
class _Base:
    """What settings and weights are compared with.

    Attributes:
        name: in messages.
        settings: expected content of each settings file.
        weights: sha256 of each weight file; a path for one of a folder.
        binding: whether a difference is a problem: the card pins this base, or it was asked for.
    """

    name: str
    settings: dict[str, bytes]
    weights: dict[str, str | Path]
    binding: bool


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
    folder = folder_of(repo_or_folder, revision)
    if folder is not None:
        return _verify(_FolderFiles(folder), str(folder), None, base)
    repo_id = check_repo_id(str(repo_or_folder))
    if revision is not None:
        check_reference(revision, "revision")
    repo = HubRepo(repo_id, after_failure=NOTHING_VERIFIED)
    commit = repo.commit_of(revision)
    return _verify(_RepoFiles(repo, commit), repo_id, commit, base)


def _verify(files: Files, name: str, commit: str | None, base: str | os.PathLike[str] | None) -> Verification:
    problems = list(files.links)
    is_model = CONFIG_FILE in files.paths or f"{GENERATE_FOLDER}/{GENERATE_FILE}" not in files.paths
    parsed = _parsed(files, problems)
    config = parsed.get(CONFIG_FILE, {})
    if is_model and CONFIG_FILE not in files.paths:
        problems.append("There is no config.json.")
    if is_model:
        _check_config(config, problems)
    sources = published_code(_model_type(config)) if is_model else generate_code()
    if HANDLER_FILE not in files.paths:  # `save_pretrained` copies what the model imports, and it does not import this
        sources.pop(HANDLER_FILE, None)
    weights = _weight_names(files, parsed, problems) if is_model else ()
    code = set(sources) if is_model else {*sources, REQUIREMENTS_FILE}
    against, origin = _base_of(files, config, base) if is_model else (None, "Code alone: a custom_generate repository.")
    found = [_code_file(files, path, content, problems) for path, content in sorted(sources.items())]
    if not is_model:
        found.append(_code_file(files, REQUIREMENTS_FILE, REQUIREMENTS.encode(), problems))
    for path in sorted(set(files.paths) - {each.path for each in found}):
        if not is_known_file(path, code, weights):
            problems.append(f"{path} has no place in a repository of mmtok: remove it.")
            found.append(VerifiedFile(path, "other", "not read"))
        elif path in weights:
            found.append(_weight_file(files, path, against, problems))
        elif path in (CONFIG_FILE, INDEX_FILE, *SETTING_FILES):
            found.append(_settings_file(files, path, against, problems))
        else:
            found.append(VerifiedFile(path, "card", "for readers"))
    if against is not None and against.binding:
        missing = sorted(set(against.settings) - set(files.paths))
        problems += [f"{path} is missing; {against.name} has it." for path in missing]
    return Verification(
        name=name,
        commit=commit,
        release=__version__,
        files=tuple(found),
        pruning_options={option: config[option] for option in OPTION_NAMES if option in config},
        origin=origin,
        problems=tuple(problems),
    )


def _parsed(files: Files, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Every JSON file, with a problem noted for each field that leads out of the repository."""
    parsed = {}
    for path in sorted(files.paths):
        if path not in (CONFIG_FILE, INDEX_FILE, *SETTING_FILES) or not path.endswith(".json"):
            continue
        try:
            if files.size(path) > MOST_JSON_BYTES:
                raise ValueError(f"{path} has {files.size(path)} bytes: a JSON file has at most {MOST_JSON_BYTES}.")
            parsed[path] = parse_json(files.read(path), path)
        except ValueError as error:
            problems.append(str(error))
            continue
        checked = _CHECKED_FIELDS if path == CONFIG_FILE else ()
        content = {key: value for key, value in parsed[path].items() if key not in checked}
        problems += [f"{path}: {each}, which leads out of the repository." for each in leads_away(path, content)]
    return parsed


def _check_config(config: Mapping[str, Any], problems: list[str]) -> None:
    """Notes a problem where config.json does not lead to the released classes, or lacks an option."""
    if not config:
        return
    if config.get("model_type") not in {PREFIX + known for known in FAMILIES}:
        problems.append(f"config.json has the model_type {config.get('model_type')!r}, which is none of mmtok's.")
    elif config.get("auto_map") != auto_map(FAMILIES[_model_type(config)]):
        problems.append("auto_map in config.json names other code than the released classes.")
    elif config.get("architectures") != [FAMILIES[_model_type(config)].model_class]:
        problems.append(f"architectures in config.json is {config.get('architectures')!r}.")
    problems += [f"config.json lacks the option {option}." for option in OPTION_NAMES if option not in config]
    try:
        PruningOptions(**{option: config[option] for option in OPTION_NAMES if option in config})
        Limits.of(config.get(_LIMITS, {}))
    except (ValueError, TypeError) as error:
        problems.append(f"config.json: {error}")


def _model_type(config: Mapping[str, Any]) -> str:
    """The stock model type behind a configuration; LLaVA's for one that is none of ours, whose problem is noted."""
    found = str(config.get("model_type")).removeprefix(PREFIX)
    return found if found in FAMILIES else "llava"


def _weight_names(files: Files, parsed: Mapping[str, Any], problems: list[str]) -> tuple[str, ...]:
    """The files that transformers takes for the weights, the index among them."""
    names: tuple[str, ...] = (SINGLE_FILE,)
    if SINGLE_FILE not in files.paths and INDEX_FILE in files.paths:
        try:
            names = (INDEX_FILE, *weight_names(parsed.get(INDEX_FILE, {}).get("weight_map"), INDEX_FILE))
        except ValueError as error:
            problems.append(str(error))
    problems += [f"{name} is missing." for name in names if name not in files.paths]
    return names


def _code_file(files: Files, path: str, released: bytes, problems: list[str]) -> VerifiedFile:
    if path not in files.paths:
        problems.append(f"{path} is missing.")
        return VerifiedFile(path, "code", "missing")
    same = files.size(path) == len(released) and files.read(path) == released
    if not same:
        problems.append(f"{path} is not the released file.")
    return VerifiedFile(path, "code", "the released file" if same else "NOT the released file", files.sha256(path))


def _settings_file(files: Files, path: str, against: _Base | None, problems: list[str]) -> VerifiedFile:
    sha256 = files.sha256(path)
    if against is None:
        return VerifiedFile(path, "settings", "leads nowhere else; not compared", sha256)
    expected = against.settings.get(path)
    if expected is not None and _is_same(files, path, expected, sha256):
        return VerifiedFile(path, "settings", "what this release makes of the base", sha256)
    if against.binding:
        problems.append(f"{path} is not what this release makes of {against.name}.")
    return VerifiedFile(path, "settings", f"not those of {against.name}", sha256)


def _is_same(files: Files, path: str, expected: bytes, sha256: str) -> bool:
    """Whether a file is as expected: its bytes, or what it says where people edit it, for the limits of the handler."""
    if hashlib.sha256(expected).hexdigest() == sha256:
        return True
    try:
        return path == CONFIG_FILE and parse_json(files.read(path), path) == parse_json(expected, path)
    except ValueError:  # it is a problem already
        return False


def _weight_file(files: Files, path: str, against: _Base | None, problems: list[str]) -> VerifiedFile:
    if path == INDEX_FILE:
        return _settings_file(files, path, against, problems)
    if against is None:
        return VerifiedFile(path, "weights", "not compared", files.sha256(path))
    there = against.weights.get(path)
    if isinstance(there, Path):
        here = files.paths[path]
        if isinstance(here, Path) and os.path.samefile(here, there):
            return VerifiedFile(path, "weights", "the base's own file on the disk")
        there = sha256_of(there)
    sha256 = files.sha256(path)
    if sha256 == there:
        return VerifiedFile(path, "weights", "sha256 of the base's", sha256)
    if against.binding:
        problems.append(f"{path}: not the weights of {against.name}.")
    return VerifiedFile(path, "weights", f"NOT those of {against.name}", sha256)


def _base_of(files: Files, config: Mapping[str, Any], given: str | os.PathLike[str] | None) -> tuple[_Base | None, str]:
    """What to compare with, and a line on it; None with the reason where there is nothing."""
    base, commit, asked = given, None, given is not None
    if base is None:
        card = files.read(CARD_FILE).decode("utf-8", "replace") if CARD_FILE in files.paths else ""
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
            repo = HubRepo(str(base), after_failure="They were not compared.")
            commit = repo.commit_of(commit)
            there = repo.files_at(commit)
            weights = {path: file.lfs.sha256 for path, file in there.items() if file.lfs}
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
        return {
            name: content for name, content in expected.items() if name in (CONFIG_FILE, INDEX_FILE, *SETTING_FILES)
        }


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
