"""The checkpoint that a publication starts from: a stock model of one of the families, in a folder or on the Hub.

A base is data. Only files of a list are read, links that lead out of it are refused, and so are settings that lead
transformers to code, another repository, a kernel or other weights. What is checked and published is a copy of these
files (`copied_to`), with its weights linked or copied byte by byte, so that nothing else of the base is ever seen by
a loader.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, snapshot_download
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
    read_json,
    shown,
    weight_names,
)

_BITS = {"BOOL": 8, "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16}
_BITS |= {"I16": 16, "U16": 16, "I8": 8, "U8": 8, "F8_E4M3": 8, "F8_E5M2": 8}
# A system may refuse to map a file that is larger than its memory.
_LARGEST_FILE = 4 * 2**30
_BLOCK = 8 * 2**20


class TensorHeader(NamedTuple):
    """Type, as safetensors spells it, and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes.

        Raises:
            ValueError: a type of another size than whole bytes.
        """
        if self.dtype not in _BITS:
            raise ValueError(f"A tensor has the type {self.dtype}: only {', '.join(_BITS)} can be checked.")
        return math.prod(self.shape) * _BITS[self.dtype] // 8


def read_headers(path: Path) -> dict[str, TensorHeader]:
    """Every tensor of a safetensors file; the data are not read.

    Raises:
        ValueError: it is damaged, cut off, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (it is not a mapping)
            return {name: TensorHeader(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{shown(path)} is damaged or no safetensors file: {error}") from error


def write_hollow(folder: Path, tensors: Mapping[str, TensorHeader]) -> None:
    """Writes weight files that have headers and no data, and their index.

    A safetensors file begins with a header that names every tensor with its type and shape. A file with the same header
    and a hole in the place of the data takes no space on the disk, and on torch's meta device no memory; the real
    loader says of it whether names and shapes fit, whatever the size of the model.
    """
    groups: list[dict[str, TensorHeader]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.size > _LARGEST_FILE:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.size
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups):
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
    """Puts weight files into `folder`: hard links, or copies whose sha256 is compared with the source's.

    A hard link shares its bytes with the base: who writes into one file changes both. Nothing here or in transformers
    does, `save_pretrained` writes new files; `link=False` copies all the same.

    Returns:
        Whether every file is linked. Where the file system cannot link, a file is copied.

    Raises:
        OSError: the disk is full, or a copy is not its source.
    """
    copies = [name for name, source in sources.items() if not (link and _linked(source, folder / name))]
    for name in copies:
        shutil.copyfile(sources[name], folder / name)
        if sha256_of(folder / name, "Comparing") != sha256_of(sources[name], "Comparing"):
            raise OSError(f"The copy of {shown(sources[name])} is not its source: check the disk, and run it again.")
    return not copies


def sha256_of(path: Path, doing: str = "Hashing") -> str:
    """sha256 of a file, with a progress bar where it takes seconds."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with (
        path.open("rb") as content,
        tqdm(total=size, desc=f"{doing} {shown(path.name)}", unit="B", unit_scale=True, delay=2, disable=None) as bar,
    ):
        while block := content.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        return False
    return True


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
        weight_map: tensor name -> file name as the index says; empty without an index.
        repo_id: its Hub id, None for a folder.
        commit: commit of that repository, None for a folder.
        sources: name of every file -> the file itself, behind all links.
        headers: of every tensor of the weights that are here.
        called: the base as it was given, for messages.
    """

    folder: Path
    config: dict[str, Any]
    weight_files: tuple[str, ...]
    weight_map: dict[str, str] = field(default_factory=dict)
    repo_id: str | None = None
    commit: str | None = None
    sources: Mapping[str, Path] = field(default_factory=dict)
    headers: Mapping[str, TensorHeader] = field(default_factory=dict)
    called: str = ""

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.repo_id or shown(self.called or self.folder)

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
        return replace(self, folder=folder, called=self.name)

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
        return _read(folder.resolve(), weights=weights, called=repo_id)
    # The snapshot's name is its commit, which pins the download of the weights to the same state.
    snapshot = _download(repo_id, revision, [*_FILES, INDEX_FILE])
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
        raise ValueError(f"{repo_id} is not a folder, and cannot be read from the Hub{at}: {reason}") from None


def _read(folder: Path, *, weights: bool, repo_id: str | None = None, called: str = "") -> BaseCheckpoint:
    sources = {name: path for name in _FILES if (path := plain_file(folder, name))}
    config = read_json(sources.get(CONFIG_FILE, folder / CONFIG_FILE))
    name = repo_id or shown(called or folder)
    _require_stock(config, name)
    for file, path in sources.items():
        if file.endswith(".json"):
            _require_data(file, path, name)
    weight_map: dict[str, str] = {}
    files: tuple[str, ...] = (SINGLE_FILE,)
    index = plain_file(folder, INDEX_FILE)
    # transformers takes the single file where there are both.
    if index is not None and plain_file(folder, SINGLE_FILE) is None:
        weight_map = read_json(index).get("weight_map")  # type: ignore[assignment]
        files = weight_names(weight_map, str(index))
        sources[INDEX_FILE] = index
    headers: dict[str, TensorHeader] = {}
    if weights:
        if not weight_map and plain_file(folder, SINGLE_FILE) is None:
            _refuse_without_safetensors(name, [path.name for path in folder.iterdir()])
        for file in files:
            path = plain_file(folder, file)
            if path is None:
                raise ValueError(f"{shown(folder / file)} is missing, although the index names it.")
            sources[file] = path
            there = read_headers(path)
            if missing := {tensor for tensor, at in weight_map.items() if at == file} - set(there):
                raise ValueError(f"{shown(folder / file)} lacks {min(missing)!r}, which the index promises.")
            headers |= there
    commit = folder.name if repo_id else None
    return BaseCheckpoint(folder, config, files, weight_map, repo_id, commit, sources, headers, called)


def _require_data(file: str, path: Path, name: str) -> None:
    """Raises for a JSON file that is none, and for one that leads out of the base."""
    content = parse_json(path.read_bytes(), f"{name}: {file}")
    if found := leads_away(file, content, allowed=ORIGINS):
        raise ValueError(
            f"{name} brings code or parts of its own, which are neither run nor published: in {file}, {found[0]}. Give "
            "a stock checkpoint, or a copy of this one without that field."
        )


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
    family = FAMILIES[model_type]
    for part in ("vision_config", "text_config"):
        value = config.get(part, None if part == "vision_config" else {})
        if not isinstance(value, dict) or (part == "vision_config" and not value):
            raise ValueError(
                f"{name} has the {part} {shown(repr(value)[:60])} in config.json: a JSON object is needed."
            )
    _require_numbers(config, name)
    tower = config["vision_config"].get("model_type")
    model_class = family.load_class()
    towers = model_class.towers
    if tower is not None and towers and tower not in towers:
        raise ValueError(
            f"{name} has a vision tower of the type {tower!r}: {family.title} checkpoints can be staged with "
            f"{' or '.join(map(repr, towers))}, whose images have a fixed number of tokens."
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

    for path in _POSITIVE:
        value = at(path)
        # Some towers have height and width.
        sides = (
            value
            if isinstance(value, list) and len(value) == 2 and path.endswith(("image_size", "patch_size"))
            else [value]
        )
        if value is not None and not all(type(side) is int and side >= 1 for side in sides):
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
    pairs = isinstance(pinpoints, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(side) is int and side > 0 for side in pair)
        for pair in pinpoints
    )
    if pinpoints is not None and (not pairs or not pinpoints):
        refuse("image_grid_pinpoints", "a list of pairs of height and width is needed")


def _refuse_without_safetensors(name: str, files: Iterable[str]) -> None:
    pickles = sorted(shown(file) for file in files if file.endswith((".bin", ".pt", ".pth", ".ckpt")))
    if pickles:
        raise ValueError(
            f"{name} has its weights only as {', '.join(pickles)}, and pickle files can run code: load it once with "
            "AutoModelForImageTextToText.from_pretrained and stage what its save_pretrained writes."
        )
    raise ValueError(f"{name} has no {SINGLE_FILE} and no {INDEX_FILE}: give a checkpoint with its weights.")
