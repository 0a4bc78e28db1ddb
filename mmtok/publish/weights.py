"""The weight files of a base in a staged folder: the same bytes, and where possible the same blocks on the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tqdm import tqdm

from .base import INDEX_FILE, BaseCheckpoint


def place_weights(base: BaseCheckpoint, folder: Path, *, link: bool = True) -> bool:
    """Puts the base's safetensors files, and their index, into `folder`.

    A hard link shares its bytes with the base: who writes into one file changes both. Nothing here or in transformers
    does, `save_pretrained` writes new files; `link=False` copies all the same.

    Returns:
        Whether every file is linked. Where the file system cannot link, a file is copied.
    """
    linked = [link and _linked(base.folder / name, folder / name) for name in base.weight_files]
    copies = [name for name, done in zip(base.weight_files, linked, strict=True) if not done]
    for name in tqdm(copies, desc="Copying weights", unit="file", disable=not copies):
        shutil.copyfile(base.folder / name, folder / name)
    if base.weight_map:
        shutil.copyfile(base.folder / INDEX_FILE, folder / INDEX_FILE)
    return all(linked)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)  # a file in the Hub's cache is a symbolic link to its blob
    except OSError:  # another file system, or one without hard links
        return False
    return True
