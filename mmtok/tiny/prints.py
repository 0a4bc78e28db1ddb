"""Printed words and numbers: letters of two bold fonts, from a sheet that comes with the package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .sprites import DRAWINGS

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# Letters that are hard to mistake for another or for a digit.
LETTERS = "ABCEFHKLMNPRSTUX"
DIGITS = "0123456789"
COLORS = {
    "red": (200, 25, 30),
    "green": (20, 135, 45),
    "blue": (30, 60, 200),
    "purple": (140, 30, 160),
    "black": (15, 15, 15),
    "brown": (125, 75, 25),
}
FONTS = 2
SHORTEST, LONGEST = 3, 4

# Height of a character on the sheet, whose cells leave `EDGE` around it.
HEIGHT, EDGE, CELL = 48, 4, (56, 72)


@dataclass(frozen=True)
class Print:
    """A word or number on the image, in capitals.

    Attributes:
        text: its characters.
        color: a name of `COLORS`.
        font: row of the sheet.
        height: of the characters, in pixels.
        x, y: left and top of the first character, in pixels.
    """

    text: str
    color: str
    font: int
    height: float
    x: float = 0.0
    y: float = 0.0

    @property
    def kind(self) -> str:
        """ "number" or "word"."""
        return "number" if self.text.isdigit() else "word"

    def edges(self) -> NDArray[np.float64]:
        """Left and right of each character, in pixels from `x`: (characters, 2)."""
        scale = self.height / HEIGHT
        widths = np.array([_glyphs()[self.font, each].shape[1] * scale for each in self.text])
        left = np.concatenate([[0], np.cumsum(widths + 0.17 * self.height)[:-1]])
        return np.stack([left, left + widths], 1)

    @property
    def width(self) -> float:
        """Pixels from the first character to the end of the last."""
        return float(self.edges()[-1, 1])


@lru_cache(maxsize=1)
def _glyphs() -> dict[tuple[int, str], NDArray[np.uint8]]:
    """Cut the sheet: (font, character) -> (`HEIGHT`, width) uint8, 255 for ink."""
    with Image.open(DRAWINGS / "prints.png") as opened:
        sheet = np.asarray(opened.convert("L"))
    found = {}
    height, width = CELL
    for font in range(FONTS):
        for index, character in enumerate(CHARACTERS):
            cell = sheet[font * height : (font + 1) * height, index * width : (index + 1) * width]
            [columns] = np.nonzero(cell.max(0) > 64)
            found[font, character] = cell[EDGE : EDGE + HEIGHT, columns[0] : columns[-1] + 1]
    return found


@lru_cache(maxsize=20_000)
def _glyph(font: int, character: str, height: int, width: int) -> NDArray[np.float32]:
    drawn = Image.fromarray(_glyphs()[font, character]).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(drawn, np.float32) / 255


def paste_print(canvas: NDArray[np.float32], line: Print, scale: int, *, label: bool, rng: np.random.Generator) -> None:
    """Paint a print into a canvas, (height, width, 3), at whole pixels; `label`: on a bright label of its own."""
    ink = np.array(COLORS[line.color], np.float32) + rng.normal(0, 8, 3).astype(np.float32)
    top, left, height = round(scale * line.y), scale * line.x, max(2, round(scale * line.height))
    edges = left + scale * line.edges()
    if label:
        margin = round(0.3 * height)
        rows = slice(max(0, top - margin), top + height + margin)
        columns = slice(max(0, round(edges[0, 0]) - margin), round(edges[-1, 1]) + margin)
        canvas[rows, columns] = rng.uniform(205, 252) + rng.normal(0, 5, 3)
    for character, (first, last) in zip(line.text, edges, strict=True):
        alpha = _glyph(line.font, character, height, max(1, round(last - first)))[..., None]
        region = canvas[top : top + height, round(first) : round(first) + alpha.shape[1]]
        region += alpha[: region.shape[0], : region.shape[1]] * (ink - region)
