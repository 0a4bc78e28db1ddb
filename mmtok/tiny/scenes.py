"""Seeded images of coloured shapes on textured backgrounds, with ground truth.

A `Scene` is a value: its settings, its objects and the seed of its texture. Rendering it twice gives the same pixels,
and the ground truth (which patch shows which object) needs no rendering.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
    "purple": (150, 60, 190),
    "orange": (240, 140, 30),
    "cyan": (60, 200, 220),
    "pink": (245, 130, 180),
}

Offsets: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]


def _star(dx: Offsets, dy: Offsets) -> Mask:
    reach = 0.62 + 0.38 * np.sin(5 * np.arctan2(-dy, dx))
    return np.hypot(dx, dy) <= reach


# Each shape as a test on offsets from its centre, in units of its radius: x to the right, y downwards.
SHAPES: dict[str, Callable[[Offsets, Offsets], Mask]] = {
    "circle": lambda dx, dy: np.hypot(dx, dy) <= 1.0,
    "square": lambda dx, dy: np.maximum(np.abs(dx), np.abs(dy)) <= 0.85,
    "triangle": lambda dx, dy: (np.abs(dy) <= 0.8) & (np.abs(dx) <= 0.6 * (dy + 0.8)),
    "diamond": lambda dx, dy: np.abs(dx) + np.abs(dy) <= 1.0,
    "cross": lambda dx, dy: (np.minimum(np.abs(dx), np.abs(dy)) <= 0.33) & (np.maximum(np.abs(dx), np.abs(dy)) <= 1.0),
    "ring": lambda dx, dy: (np.hypot(dx, dy) <= 1.0) & (np.hypot(dx, dy) >= 0.55),
    "star": _star,
    "bar": lambda dx, dy: (np.abs(dx) <= 1.0) & (np.abs(dy) <= 0.35),
}

_COLOR_NAMES = tuple(COLORS)
_SHAPE_NAMES = tuple(SHAPES)

# The least share of a patch's pixels that an object has to paint for the patch to count as showing it.
PATCH_COVERAGE = 1 / 8


@dataclass(frozen=True)
class SceneObject:
    """One shape: centre and radius in pixels, the centre from the image's top left corner."""

    color: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        """What the questions call it, such as "red circle"."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class SceneSettings:
    """How scenes are drawn: sizes in pixels, counts and radii as inclusive ranges.

    A scene may hold fewer than `min_objects` where no free place is found for another one.
    """

    size: int = 96
    patch_size: int = 8
    min_objects: int = 1
    max_objects: int = 5
    min_radius: float = 7.0
    max_radius: float = 12.0
    gap: float = 2.0

    def __post_init__(self) -> None:
        if self.size < 1 or self.patch_size < 1 or self.size % self.patch_size:
            raise ValueError(f"size {self.size} has to be a positive multiple of patch_size {self.patch_size}.")
        if not 1 <= self.min_objects <= self.max_objects <= len(COLORS) * len(SHAPES):
            raise ValueError(
                f"objects from {self.min_objects} to {self.max_objects}: the range has to lie in 1 to "
                f"{len(COLORS) * len(SHAPES)}, since no two objects of a scene are alike."
            )
        if not 0 < self.min_radius <= self.max_radius < self.size / 2:
            raise ValueError(
                f"radii from {self.min_radius} to {self.max_radius}: the range has to lie in 0 to {self.size / 2}, "
                "half the image's size."
            )

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.size // self.patch_size


@dataclass(frozen=True)
class Scene:
    """Objects that do not touch, no two of the same colour and shape, on a texture drawn from `texture_seed`."""

    settings: SceneSettings
    objects: tuple[SceneObject, ...]
    texture_seed: int

    def pixels(self) -> NDArray[np.uint8]:
        """Render the scene: uint8, (size, size, 3)."""
        settings = self.settings
        rng = np.random.default_rng(self.texture_seed)
        tone = rng.uniform(90, 200, 3).astype(np.float32)
        blocks = 12 * rng.standard_normal((settings.grid, settings.grid, 3), dtype=np.float32) + tone
        canvas = blocks.repeat(settings.patch_size, axis=0).repeat(settings.patch_size, axis=1)
        for item in self.objects:
            rows, columns, mask = _painted(item, settings)
            canvas[rows, columns][mask] = COLORS[item.color]
        canvas += 6 * rng.standard_normal(canvas.shape, dtype=np.float32)
        return canvas.clip(0, 255).astype(np.uint8)

    def image(self) -> Image.Image:
        """Render the scene as an RGB image."""
        return Image.fromarray(self.pixels())

    def patch_labels(self) -> NDArray[np.int64]:
        """Say what each patch shows: int64, (grid * grid,), row by row; an index into `objects`, or -1 for none."""
        settings = self.settings
        grid, patch = settings.grid, settings.patch_size
        labels: NDArray[np.int64] = np.full((grid, grid), -1, dtype=np.int64)
        most = np.full((grid, grid), PATCH_COVERAGE * patch * patch)
        for index, item in enumerate(self.objects):
            rows, columns, mask = _painted(item, settings)
            first_row, first_column = rows.start // patch, columns.start // patch
            last_row, last_column = (rows.stop - 1) // patch, (columns.stop - 1) // patch
            window = np.zeros(((last_row - first_row + 1) * patch, (last_column - first_column + 1) * patch))
            top, left = rows.start - first_row * patch, columns.start - first_column * patch
            window[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            counts = window.reshape(last_row - first_row + 1, patch, last_column - first_column + 1, patch).sum((1, 3))
            region = np.s_[first_row : last_row + 1, first_column : last_column + 1]
            wins = counts >= most[region]
            labels[region][wins] = index
            most[region][wins] = counts[wins]
        return labels.reshape(-1)


def sample_scene(settings: SceneSettings, rng: np.random.Generator) -> Scene:
    """Draw a scene: how many objects, where, what they are and the seed of the background."""
    wanted = int(rng.integers(settings.min_objects, settings.max_objects + 1))
    objects: list[SceneObject] = []
    for _ in range(20 * wanted):
        if len(objects) == wanted:
            break
        radius = rng.uniform(settings.min_radius, settings.max_radius)
        x, y = rng.uniform(radius, settings.size - radius, 2)
        color, shape = _COLOR_NAMES[rng.integers(len(COLORS))], _SHAPE_NAMES[rng.integers(len(SHAPES))]
        fits = all(np.hypot(x - o.x, y - o.y) >= radius + o.radius + settings.gap for o in objects)
        if fits and all((color, shape) != (o.color, o.shape) for o in objects):
            objects.append(SceneObject(color, shape, float(x), float(y), float(radius)))
    return Scene(settings, tuple(objects), texture_seed=int(rng.integers(2**31)))


def _painted(item: SceneObject, settings: SceneSettings) -> tuple[slice, slice, Mask]:
    """Return the rows and columns of the object's box and which of the box's pixels it paints."""
    start_y, stop_y = max(0, int(item.y - item.radius)), min(settings.size, int(item.y + item.radius) + 2)
    start_x, stop_x = max(0, int(item.x - item.radius)), min(settings.size, int(item.x + item.radius) + 2)
    dy = (np.arange(start_y, stop_y, dtype=np.float32)[:, None] - np.float32(item.y)) / np.float32(item.radius)
    dx = (np.arange(start_x, stop_x, dtype=np.float32)[None, :] - np.float32(item.x)) / np.float32(item.radius)
    dy, dx = np.broadcast_arrays(dy, dx)
    return slice(start_y, stop_y), slice(start_x, stop_x), SHAPES[item.shape](dx, dy)
