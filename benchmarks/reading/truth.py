"""What every vision token of a scene shows, at the scene's size or shrunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mmtok.tiny.prints import CHARACTERS, COLORS
from mmtok.tiny.reading import NAMES
from mmtok.tiny.scenes import Scene

from .architecture import PLACES, character_place

NONE, UNKNOWN = len(CHARACTERS), -1
KINDS = ("word", "number")
# Characters of fewer pixels are not asked of the tower.
READABLE = 6.0


@dataclass
class Truth:
    """Of one scene, or stacked of several, in a grid of rows x columns tokens, T in all.

    Attributes:
        objects: (T, names) float32, how much of a token is written with each object.
        colors, kinds: (T, colors), (T, 2) float32, how much of a print of the colour, or of the kind, a token shows.
        places: (T, PLACES) int64, the character at each place; `NONE` for none, `UNKNOWN` where there is no telling.
        halves: (2 rows, 4 columns) int64, the character whose middle lies in this half of a patch; the same.
    """

    objects: torch.Tensor
    colors: torch.Tensor
    kinds: torch.Tensor
    places: torch.Tensor
    halves: torch.Tensor

    @property
    def shares(self) -> torch.Tensor:
        """(T,) how much of a token shows something."""
        return torch.cat([self.objects, self.kinds], -1).amax(-1)


def stacked(truths: list[Truth]) -> Truth:
    """Join the truths of scenes of one grid in front."""
    fields = ("objects", "colors", "kinds", "places", "halves")
    return Truth(*(torch.stack([getattr(truth, field) for truth in truths]) for field in fields))


def scene_truth(scene: Scene, coverage: NDArray[np.float32], rows: int, columns: int) -> Truth:
    """Tell what tokens show.

    Args:
        scene: the scene.
        coverage: (objects, rows * columns), see `Drawing`.
        rows, columns: of the grid; fewer than the scene's own where it is shrunk.
    """
    objects: NDArray[np.float32] = np.zeros((rows * columns, len(NAMES)), np.float32)
    for name, covered in zip(scene.names, coverage, strict=True):
        best = max(covered.max(), 0.03)
        share = np.clip((covered - 0.03) / min(0.12, 0.6 * best), 0, 1)
        share *= 0.5 + 0.5 * np.clip(covered / min(best, 0.9), 0, 1)
        share[covered.argmax()] = max(share[covered.argmax()], 0.8)
        objects[:, NAMES.index(name)] = share
    colors: NDArray[np.float32] = np.zeros((rows, columns, len(COLORS)), np.float32)
    kinds: NDArray[np.float32] = np.zeros((rows, columns, len(KINDS)), np.float32)
    places = np.full((rows, columns, PLACES), NONE)
    halves = np.full((2 * rows, 4 * columns), NONE)
    down, across = rows / scene.size[0], columns / scene.size[1]
    for line in scene.prints:
        top, bottom = line.y * down, (line.y + line.height) * down
        readable = line.height * down * 28 >= READABLE
        color, kind = list(COLORS).index(line.color), KINDS.index(line.kind)
        for index, (character, edges) in enumerate(zip(line.text, line.edges(), strict=True)):
            left, right = (line.x + edges) * across
            covered = np.outer(_overlap(top, bottom, rows), _overlap(left, right, columns))
            covered /= min(1.0, (bottom - top) * (right - left))
            row, column = min(rows - 1, int((top + bottom) / 2)), min(columns - 1, int((left + right) / 2))
            shown = np.clip(1.4 * covered, 0, 1)
            shown[row, column] = 1
            colors[..., color] = np.maximum(colors[..., color], shown)
            kinds[..., kind] = np.maximum(kinds[..., kind], shown)
            value = CHARACTERS.index(character) if readable else UNKNOWN
            at = places[..., character_place(index, len(line.text))]
            covered[row, column] = 0
            at[(covered > 0.2) & (at == NONE)] = UNKNOWN
            at[row, column] = value if at[row, column] in (NONE, UNKNOWN) else UNKNOWN
            near = halves[int(2 * top) : int(2 * bottom) + 1, int(4 * left) : int(4 * right) + 1]
            near[near == NONE] = UNKNOWN
            middle = min(2 * rows - 1, int(top + bottom)), min(4 * columns - 1, int(2 * (left + right)))
            halves[middle] = value if halves[middle] in (NONE, UNKNOWN) else UNKNOWN
    flat = (rows * columns, -1)
    parts = (objects, colors.reshape(flat), kinds.reshape(flat), places.reshape(flat), halves)
    return Truth(*(torch.from_numpy(part) for part in parts))


def _overlap(start: float, stop: float, count: int) -> NDArray[np.float64]:
    """How much of each of `count` unit cells lies between two places: (count,)."""
    cells = np.arange(count)
    return np.clip(np.minimum(cells + 1, stop) - np.maximum(cells, start), 0, None)
