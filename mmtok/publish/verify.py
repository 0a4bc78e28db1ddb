"""Holds a published repo or a staged folder against the installed release: code, knobs, weights, file formats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from configuration_mmtok import KNOB_NAMES

from .base import CARD_FILE, CONFIG_FILE, MODEL_CLASSES, BaseCheckpoint
from .card import metadata_of
from .config_file import published_config
from .hub_errors import HUB_ERRORS, publish_error
from .hub_names import check_reference, check_repo_id, check_repo_path, files_inside
from .published_files import HANDLER_FILE, published_sources

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".joblib")


@dataclass(frozen=True)
class CodeFile:
    """One published code file: its sha256 in the installed release and in what is verified, None where it is absent."""

    name: str
    released: str
    found: str | None

    @property
    def matches(self) -> bool:
        return self.released == self.found


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        name: the repo or folder.
        commit: the commit of the repo; None for a folder.
        release: the installed version.
        code: every published file.
        other_code: further Python files; nothing that is released imports them.
        knobs: the pruning knobs of `config.json`.
        weights: the safetensors files with their sha256.
        origin: one line on where the weights come from.
        problems: everything that is not as released; empty when all is well.
    """

    name: str
    commit: str | None
    release: str
    code: tuple[CodeFile, ...]
    other_code: tuple[str, ...]
    knobs: Mapping[str, Any]
    weights: Mapping[str, str]
    origin: str
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def code_is_released(self) -> bool:
        return all(file.matches for file in self.code)

    def describe(self) -> str:
        """The findings for a reader; the last line is the verdict on the remote code."""
        at = f" at {self.commit}" if self.commit else ""
        lines = [f"{self.name}{at}, against mmtok {self.release}:"]
        lines += [f"  {_verdict(file):8} {file.name}  sha256 {file.found or '-'}" for file in self.code]
        lines += [f"  extra    {name}  (nothing of the release imports it)" for name in self.other_code]
        lines += [f"  {name} = {_short(value)}" for name, value in self.knobs.items()]
        lines += [f"Weights: {len(self.weights)} safetensors files. {self.origin}"]
        lines += [f"Problem: {problem}" for problem in self.problems]
        released = "is" if self.code_is_released else "is NOT"
        return "\n".join([*lines, f"The remote code {released} the code of mmtok {self.release}."])


def verify(repo_or_folder: str | Path, *, revision: str | None = None) -> Verification:
    """Compares what is published, or staged, with the installed release.

    Args:
        repo_or_folder: a Hub id or a folder; nothing but small files is downloaded.
        revision: branch, tag or commit of the repo.

    Raises:
        ValueError: no folder and no Hub id, or a folder with a revision.
        PublishError: the Hub refuses or cannot be reached.
    """
    folder = Path(repo_or_folder)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} was given with the folder {folder}: only a Hub id has revisions.")
        return _verify(_FolderFiles(folder), str(folder), None)
    repo_id = check_repo_id(str(repo_or_folder))
    if revision is not None:
        check_reference(revision, "revision")
    try:
        api = HfApi()
        commit = api.repo_info(repo_id, revision=revision).sha
        assert commit is not None
        return _verify(_RepoFiles(api, repo_id, commit), repo_id, commit)
    except HUB_ERRORS as error:
        raise publish_error(error, f"reading {repo_id}", "Nothing was verified; run the same command again.") from None


class _FolderFiles:
    """The files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.paths = files_inside(folder)

    def read(self, path: str) -> bytes:
        return self.paths[path].read_bytes()

    def weights(self) -> dict[str, str]:
        return {path: _sha256(file) for path, file in self.paths.items() if path.endswith(".safetensors")}


class _RepoFiles:
    """The files of one commit of a repo."""

    def __init__(self, api: HfApi, repo_id: str, commit: str) -> None:
        self.api, self.repo_id, self.commit = api, repo_id, commit
        entries = api.list_repo_tree(repo_id, recursive=True, revision=commit)
        self.paths = {check_repo_path(entry.path): entry for entry in entries if isinstance(entry, RepoFile)}

    def read(self, path: str) -> bytes:
        return Path(self.api.hf_hub_download(self.repo_id, path, revision=self.commit)).read_bytes()

    def weights(self) -> dict[str, str]:
        return _blobs(self.paths.values())


def _verify(files: _FolderFiles | _RepoFiles, name: str, commit: str | None) -> Verification:
    from mmtok import __version__

    problems: list[str] = []
    sources = published_sources()
    if HANDLER_FILE not in files.paths:  # `save_pretrained` copies what the model imports, and it does not import this
        del sources[HANDLER_FILE]
    code = tuple(_code_file(files, file, source) for file, source in sorted(sources.items()))
    problems += [f"{file.name} is missing." for file in code if file.found is None]
    problems += [f"{file.name} is not the released file." for file in code if file.found and not file.matches]
    released = {file.name for file in code}
    others = tuple(path for path in files.paths if path.endswith(".py") and path not in released)
    config = _config(files, problems)
    pickles = [path for path in files.paths if path.endswith(_PICKLES)]
    problems += [f"{path} may be a pickle, which can run code when it is loaded." for path in pickles]
    weights = files.weights()
    if not weights:
        problems.append("There is no safetensors file.")
    return Verification(
        name=name,
        commit=commit,
        release=__version__,
        code=code,
        other_code=others,
        knobs={knob: config[knob] for knob in KNOB_NAMES if knob in config},
        weights=weights,
        origin=_origin(files, weights, problems),
        problems=tuple(problems),
    )


def _code_file(files: _FolderFiles | _RepoFiles, name: str, source: Path) -> CodeFile:
    found = hashlib.sha256(files.read(name)).hexdigest() if name in files.paths else None
    return CodeFile(name, hashlib.sha256(source.read_bytes()).hexdigest(), found)


def _config(files: _FolderFiles | _RepoFiles, problems: list[str]) -> dict[str, Any]:
    """config.json, with a problem noted where it does not lead to the released classes."""
    if CONFIG_FILE not in files.paths:
        problems.append("There is no config.json.")
        return {}
    try:
        config = json.loads(files.read(CONFIG_FILE))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        problems.append("config.json is no JSON object.")
        return {}
    base_type = str(config.get("model_type")).removeprefix("mmtok_")
    if config.get("model_type") not in {f"mmtok_{known}" for known in MODEL_CLASSES}:
        problems.append(f"config.json has the model_type {config.get('model_type')!r}, which is none of mmtok's.")
    elif config.get("auto_map") != _released_auto_map(base_type):
        problems.append("auto_map in config.json names other code than the released classes.")
    problems += [f"config.json lacks the knob {knob}." for knob in KNOB_NAMES if knob not in config]
    return config


def _released_auto_map(base_type: str) -> dict[str, str]:
    return published_config(BaseCheckpoint(Path(), {"model_type": base_type}, ()), {})["auto_map"]


def _origin(files: _FolderFiles | _RepoFiles, weights: Mapping[str, str], problems: list[str]) -> str:
    """Holds the weights against the base that the card names, at the commit that it names."""
    metadata = metadata_of(files.read(CARD_FILE).decode("utf-8", "replace")) if CARD_FILE in files.paths else {}
    base, commit = metadata.get("base_model"), metadata.get("base_model_revision")
    if not isinstance(base, str):
        return "The card names no base model, so their origin is not known."
    check_repo_id(base)
    if isinstance(files, _FolderFiles):
        return f"The card names {base} as their origin; a folder is not compared with the Hub."
    at = f"{base} at {commit or 'main'}"
    try:
        there = HfApi().list_repo_tree(base, recursive=True, revision=commit)
        blobs = _blobs(entry for entry in there if isinstance(entry, RepoFile))
    except HUB_ERRORS as error:
        return str(publish_error(error, f"reading {base}", "The origin of the weights was not compared."))
    differing = sorted(path for path, sha256 in weights.items() if blobs.get(path) != sha256)
    if differing:
        if commit:  # a card without one says which model was the base, not where these blobs are from
            problems.append(f"{', '.join(differing)}: not the blob of {at}.")
        return f"They are not the blobs of {at}."
    return f"They are the blobs of {at}."


def _blobs(entries: Any) -> dict[str, str]:
    """sha256 of every safetensors file that the Hub keeps as a blob."""
    return {entry.path: entry.lfs.sha256 for entry in entries if entry.path.endswith(".safetensors") and entry.lfs}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _verdict(file: CodeFile) -> str:
    if file.found is None:
        return "missing"
    return "same" if file.matches else "OTHER"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(value)} entries)"
