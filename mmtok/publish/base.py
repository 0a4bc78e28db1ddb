"""The checkpoint that a publication starts from: a stock model of one of the families, in a folder or on the Hub.

A base is data. Only files of a list are read, links that lead out of it are refused, and so are settings that lead
transformers to code, another repository, a kernel or other weights. What is checked and published is a copy of these
files (`copied_to`), with its weights linked or copied byte by byte, so that nothing else of the base is ever seen by
a loader.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.utils import sha
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from mmtok.hub.families import FAMILIES, PREFIX, Family, family_of

from .hub import folder_of, without_tokens
from .repository import (
    CARD_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    LICENSE_FILES,
    ORIGINS,
    SETTING_FILES,
    SINGLE_FILE,
    leads_away,
    parse_json,
    plain_file,
    shown,
    weight_names,
)

_BITS = {"BOOL": 8, "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16}
_BITS |= {"I16": 16, "U16": 16, "I8": 8, "U8": 8, "F8_E4M3": 8, "F8_E5M2": 8}
# Of a file without data, about: a system may refuse to map one that is larger than its memory.
_FILE_SIZE = 2 * 2**30


class TensorHeader(NamedTuple):
    """Type, as safetensors spells it, and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes; a ValueError for a type that has no whole bytes."""
        if self.dtype not in _BITS:
            raise ValueError(f"A tensor has the type {self.dtype}: only {', '.join(_BITS)} can be checked.")
        return math.prod(self.shape) * _BITS[self.dtype] // 8


def read_headers(path: Path) -> dict[str, TensorHeader]:
    """Every tensor of a safetensors file; the data are not read. A ValueError for one that is damaged or cut off."""
    try:
        with safe_open(path, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (it is not a mapping)
            return {name: TensorHeader(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{shown(path)} is damaged or no safetensors file: {error}") from error


def write_hollow(folder: Path, tensors: Mapping[str, TensorHeader]) -> None:
    """Writes weight files that have headers and a hole in the place of the data, and their index.

    They take no space on the disk, and on torch's meta device no memory; the real loader says of them whether names
    and shapes fit, whatever the size of the model.
    """
    groups: dict[int, dict[str, TensorHeader]] = defaultdict(dict)
    begin = 0
    for name, tensor in tensors.items():
        groups[begin // _FILE_SIZE][name] = tensor
        begin += tensor.size
    weight_map: dict[str, str] = {}
    for number, group in groups.items():
        file = f"model-{number}.safetensors"
        with (folder / file).open("wb") as opened:
            header = encode_header(group)
            opened.write(header)
            os.truncate(opened.fileno(), len(header) + sum(tensor.size for tensor in group.values()))
        weight_map |= dict.fromkeys(group, file)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")


def encode_header(tensors: Mapping[str, TensorHeader]) -> bytes:
    """The beginning of a safetensors file, up to the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.size
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded


def place_weights(sources: Mapping[str, Path], folder: Path, *, link: bool = True) -> bool:
    """Puts weight files into `folder`, and says whether all of them are hard links; the others are copies.

    A hard link shares its bytes with the base: who writes into one file changes both. Nothing here or in transformers
    does, `save_pretrained` writes new files; `link=False` copies all the same.
    """
    linked = link
    for name, source in sources.items():
        if link:
            with suppress(OSError):  # another file system, or one without hard links
                os.link(source, folder / name)
                continue
        linked = False
        shutil.copyfile(source, folder / name)
        if sha256_of(folder / name, "Comparing") != sha256_of(source, "Comparing"):
            raise OSError(f"The copy of {shown(source)} is not its source: check the disk, and run it again.")
    return linked


def sha256_of(path: Path, doing: str = "Hashing") -> str:
    """sha256 of a file, with a progress bar where it takes seconds."""
    bar = {"total": path.stat().st_size, "desc": f"{doing} {shown(path.name)}", "delay": 2, "disable": None}
    with path.open("rb") as opened, tqdm.wrapattr(opened, "read", **bar) as content:
        return sha.sha_fileobj(content).hex()


_FILES = (CONFIG_FILE, CARD_FILE, *SETTING_FILES, *LICENSE_FILES)
# Numbers of a configuration that everything else is computed from.
_POSITIVE = (
    *(f"vision_config.{name}" for name in ("image_size", "patch_size", "hidden_size", "intermediate_size")),
    *(f"vision_config.{name}" for name in ("num_hidden_layers", "num_attention_heads", "depth", "num_heads")),
    *(f"vision_config.{name}" for name in ("spatial_merge_size", "temporal_patch_size", "out_hidden_size")),
    *(f"text_config.{name}" for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")),
    *(f"text_config.{name}" for name in ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")),
    *("hidden_size", "num_hidden_layers", "vocab_size", "image_seq_length"),
)
_TOKENS = ("image_token_index", "image_token_id", "video_token_index", "video_token_id", "vision_start_token_id")


@dataclass(frozen=True)
class BaseCheckpoint:
    """A checked base.

    Attributes:
        folder: holds its files, without the weights when they were not asked for.
        config: its `config.json`.
        weight_files: names of its safetensors files, in order.
        repo_id, commit: on the Hub; None for a folder.
        sources: name of every file -> the file itself, behind all links.
        headers: of every tensor of the weights that are here.
        name: its Hub id, or the folder as it was given, for messages.
    """

    folder: Path
    config: dict[str, Any]
    weight_files: tuple[str, ...]
    repo_id: str | None = None
    commit: str | None = None
    sources: Mapping[str, Path] = field(default_factory=dict)
    headers: Mapping[str, TensorHeader] = field(default_factory=dict)
    name: str = ""

    @property
    def family(self) -> Family:
        """What its published repository loads."""
        return family_of(self.config["model_type"])

    @property
    def weights(self) -> dict[str, Path]:
        """The weight files that are here."""
        return {name: self.sources[name] for name in self.weight_files if name in self.sources}

    def copied_to(self, folder: Path) -> BaseCheckpoint:
        """Copies its settings into a new folder, links its weights there, and returns the base in that folder."""
        folder.mkdir()
        for name, source in self.sources.items():
            if name in self.weight_files:
                (folder / name).symlink_to(source)
            else:
                shutil.copyfile(source, folder / name)
        return replace(self, folder=folder)

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Turns whatever a library raises over its files into a ValueError that says what was being read."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise  # the disk is full, or may not be written to
            kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
            raise ValueError(f"{what} of {self.name} cannot be used: {kind}{shown(error)}") from error


def open_base(base: str | os.PathLike[str], *, revision: str | None = None, weights: bool = True) -> BaseCheckpoint:
    """Finds a base and checks it; from the Hub, downloads what is not in the cache, the weights last.

    Args:
        base: a folder, or a Hub id such as "llava-hf/llava-1.5-7b-hf".
        revision: branch, tag or commit of the Hub repository.
        weights: False leaves the safetensors files on the Hub and unchecked; their index comes along.

    Raises:
        ValueError: neither a folder nor a Hub repository that can be read; no stock model of a family; a field of a
            wrong type; a file or field that leads out of the base; weights that are missing, damaged or only there as
            pickle files. The message says what was found.
    """
    folder, repo_id = folder_of(base, revision), str(base)
    if folder is not None:
        return _read(folder.resolve(), shown(base), weights=weights)
    # The snapshot's name is its commit, which pins the download of the weights to the same state.
    snapshot = _download(repo_id, revision, [*_FILES, INDEX_FILE])
    found = _read(snapshot, repo_id, repo_id, weights=False)
    if not weights:
        return found
    _download(repo_id, found.commit, found.weight_files)
    return _read(snapshot, repo_id, repo_id, weights=True)


def _download(repo_id: str, revision: str | None, names: Iterable[str]) -> Path:
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(names)))
    except OSError as error:  # every error of the Hub and of the network is one
        at = f" at revision {revision}" if revision else ""
        reason = without_tokens(" ".join(str(error).split()))
        # Without the error itself: its request holds the token.
        raise ValueError(f"{repo_id} is not a folder, and cannot be read from the Hub{at}: {reason}") from None


def _read(folder: Path, name: str, repo_id: str | None = None, *, weights: bool) -> BaseCheckpoint:
    """Checks a folder; that of a Hub repository is a snapshot of the cache."""
    sources = {file: path for file in _FILES if (path := plain_file(folder, file))}
    if CONFIG_FILE not in sources:
        raise ValueError(f"{name} has no {CONFIG_FILE}: give the folder of a complete checkpoint.")
    contents = {file: _parsed(name, file, path) for file, path in sources.items() if file.endswith(".json")}
    _require_stock(contents[CONFIG_FILE], name)
    for file, content in contents.items():
        if away := leads_away(file, content, allowed=ORIGINS):
            raise ValueError(
                f"{name} brings code or parts of its own, which are neither run nor published: in {file}, {away[0]}. "
                "Give a stock checkpoint, or a copy of this one without that field."
            )
    commit = folder.name if repo_id else None
    weight_map: dict[str, str] = {}
    files: tuple[str, ...] = (SINGLE_FILE,)
    single, index = plain_file(folder, SINGLE_FILE), plain_file(folder, INDEX_FILE)
    if index is not None and single is None:  # transformers takes the single file where there are both
        weight_map = _parsed(name, INDEX_FILE, index).get("weight_map")  # type: ignore[assignment]
        files = weight_names(weight_map, f"{name}: {INDEX_FILE}")
        sources[INDEX_FILE] = index
    elif weights and single is None:
        there = HfApi().list_repo_files(repo_id, revision=commit) if repo_id else os.listdir(folder)
        if pickles := sorted(shown(file) for file in there if file.endswith((".bin", ".pt", ".pth", ".ckpt"))):
            raise ValueError(
                f"{name} has its weights only as {', '.join(pickles)}, and pickle files can run code: load it once "
                "with AutoModelForImageTextToText.from_pretrained and stage what its save_pretrained writes."
            )
        raise ValueError(f"{name} has no {SINGLE_FILE} and no {INDEX_FILE}: give a checkpoint with its weights.")
    headers: dict[str, TensorHeader] = {}
    for file in files if weights else ():
        path = plain_file(folder, file)
        if path is None:
            raise ValueError(f"{shown(folder / file)} is missing, although the index names it.")
        sources[file], found = path, read_headers(path)
        if missing := {tensor for tensor, at in weight_map.items() if at == file} - set(found):
            raise ValueError(f"{shown(folder / file)} lacks {min(missing)!r}, which the index promises.")
        headers |= found
    return BaseCheckpoint(folder, contents[CONFIG_FILE], files, repo_id, commit, sources, headers, name)


def _parsed(name: str, file: str, path: Path) -> dict[str, Any]:
    return parse_json(path.read_bytes(), f"{name}: {file}")


def _require_stock(config: dict[str, Any], name: str) -> None:
    model_type = config.get("model_type")
    if str(model_type).startswith(PREFIX):
        raise ValueError(
            f"{name} is already published (model_type {shown(repr(model_type))}): give the stock checkpoint behind it."
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{name} has the model_type {model_type!r}: only {', '.join(map(repr, FAMILIES))} checkpoints in "
            "the format of transformers can be staged."
        )
    for part in ("vision_config", "text_config"):
        value = config.get(part, {})
        if not isinstance(value, dict) or (part == "vision_config" and not value):
            raise ValueError(
                f"{name} has the {part} {shown(repr(value)[:60])} in config.json: a JSON object is needed."
            )
    _require_numbers(config, name)
    model_class, tower = FAMILIES[model_type].load_class(), config["vision_config"].get("model_type")
    if tower is not None and model_class.towers and tower not in model_class.towers:
        raise ValueError(
            f"{name} has a vision tower of the type {tower!r}: {FAMILIES[model_type].title} checkpoints can be staged "
            f"with {' or '.join(map(repr, model_class.towers))}, whose images have a fixed number of tokens."
        )
    try:
        model_class.geometry_class.require_supported(config)
    except ValueError as error:
        raise ValueError(f"{name} has {error}") from error


def _require_numbers(config: dict[str, Any], name: str) -> None:
    """Raises a ValueError that names the first field which holds no number that can be meant."""

    def at(path: str) -> Any:
        part, _, inner = path.rpartition(".")
        return (config.get(part, {}) if part else config).get(inner)

    def refuse(path: str, wanted: str) -> None:
        raise ValueError(f"{name} has {path} {shown(repr(at(path))[:60])} in config.json: {wanted}.")

    def positive(value: Any) -> bool:
        return type(value) is int and value >= 1

    def pair(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 2 and all(map(positive, value))

    for path in _POSITIVE:
        value = at(path)
        sides = path.endswith(("image_size", "patch_size")) and pair(value)  # some towers have height and width
        if not (value is None or positive(value) or sides):
            refuse(path, "a positive whole number is needed")
    size, patch = at("vision_config.image_size"), at("vision_config.patch_size")
    if isinstance(size, int) and isinstance(patch, int) and size < patch:
        refuse("vision_config.image_size", f"an image has at least one patch of {patch} pixels")
    rows = at("text_config.vocab_size") or at("vocab_size")
    for path in _TOKENS:
        value = at(path)
        if value is not None and (type(value) is not int or value < 0 or (rows is not None and value >= rows)):
            refuse(path, f"the id of a token{f' below {rows}, the rows of the embedding,' if rows else ''} is needed")
    pinpoints = at("image_grid_pinpoints")
    if pinpoints is not None and not (isinstance(pinpoints, list) and pinpoints and all(map(pair, pinpoints))):
        refuse("image_grid_pinpoints", "a list of pairs of height and width is needed")
