"""Holds a published repo or a staged folder against the installed release: code, options, weights, file formats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from configuration_mmtok import OPTION_NAMES

from .base import CARD_FILE, CONFIG_FILE
from .card import metadata_of
from .families import FAMILIES, PREFIX
from .hub_errors import PublishError
from .hub_names import check_reference, check_repo_id
from .hub_repo import HubRepo
from .orphans import orphans
from .published_files import GENERATE_FILE, GENERATE_FOLDER, HANDLER_FILE, generate_sources, published_sources
from .verified_files import NOTHING_VERIFIED, FolderFiles, RepoFiles, blobs

_CODE_ALONE = "A custom_generate repository is code alone."
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
        orphans: code files of an earlier release; nothing that is released imports them.
        other_code: further Python files; nothing that is released imports them.
        pruning_options: the pruning options of `config.json`.
        weights: the safetensors files with their sha256.
        origin: one line on where the weights come from.
        problems: everything that is not as released; empty when all is well.
    """

    name: str
    commit: str | None
    release: str
    code: tuple[CodeFile, ...]
    orphans: tuple[str, ...]
    other_code: tuple[str, ...]
    pruning_options: Mapping[str, Any]
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
        """The findings as text; the last line says whether the remote code is the released code."""
        at = f" at {self.commit}" if self.commit else ""
        lines = [f"{self.name}{at}, against mmtok {self.release}:"]
        lines += [f"  {_verdict(file):8} {file.name}  sha256 {file.found or '-'}" for file in self.code]
        lines += [f"  orphan   {name}  (of an earlier release)" for name in self.orphans]
        lines += [f"  extra    {name}  (nothing of the release imports it)" for name in self.other_code]
        lines += [f"  {name} = {_short(value)}" for name, value in self.pruning_options.items()]
        lines += [f"Weights: {len(self.weights)} safetensors files. {self.origin}"]
        lines += [f"Problem: {problem}" for problem in self.problems]
        released = "is" if self.code_is_released else "is NOT"
        return "\n".join([*lines, f"The remote code {released} the code of mmtok {self.release}."])


def verify(repo_or_folder: str | Path, *, revision: str | None = None) -> Verification:
    """Compares what is published, or staged, with the installed release: a model, or a `custom_generate` repository.

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
        return _verify(FolderFiles(folder), str(folder), None)
    repo_id = check_repo_id(str(repo_or_folder))
    if revision is not None:
        check_reference(revision, "revision")
    repo = HubRepo(repo_id, after_failure=NOTHING_VERIFIED)
    commit = repo.commit_of(revision)
    return _verify(RepoFiles(repo, commit), repo_id, commit)


def _verify(files: FolderFiles | RepoFiles, name: str, commit: str | None) -> Verification:
    from mmtok import __version__

    problems: list[str] = []
    is_model = CONFIG_FILE in files.paths or f"{GENERATE_FOLDER}/{GENERATE_FILE}" not in files.paths
    config = _config(files, problems) if is_model else {}
    sources = published_sources(_model_type(config)) if is_model else generate_sources()
    if HANDLER_FILE not in files.paths:  # `save_pretrained` copies what the model imports, and it does not import this
        sources.pop(HANDLER_FILE, None)
    card = files.read(CARD_FILE).decode("utf-8", "replace") if CARD_FILE in files.paths else None
    left_over = orphans(files.paths, sources, card)
    code = tuple(_code_file(files, file, source) for file, source in sorted(sources.items()))
    problems += [f"{file.name} is missing." for file in code if file.found is None]
    problems += [f"{file.name} is not the released file." for file in code if file.found and not file.matches]
    problems += [
        f"{name} is of an earlier release, and nothing of this one imports it: push again, or delete it."
        for name in left_over
    ]
    others = {path for path in files.paths if path.endswith(".py")} - sources.keys() - set(left_over)
    pickles = [path for path in files.paths if path.endswith(_PICKLES)]
    problems += [f"{path} may be a pickle, which can run code when it is loaded." for path in pickles]
    weights = files.weights()
    if is_model and not weights:
        problems.append("There is no safetensors file.")
    return Verification(
        name=name,
        commit=commit,
        release=__version__,
        code=code,
        orphans=left_over,
        other_code=tuple(sorted(others)),
        pruning_options={option: config[option] for option in OPTION_NAMES if option in config},
        weights=weights,
        origin=_origin(card, weights, problems, on_the_hub=commit is not None) if is_model else _CODE_ALONE,
        problems=tuple(problems),
    )


def _code_file(files: FolderFiles | RepoFiles, name: str, source: Path) -> CodeFile:
    found = hashlib.sha256(files.read(name)).hexdigest() if name in files.paths else None
    return CodeFile(name, hashlib.sha256(source.read_bytes()).hexdigest(), found)


def _config(files: FolderFiles | RepoFiles, problems: list[str]) -> dict[str, Any]:
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
    if config.get("model_type") not in {PREFIX + known for known in FAMILIES}:
        problems.append(f"config.json has the model_type {config.get('model_type')!r}, which is none of mmtok's.")
    elif config.get("auto_map") != FAMILIES[_model_type(config)].auto_map:
        problems.append("auto_map in config.json names other code than the released classes.")
    problems += [f"config.json lacks the option {option}." for option in OPTION_NAMES if option not in config]
    return config


def _model_type(config: Mapping[str, Any]) -> str:
    """The stock model type behind a configuration; LLaVA's for one that is none of ours, whose problem is noted."""
    found = str(config.get("model_type")).removeprefix(PREFIX)
    return found if found in FAMILIES else "llava"


def _origin(card: str | None, weights: Mapping[str, str], problems: list[str], *, on_the_hub: bool) -> str:
    """Holds the weights against the base that the card names, at the commit that it names."""
    metadata = metadata_of(card) if card is not None else {}
    base, commit = metadata.get("base_model"), metadata.get("base_model_revision")
    if base is None:
        return "The card names no base model, so their origin is not known."
    try:
        validate_repo_id(base)
        commit = None if commit is None else check_reference(str(commit), "revision")
    except (HFValidationError, ValueError) as error:
        return f"The card names {base!r} as the base model, so their origin is not known: {error}"
    if not on_the_hub:
        return f"The card names {base} as their origin; a folder is not compared with the Hub."
    at = f"{base} at {commit or 'main'}"
    try:
        there = blobs(
            HubRepo(base, after_failure="The origin of the weights was not compared.").files_at(commit).values()
        )
    except PublishError as error:
        return str(error)
    differing = sorted(path for path, sha256 in weights.items() if there.get(path) != sha256)
    if differing:
        if commit:  # a card without one says which model was the base, not where these blobs are from
            problems.append(f"{', '.join(differing)}: not the blob of {at}.")
        return f"They are not the blobs of {at}."
    return f"They are the blobs of {at}."


def _verdict(file: CodeFile) -> str:
    if file.found is None:
        return "missing"
    return "same" if file.matches else "OTHER"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(value)} entries)"
