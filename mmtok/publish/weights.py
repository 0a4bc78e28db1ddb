"""Weight files: what their headers say, files that are headers only, and the same bytes in another folder.

A safetensors file begins with a header that names every tensor with its type and shape. A file with the same header
and a hole in the place of the data takes no space on the disk, and on torch's meta device no memory; the real loader
says of it whether names and shapes fit, whatever the size of the model.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from .repository import INDEX_FILE, shown

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
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (it is no mapping)
            return {name: TensorHeader(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{shown(path)} is damaged or no safetensors file: {error}") from error


def write_hollow(folder: Path, tensors: Mapping[str, TensorHeader]) -> None:
    """Writes weight files that have headers and no data, and their index."""
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
