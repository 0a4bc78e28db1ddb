"""The checkpoint that a publication starts from: a stock model of one of the families, in a folder or on the Hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from .families import FAMILIES, PREFIX, Family, family_of
from .hub_errors import without_tokens

CONFIG_FILE, CARD_FILE = "config.json", "README.md"
SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
# What tokenizer, processor and generation consist of; the rest of a base is not taken over.
SETTING_FILES: tuple[str, ...] = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
)
LICENSE_FILES: tuple[str, ...] = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt")


@dataclass(frozen=True)
class BaseCheckpoint:
    """A checked base.

    Attributes:
        folder: holds its files, without the weights when they were not asked for.
        config: its `config.json`.
        weight_files: names of its safetensors files, in order.
        weight_map: tensor name -> file name as the index says; empty without an index.
        repo_id: its Hub id, None for a folder.
        commit: commit of that repository, None for a folder.
    """

    folder: Path
    config: dict[str, Any]
    weight_files: tuple[str, ...]
    weight_map: dict[str, str] = field(default_factory=dict)
    repo_id: str | None = None
    commit: str | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.repo_id or str(self.folder)

    @property
    def family(self) -> Family:
        """What its published repository loads."""
        return family_of(self.config["model_type"])


def open_base(base: str | os.PathLike[str], *, revision: str | None = None, weights: bool = True) -> BaseCheckpoint:
    """Finds a base and checks it; from the Hub, downloads what is not in the cache, the weights last.

    Args:
        base: a folder, or a Hub id such as "llava-hf/llava-1.5-7b-hf".
        revision: branch, tag or commit of the Hub repository.
        weights: False leaves the safetensors files on the Hub and unchecked; their index comes along.

    Raises:
        ValueError: neither a folder nor a Hub repository that can be read; no stock model of a family; weights that are
            missing, damaged or only there as pickle files. The message says what was found.
    """
    folder = Path(base)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} was given with the folder {folder}: only a Hub id has revisions.")
        return _read(folder.resolve(), weights=weights)
    repo_id = str(base)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is neither a folder nor a Hub id: give one of them as the base.") from error
    settings = [CONFIG_FILE, INDEX_FILE, CARD_FILE, *SETTING_FILES, *LICENSE_FILES]
    # The snapshot's name is its commit, which pins the download of the weights to the same state.
    snapshot = _download(repo_id, revision, settings)
    found = _read(snapshot, weights=False, repo_id=repo_id)
    if not weights:
        return found
    _download(repo_id, found.commit, found.weight_files)
    if not any((snapshot / name).exists() for name in found.weight_files):
        _refuse_without_safetensors(repo_id, HfApi().list_repo_files(repo_id, revision=found.commit))
    return _read(snapshot, weights=True, repo_id=repo_id)


def _download(repo_id: str, revision: str | None, names: Iterable[str]) -> Path:
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(names)))
    except OSError as error:  # every error of the Hub and of the network is one
        at = f" at revision {revision}" if revision else ""
        reason = without_tokens(" ".join(str(error).split()))
        # Without the error itself: its request holds the token.
        raise ValueError(f"{repo_id} is no folder, and cannot be read from the Hub{at}: {reason}") from None


def _read(folder: Path, *, weights: bool, repo_id: str | None = None) -> BaseCheckpoint:
    config = read_json(folder / CONFIG_FILE)
    name = repo_id or str(folder)
    _require_stock(config, name)
    weight_map: dict[str, str] = {}
    if (folder / INDEX_FILE).exists():
        weight_map = read_json(folder / INDEX_FILE).get("weight_map") or {}
        _require_plain_names(weight_map, folder / INDEX_FILE)
    files = tuple(sorted(set(weight_map.values()))) or (SINGLE_FILE,)
    if weights:
        if not weight_map and not (folder / SINGLE_FILE).exists():
            _refuse_without_safetensors(name, [path.name for path in folder.iterdir()])
        _require_readable(folder, files, weight_map)
    return BaseCheckpoint(folder, config, files, weight_map, repo_id, folder.name if repo_id else None)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: no such file, or no JSON object in it.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} has no {path.name}: give the folder of a complete checkpoint.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} holds a {type(read).__name__}: a JSON object is needed.")
    return read


def _require_stock(config: dict[str, Any], name: str) -> None:
    model_type = config.get("model_type")
    if str(model_type).startswith(PREFIX):
        raise ValueError(
            f"{name} is already published (model_type {model_type!r}): give the stock checkpoint behind it."
        )
    if model_type not in FAMILIES:
        raise ValueError(
            f"{name} has the model_type {model_type!r}: only {', '.join(map(repr, FAMILIES))} checkpoints in "
            "the format of transformers can be staged."
        )
    _require_tower(FAMILIES[model_type], config.get("vision_config"), name)
    if "auto_map" in config:
        raise ValueError(f"{name} brings code of its own (auto_map in config.json): give a stock checkpoint.")


def _require_tower(family: Family, vision_config: Any, name: str) -> None:
    """Raises a ValueError for a vision tower whose images the family's class does not know how to prune."""
    tower = vision_config.get("model_type") if isinstance(vision_config, dict) else None
    if tower is not None and family.towers and tower not in family.towers:
        raise ValueError(
            f"{name} has a vision tower of the type {tower!r}: {family.title} checkpoints can be staged with "
            f"{' or '.join(map(repr, family.towers))}, whose images have a fixed number of tokens."
        )


def _require_plain_names(weight_map: dict[str, str], index: Path) -> None:
    for file in weight_map.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(
                f"{index} names the file {file!r}: only safetensors files beside the index are taken over."
            )


def _refuse_without_safetensors(name: str, files: Iterable[str]) -> None:
    pickles = sorted(file for file in files if file.endswith((".bin", ".pt", ".pth", ".ckpt")))
    if pickles:
        raise ValueError(
            f"{name} has its weights only as {', '.join(pickles)}, and pickle files can run code: load it once with "
            "AutoModelForImageTextToText.from_pretrained and stage what its save_pretrained writes."
        )
    raise ValueError(f"{name} has no {SINGLE_FILE} and no {INDEX_FILE}: give a checkpoint with its weights.")


def _require_readable(folder: Path, files: Iterable[str], weight_map: dict[str, str]) -> None:
    """Raises unless every file is there, is whole, and holds the tensors that the index promises."""
    for file in files:
        try:
            with safe_open(folder / file, framework="pt") as tensors:
                names = set(tensors.keys())
        except FileNotFoundError as error:
            raise ValueError(f"{folder / file} is missing, although the index names it.") from error
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder / file} is damaged or no safetensors file: {error}") from error
        missing = {name for name, at in weight_map.items() if at == file} - names
        if missing:
            raise ValueError(f"{folder / file} lacks {min(missing)!r}, which the index promises.")
