"""Checks that weights fit a staged folder although they are not here: the real loader, on files with nothing in them.

safetensors files begin with a header that names every tensor with its type and shape. Written with the base's header
and a hole in the place of the data, such a file takes no space on the disk; loaded onto torch's meta device, no data
stay in memory. What remains is what can go wrong: the mapping of the names, and the shapes.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BITS = {"BOOL": 8, "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16}
_BITS |= {"I16": 16, "U16": 16, "I8": 8, "U8": 8, "F8_E4M3": 8, "F8_E5M2": 8}
_LARGEST_FILE = 4 * 2**30


@dataclass(frozen=True)
class TensorHeader:
    """Type, as safetensors spells it, and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def check_fit(folder: Path, tensors: Mapping[str, TensorHeader]) -> int:
    """Loads a staged folder in a clean process with weights that are headers only.

    Args:
        folder: the staged folder; weights in it are not read.
        tensors: the base's tensors by name, those of all its files.

    Returns:
        The number of tensors.

    Raises:
        CheckFailed: a tensor is missing, unexpected or of another shape, or the class does not load.
    """
    # Imported late, as this file is also the program that runs there.
    from .clean_process import CheckFailed, run_clean
    from .families import installed_modules

    with tempfile.TemporaryDirectory(prefix="mmtok-fit-") as scratch:
        model = Path(scratch) / "model"
        model.mkdir()
        for source in folder.iterdir():
            if source.suffix in (".py", ".json") and not source.name.endswith(".index.json"):
                (model / source.name).write_bytes(source.read_bytes())
        _write_headers(model, tensors)
        ended = run_clean([__file__, str(model), *installed_modules()])
    if ended.returncode or not ended.stdout.strip():
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        raise CheckFailed(f"The staged code does not load the base: {lines[-1] if lines else 'the process ended'}")
    problems = json.loads(ended.stdout.splitlines()[-1])
    if problems:
        raise CheckFailed(f"The base's {len(tensors)} tensors do not fit the staged model: {'; '.join(problems)}.")
    return len(tensors)


def _write_headers(model: Path, tensors: Mapping[str, TensorHeader]) -> None:
    """Files of a few gigabytes each: a system may refuse to map one that is larger than its memory."""
    weight_map: dict[str, str] = {}
    group: dict[str, TensorHeader] = {}
    for name, tensor in tensors.items():
        if group and sum(map(_size, group.values())) + _size(tensor) > _LARGEST_FILE:
            weight_map |= _write_group(model, group, len(weight_map))
            group = {}
        group[name] = tensor
    weight_map |= _write_group(model, group, len(weight_map))
    index = {"metadata": {}, "weight_map": weight_map}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_group(model: Path, group: Mapping[str, TensorHeader], number: int) -> dict[str, str]:
    file = f"model-{number}.safetensors"
    _write_hollow_file(model / file, group)
    return dict.fromkeys(group, file)


def _size(tensor: TensorHeader) -> int:
    if tensor.dtype not in _BITS:
        raise ValueError(f"A tensor has the type {tensor.dtype}: only {', '.join(_BITS)} can be checked.")
    return math.prod(tensor.shape) * _BITS[tensor.dtype] // 8


def _write_hollow_file(path: Path, tensors: Mapping[str, TensorHeader]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + _size(tensor)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        os.truncate(file.fileno(), 8 + len(encoded) + end)


def _main(folder: str, *blocked: str) -> int:
    for name in blocked:
        sys.modules[name] = None  # type: ignore[assignment]  # importing them fails: the folder has to stand alone
    import transformers
    from transformers import AutoModelForImageTextToText

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    _, loaded = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype="auto",
        device_map="meta",
        trust_remote_code=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are reported then, not raised
    )
    problems = [
        f"{len(keys)} {what.replace('_', ' ')}, {sorted(map(str, keys))[0]}" for what, keys in loaded.items() if keys
    ]
    print(json.dumps(problems))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
