"""Seeded scenes: drawings of everyday objects on a background, with the truth about every patch.

A `Scene` is a value. Drawing it twice gives the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .backgrounds import SIDE, background
from .catalogue import NAMES, PLACES, frequencies, of_place
from .prints import Print, paste_print
from .sprites import SpriteSheet, packaged_sheets

PATCH = 12
GRID = SIDE // PATCH

# Backgrounds that training draws from, for each place; held-out scenes stand on others.
TRAINING_BACKGROUNDS = range(120)
HELD_OUT_BACKGROUNDS = range(1000, 1060)

# Two objects stay this part of their sizes apart, centre from centre: drawings rarely touch the edge of their box.
APART = 0.43

_FREQUENCIES = np.array(list(frequencies().values()))


@dataclass(frozen=True)
class SceneObject:
    """One drawing: where it stands and how it is changed.

    Attributes:
        name: what the questions call it.
        style, variant: which drawing of it.
        x, y: its centre in pixels, from the scene's top left corner.
        size: pixels of its longer side before it is turned.
        angle: degrees, counterclockwise.
        mirrored: left and right change places.
        tint: factors on red, green and blue.
    """

    name: str
    style: str
    variant: int
    x: float
    y: float
    size: float
    angle: float = 0.0
    mirrored: bool = False
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Scene:
    """Objects of which no two are of a kind, from back to front, on a background.

    Attributes:
        place: the kind of place that most objects are chosen for.
        objects: from back to front.
        backdrop: place and number of the background (see `background`).
        seed: of the sensor's noise and of what training changes.
        size: height and width in pixels.
        prints: the words and numbers printed on it; "" as the place of `backdrop` makes it a sheet of paper.
    """

    place: str
    objects: tuple[SceneObject, ...]
    backdrop: tuple[str, int]
    seed: int
    size: tuple[int, int] = (SIDE, SIDE)
    prints: tuple[Print, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What is shown, in the order of `objects`."""
        return tuple(item.name for item in self.objects)

    def image(self, scale: int = 1) -> Image.Image:
        """Draw the scene as an RGB image, `size` times `scale`, with the drawings that come with the package."""
        return Image.fromarray(draw(self, scale=scale).pixels)


@dataclass(frozen=True)
class SceneSettings:
    """How many objects a scene has, how large they are in pixels, and how often a class is shown.

    `even`: every class as often as any other, wherever it is; else by `frequencies`, most of them at home in the place.
    A scene holds fewer objects where no free place is found for another one.
    """

    fewest: int = 1
    most: int = 5
    smallest: float = 32.0
    largest: float = 62.0
    even: bool = False
    backgrounds: range = TRAINING_BACKGROUNDS

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most <= len(NAMES):
            raise ValueError(f"objects from {self.fewest} to {self.most}: the range has to lie in 1 to {len(NAMES)}.")
        if not 2 * PATCH <= self.smallest <= self.largest <= SIDE:
            raise ValueError(
                f"sizes from {self.smallest} to {self.largest}: the range has to lie in {2 * PATCH} to {SIDE}, "
                "two patches to the whole image."
            )


def sample_scene(
    settings: SceneSettings, rng: np.random.Generator, sheets: Mapping[str, SpriteSheet] | None = None
) -> Scene:
    """Draw a scene: the place, how many objects, which, where, and how each is turned and tinted.

    Args:
        settings: what may be drawn.
        rng: decides.
        sheets: style -> its drawings; by default those that come with the package.
    """
    sheets = packaged_sheets() if sheets is None else sheets
    place = PLACES[rng.integers(len(PLACES))]
    wanted = int(rng.integers(settings.fewest, settings.most + 1))
    objects: list[SceneObject] = []
    for _ in range(12 * wanted):
        if len(objects) == wanted:
            break
        size = rng.uniform(settings.smallest, settings.largest)
        x, y = rng.uniform(0.42 * size, SIDE - 0.42 * size, 2)
        name = _sample_name(place, settings.even, rng)
        free = all(np.hypot(x - o.x, y - o.y) >= APART * (size + o.size) for o in objects)
        if free and all(name != o.name for o in objects):
            objects.append(_sample_object(name, float(x), float(y), float(size), sheets, rng))
    backdrop = place if rng.random() < 0.75 else PLACES[rng.integers(len(PLACES))]
    number = settings.backgrounds[rng.integers(len(settings.backgrounds))]
    return Scene(place, tuple(objects), (backdrop, number), int(rng.integers(2**31)))


def _sample_name(place: str, even: bool, rng: np.random.Generator) -> str:
    if even:
        return NAMES[rng.integers(len(NAMES))]
    odds = _FREQUENCIES
    if rng.random() < 0.7:
        home = of_place(place)
        odds = np.array([share if name in home else 0 for name, share in zip(NAMES, odds, strict=True)])
    return NAMES[np.searchsorted(np.cumsum(odds), rng.random() * odds.sum(), side="right").clip(0, len(NAMES) - 1)]


def _sample_object(
    name: str, x: float, y: float, size: float, sheets: Mapping[str, SpriteSheet], rng: np.random.Generator
) -> SceneObject:
    styles = [style for style, sheet in sheets.items() if sheet.sprites[name]]
    style = styles[rng.integers(len(styles))]
    variant = int(rng.integers(len(sheets[style].sprites[name])))
    angle = float(np.clip(rng.normal(0, 14), -40, 40))
    mirrored = bool(rng.random() < 0.5)
    tint = rng.uniform(0.65, 1.15) * rng.uniform(0.9, 1.1, 3)
    return SceneObject(
        name, style, variant, x, y, size, angle, mirrored, (float(tint[0]), float(tint[1]), float(tint[2]))
    )


@dataclass(frozen=True)
class Drawing:
    """A scene as it was drawn.

    Attributes:
        pixels: (height, width, 3) uint8, the scene's size, or as many times as large as it was drawn.
        coverage: (objects, patches) float32, the share of each patch's pixels that shows each object, row by row.
    """

    pixels: NDArray[np.uint8]
    coverage: NDArray[np.float32]

    def labels(self, least: float = 0.08) -> NDArray[np.int64]:
        """Say what each patch shows: (patches,), an index into the scene's objects, or -1 for none of them.

        An object is shown where it covers `least` of a patch, and in any case in the patch that it covers most.
        """
        if not len(self.coverage):
            return np.full(self.coverage.shape[1], -1)
        labels = np.where(self.coverage.max(0) >= least, self.coverage.argmax(0), -1)
        for index, covered in enumerate(self.coverage):
            if covered.max() > 0 and not (labels == index).any():
                labels[covered.argmax()] = index
        return labels


def draw(
    scene: Scene,
    sheets: Mapping[str, SpriteSheet] | None = None,
    change: Callable[[Image.Image, np.random.Generator], Image.Image] | None = None,
    share_changed: float = 0.0,
    *,
    scale: int = 1,
    grid: int | tuple[int, int] = GRID,
) -> Drawing:
    """Draw a scene; the same scene gives the same pixels.

    Args:
        scene: what to draw.
        sheets: style -> its drawings; by default those that come with the package.
        change: redraws a share of the sprites, for training.
        share_changed: that share.
        scale: how many times as large as usual it is drawn.
        grid: patches a side of the truth about them, or rows and columns.

    Raises:
        KeyError: a style of the scene is not among the sheets.
    """
    sheets = packaged_sheets() if sheets is None else sheets
    rng = np.random.default_rng(scene.seed)
    height, width = (scale * side for side in scene.size)
    canvas = _empty_canvas(scene, height, width, rng)
    seen: NDArray[np.float32] = np.zeros((len(scene.objects), height, width), np.float32)
    for index, item in enumerate(scene.objects):
        sprite = sheets[item.style].sprites[item.name][item.variant]
        ratio = scale * item.size / max(sprite.size)
        size = max(2, round(sprite.width * ratio)), max(2, round(sprite.height * ratio))
        sprite = sprite.resize(size, Image.Resampling.BILINEAR)
        if change is not None and rng.random() < share_changed:
            sprite = change(sprite, rng)
        _paste(canvas, seen, index, sprite, replace(item, x=scale * item.x, y=scale * item.y))
    for line in scene.prints:
        paste_print(canvas, line, scale, label=bool(scene.backdrop[0]), rng=rng)
    canvas += rng.normal(0, 2, (height, width, 1)).astype(np.float32)
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    return Drawing(canvas.clip(0, 255).astype(np.uint8), _shares(seen, rows, columns))


def _empty_canvas(scene: Scene, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Paper, or the backdrop, stretched to the longer side where the scene is larger: (height, width, 3)."""
    if not scene.backdrop[0]:
        return np.full((height, width, 3), rng.uniform(215, 250) + rng.normal(0, 4, 3), np.float32)
    backdrop, side = background(*scene.backdrop), max(height, width)
    if side > SIDE:
        backdrop = np.asarray(Image.fromarray(backdrop).resize((side, side), Image.Resampling.BICUBIC))
    return backdrop[:height, :width].astype(np.float32) * rng.uniform(0.85, 1.12)


def _shares(seen: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Average over the cells of a grid: (objects, height, width) to (objects, rows * columns)."""
    count, height, width = seen.shape
    if height % rows == 0 == width % columns:
        cells = seen.reshape(count, rows, height // rows, columns, width // columns)
        return cells.mean((2, 4)).reshape(count, rows * columns)
    resized = [Image.fromarray(own).resize((columns, rows), Image.Resampling.BOX) for own in seen]
    return np.array([np.asarray(own).ravel() for own in resized], np.float32).reshape(count, rows * columns)


def _paste(
    canvas: NDArray[np.float32], seen: NDArray[np.float32], index: int, sprite: Image.Image, item: SceneObject
) -> None:
    """Paint a sprite over the canvas with a soft shadow, and note which pixels show which object."""
    if item.mirrored:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(sprite.rotate(item.angle, Image.Resampling.BILINEAR, expand=True), np.float32)
    height, width = pixels.shape[:2]
    top, left = round(item.y - height / 2), round(item.x - width / 2)
    first_row, first_column = max(0, top), max(0, left)
    last_row, last_column = min(canvas.shape[0], top + height), min(canvas.shape[1], left + width)
    pixels = pixels[first_row - top : last_row - top, first_column - left : last_column - left]
    alpha = pixels[..., 3:] / 255
    shadow = canvas[first_row + 2 : last_row + 2, first_column:last_column]
    shadow *= 1 - 0.25 * alpha[: len(shadow)]
    region = np.s_[first_row:last_row, first_column:last_column]
    painted = (pixels[..., :3] * np.array(item.tint, np.float32)).clip(0, 255)
    canvas[region] = canvas[region] * (1 - alpha) + painted * alpha
    seen[:, first_row:last_row, first_column:last_column] *= 1 - alpha[..., 0]
    seen[index][region] = alpha[..., 0]
