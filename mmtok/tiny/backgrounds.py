"""Procedural backgrounds: a park, a farm, a savanna, a beach, a street, a room, a kitchen, each seeded.

Nothing is read from a file, so that scenes can be drawn wherever the package is installed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Canvas: TypeAlias = NDArray[np.float32]
Color: TypeAlias = tuple[int, int, int]

# Pixels a side; scenes that are drawn larger stretch it.
SIDE = 144


@lru_cache(maxsize=2048)
def background(place: str, number: int) -> NDArray[np.uint8]:
    """Draw a background: uint8, (SIDE, SIDE, 3), read-only; one of any number of them for each place.

    Raises:
        KeyError: `place` is none of `PLACES`.
    """
    paint = _PAINTERS[place]
    rng = np.random.default_rng([number, *place.encode()])
    canvas: Canvas = np.zeros((SIDE, SIDE, 3), np.float32)
    paint(canvas, int(SIDE * rng.uniform(0.22, 0.55)), rng)
    if rng.random() < 0.5:
        canvas = canvas[:, ::-1]
    canvas = canvas * rng.uniform(0.7, 1.1) + rng.normal(0, 4, 3)
    drawn = canvas.clip(0, 255).astype(np.uint8)
    drawn.setflags(write=False)
    return drawn


def _noise(rng: np.random.Generator, height: int, width: int, rows: int, columns: int) -> Canvas:
    """Smooth noise with about `rows` x `columns` blobs, zero mean and unit variance: (height, width)."""
    coarse = Image.fromarray(rng.standard_normal((max(1, rows), max(1, columns)), dtype=np.float32))
    drawn = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return (drawn - drawn.mean()) / (drawn.std() + 1e-6)


def _fractal(rng: np.random.Generator, height: int, width: int, blobs: int = 2) -> Canvas:
    """Noise of five scales, each twice as fine and half as strong as the one before: (height, width), -1 ... 1."""
    layers = [_noise(rng, height, width, blobs << i, blobs << i) * 0.55**i for i in range(5)]
    drawn = np.sum(layers, axis=0, dtype=np.float32)
    return drawn / (np.abs(drawn).max() + 1e-6)


def _between(rng: np.random.Generator, first: Color, second: Color) -> Canvas:
    """A colour between two: (3,)."""
    low, high = np.array(first, np.float32), np.array(second, np.float32)
    return low + np.float32(rng.random()) * (high - low)


def _textured(color: Canvas, texture: Canvas, contrast: float) -> Canvas:
    return color * (1 + contrast * texture[..., None])


def _grass(rng: np.random.Generator, height: int, color: Canvas, contrast: float) -> Canvas:
    """Blades: noise that is finer across than along, at two scales, on patches of light and shade."""
    blades = _noise(rng, height, SIDE, height // 5, SIDE // 2) + 0.7 * _noise(rng, height, SIDE, height // 2, SIDE)
    return _textured(color, blades / 1.2, contrast) * (1 + 0.1 * _fractal(rng, height, SIDE)[..., None])


def _grains(rng: np.random.Generator, height: int, color: Canvas, contrast: float) -> Canvas:
    """Sand, gravel, asphalt."""
    grains = 0.8 * rng.standard_normal((height, SIDE), dtype=np.float32) + _noise(rng, height, SIDE, height // 2, 72)
    return _textured(color, grains / 1.3, contrast)


def _sky(rng: np.random.Generator, height: int) -> Canvas:
    top = _between(rng, (90, 150, 215), (150, 190, 235))
    bottom = _between(rng, (190, 215, 235), (235, 225, 210))
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    clouds = np.clip(1.6 * _fractal(rng, height, SIDE) - rng.uniform(0, 0.5), 0, 1)[..., None] * rng.uniform(0.3, 0.9)
    return np.asarray((top * (1 - down) + bottom * down) * (1 - clouds) + 245 * clouds, np.float32)


def _planks(rng: np.random.Generator, height: int, color: Canvas) -> Canvas:
    grain = _noise(rng, height, SIDE, height, 6)
    boards: Canvas = np.ones((height, SIDE), np.float32)
    edges = np.linspace(0, height, int(rng.integers(4, 9)) + 1).astype(int)
    for start, stop in itertools.pairwise(edges):
        boards[start:stop] = rng.uniform(0.88, 1.08)
        boards[stop - 1 : stop] = 0.65
    return color * (boards * (1 + 0.06 * grain))[..., None]


def _meadow(canvas: Canvas, horizon: int, rng: np.random.Generator) -> None:
    canvas[:horizon] = _sky(rng, horizon)
    if rng.random() < 0.5:
        heights = 6 + 12 * np.abs(_fractal(rng, 1, SIDE)[0])
        hills = np.arange(horizon)[:, None] >= horizon - heights[None, :]
        canvas[:horizon][hills] = _between(rng, (70, 115, 75), (75, 118, 80))
    color = _between(rng, (80, 135, 50), (130, 165, 75))
    canvas[horizon:] = _grass(rng, SIDE - horizon, color, 0.2)


def _savanna(canvas: Canvas, horizon: int, rng: np.random.Generator) -> None:
    canvas[:horizon] = _sky(rng, horizon)
    canvas[horizon:] = _grass(rng, SIDE - horizon, _between(rng, (190, 160, 95), (205, 180, 120)), 0.13)


def _beach(canvas: Canvas, horizon: int, rng: np.random.Generator) -> None:
    canvas[:horizon] = _sky(rng, horizon)
    shore = int(horizon + (SIDE - horizon) * rng.uniform(0.25, 0.5))
    waves = _noise(rng, shore - horizon, SIDE, shore - horizon, 8)
    canvas[horizon:shore] = _textured(_between(rng, (40, 120, 160), (70, 160, 180)), waves, 0.1)
    canvas[shore:] = _grains(rng, SIDE - shore, _between(rng, (215, 190, 140), (230, 210, 170)), 0.06)


def _street(canvas: Canvas, horizon: int, rng: np.random.Generator) -> None:
    canvas[:horizon] = _sky(rng, horizon)
    left = 0
    while left < SIDE:
        right = left + int(rng.integers(14, 40))
        roof, wall = int(horizon * rng.uniform(0, 0.8)), _between(rng, (110, 95, 90), (190, 180, 170))
        canvas[roof:horizon, left:right] = wall
        for y in range(roof + 4, horizon - 4, 8):
            for x in range(left + 3, min(SIDE, right) - 4, 7):
                canvas[y : y + 4, x : x + 3] = wall * rng.choice([0.6, 1.2])
        left = right
    kerb = horizon + int((SIDE - horizon) * rng.uniform(0.08, 0.25))
    canvas[horizon:kerb] = _grains(rng, kerb - horizon, _between(rng, (150, 148, 142), (180, 176, 170)), 0.05)
    canvas[kerb:] = _grains(rng, SIDE - kerb, _between(rng, (85, 86, 90), (120, 120, 122)), 0.08)
    if rng.random() < 0.7:
        line = kerb + int((SIDE - kerb) * rng.uniform(0.3, 0.6))
        for x in range(int(rng.integers(-20, 0)), SIDE, 36):
            canvas[line : line + 3, max(0, x) : max(0, x + 20)] = 215


def _room(canvas: Canvas, horizon: int, rng: np.random.Generator) -> None:
    wall = _between(rng, (170, 160, 150), (225, 220, 205)) + rng.uniform(-20, 20, 3).astype(np.float32)
    canvas[:] = _textured(wall, _fractal(rng, SIDE, SIDE), 0.03)
    if rng.random() < 0.25:
        bricks: Canvas = np.ones((SIDE, SIDE), np.float32)
        bricks[::8] = 0.85
        for index, top in enumerate(range(0, SIDE, 8)):
            bricks[top : top + 8, (index % 2) * 8 :: 16] = 0.85
        canvas[:] = wall * 0.85 * bricks[..., None] * (1 + 0.05 * _noise(rng, SIDE, SIDE, 72, 72)[..., None])
    floor = int(SIDE * rng.uniform(0.55, 0.8))
    canvas[floor - 3 : floor] = wall * 1.12
    canvas[floor:] = _planks(rng, SIDE - floor, _between(rng, (120, 80, 50), (185, 140, 95)))


def _kitchen(canvas: Canvas, horizon: int, rng: np.random.Generator) -> None:
    tiles, side = _between(rng, (185, 200, 200), (235, 235, 225)), int(rng.integers(12, 24))
    canvas[:] = tiles
    canvas[::side] = tiles * 0.85
    canvas[:, ::side] = tiles * 0.85
    table = int(SIDE * rng.uniform(0.1, 0.6))
    canvas[table:] = _planks(rng, SIDE - table, _between(rng, (130, 95, 65), (210, 175, 130)))


_PAINTERS: dict[str, Callable[[Canvas, int, np.random.Generator], None]] = {
    "park": _meadow,
    "farm": _meadow,
    "savanna": _savanna,
    "beach": _beach,
    "street": _street,
    "room": _room,
    "kitchen": _kitchen,
}
