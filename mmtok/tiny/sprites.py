"""Sprite sheets: the drawings of a style in one PNG, with an index of where each object's are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from PIL import Image

DRAWINGS = Path(__file__).resolve().parent / "drawings"


@dataclass(frozen=True)
class SpriteSheet:
    """The drawings of one style.

    Attributes:
        style: its name, such as "noto".
        sprites: object name -> its drawings, RGBA.
    """

    style: str
    sprites: Mapping[str, tuple[Image.Image, ...]]


@lru_cache(maxsize=1)
def packaged_sheets() -> Mapping[str, SpriteSheet]:
    """Read the sheets that the package comes with, once."""
    return MappingProxyType(load_sheets(DRAWINGS))


def load_sheets(*folders: Path) -> dict[str, SpriteSheet]:
    """Read all sheets of some folders: style -> sheet, in the order of the styles' names.

    Raises:
        FileNotFoundError: a folder has no sheet.
    """
    sheets = {}
    for folder in folders:
        indices = sorted(folder.glob("*.json"))
        if not indices:
            raise FileNotFoundError(f"{folder} has no sprite sheet: a STYLE.json with a STYLE.png beside it.")
        for path in indices:
            boxes = json.loads(path.read_text(encoding="utf-8"))
            with Image.open(path.with_suffix(".png")) as opened:
                sheet = opened.convert("RGBA")
            sprites = {name: tuple(sheet.crop(tuple(box)) for box in found) for name, found in boxes.items()}
            sheets[path.stem] = SpriteSheet(path.stem, sprites)
    return dict(sorted(sheets.items()))
