"""Scenes of any size with objects and print on them, and questions about both: what the embedded Qwen2.5-VL knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .catalogue import PLACES
from .prints import COLORS, DIGITS, FONTS, LETTERS, LONGEST, SHORTEST, Print
from .questions import Negative, Question, absent_question, count_question, present_question, what_question
from .scenes import HELD_OUT_BACKGROUNDS, TRAINING_BACKGROUNDS, Scene, SceneObject
from .sprites import SpriteSheet, packaged_sheets

# Pixels a side of what becomes one vision token: 2 x 2 patches of 14.
TOKEN = 28
STYLE = "noto"
VARIANTS = 2
NAMES = (
    *("dog", "cat", "bird", "horse", "cow", "elephant"),
    *("banana", "apple", "carrot", "pizza", "donut", "cake"),
    *("bicycle", "car", "airplane", "bus", "train", "boat"),
    *("chair", "couch", "bed", "umbrella", "ball", "clock"),
)
Kind = Literal["mixed", "objects", "signs", "page"]
KINDS: tuple[Kind, ...] = ("mixed", "objects", "signs", "page")


@dataclass(frozen=True)
class ReadingSettings:
    """What is drawn.

    Attributes:
        odds: of each of `KINDS`: objects and signs, objects alone, signs alone, a page of lines.
        objects, prints: fewest and most of a scene that has any; of a page `lines`.
        sizes: of the objects, in pixels of the longer side.
        heights: of the characters, in pixels.
        backgrounds: numbers of the backgrounds.
    """

    odds: tuple[float, float, float, float] = (0.5, 0.15, 0.15, 0.2)
    objects: tuple[int, int] = (1, 5)
    prints: tuple[int, int] = (1, 3)
    lines: tuple[int, int] = (3, 6)
    sizes: tuple[float, float] = (40, 96)
    heights: tuple[float, float] = (14, 28)
    backgrounds: range = TRAINING_BACKGROUNDS


HELD_OUT = ReadingSettings(odds=(0.4, 0.2, 0.15, 0.25), heights=(18, 28), backgrounds=HELD_OUT_BACKGROUNDS)


def sample_reading_scene(
    settings: ReadingSettings,
    rows: int,
    columns: int,
    rng: np.random.Generator,
    sheets: Mapping[str, SpriteSheet] | None = None,
    kind: Kind | None = None,
) -> Scene:
    """Draw a scene of `rows` x `columns` vision tokens: no two objects of a kind, no two prints of a colour, none
    over another. It holds fewer where no free place is found."""
    kind = kind or KINDS[rng.choice(len(KINDS), p=settings.odds)]
    size = rows * TOKEN, columns * TOKEN
    taken: list[tuple[float, float, float, float]] = []
    prints, objects = [], []
    if kind != "objects":
        count = int(rng.integers(*(settings.lines if kind == "page" else settings.prints), endpoint=True))
        for color in rng.permutation(list(COLORS))[:count]:
            line = Print(_sample_text(rng), str(color), int(rng.integers(FONTS)), _log_uniform(settings.heights, rng))
            margin = (0.4 if kind == "page" else 0.35) * line.height
            free = _free_place(line.height + 2 * margin, line.width + 2 * margin, size, taken, rng)
            if free:
                prints.append(replace(line, x=free[1] + margin, y=free[0] + margin))
    if kind in ("mixed", "objects"):
        count = int(rng.integers(*settings.objects, endpoint=True))
        for name in rng.permutation(NAMES)[:count]:
            item = _sample_object(str(name), settings, packaged_sheets() if sheets is None else sheets, rng)
            free = _free_place(0.9 * item.size, 0.9 * item.size, size, taken, rng)
            if free:
                objects.append(replace(item, y=free[0] + 0.45 * item.size, x=free[1] + 0.45 * item.size))
    place = PLACES[rng.integers(len(PLACES))]
    number = settings.backgrounds[rng.integers(len(settings.backgrounds))]
    backdrop = ("", 0) if kind == "page" else (place, number)
    return Scene(place, tuple(objects), backdrop, int(rng.integers(2**31)), size, tuple(prints))


def _log_uniform(limits: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))


def _sample_text(rng: np.random.Generator) -> str:
    characters = DIGITS if rng.random() < 0.5 else LETTERS
    return "".join(rng.choice(list(characters), int(rng.integers(SHORTEST, LONGEST + 1))))


def _sample_object(
    name: str, settings: ReadingSettings, sheets: Mapping[str, SpriteSheet], rng: np.random.Generator
) -> SceneObject:
    variant = int(rng.integers(min(VARIANTS, len(sheets[STYLE].sprites[name]))))
    tint = rng.uniform(0.7, 1.12) * rng.uniform(0.93, 1.07, 3)
    return SceneObject(
        name,
        STYLE,
        variant,
        0,
        0,
        _log_uniform(settings.sizes, rng),
        angle=float(rng.uniform(-16, 16)),
        mirrored=bool(rng.random() < 0.5),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
    )


def _free_place(
    height: float,
    width: float,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
    rng: np.random.Generator,
) -> tuple[float, float] | None:
    """Find top and left of a box that lies in the scene and over no other, and note it; None after 15 attempts."""
    if height > size[0] - 4 or width > size[1] - 4:
        return None
    for _ in range(15):
        top, left = rng.uniform(2, size[0] - height - 2), rng.uniform(2, size[1] - width - 2)
        bottom, right = top + height, left + width
        if all(bottom <= a or c <= top or right <= b or d <= left for a, b, c, d in taken):
            taken.append((top, left, bottom, right))
            return top, left
    return None


def color_question(line: Print) -> Question:
    """Ask for what is printed in a colour."""
    return Question(f"What is written in {line.color}?", line.text, line.color)


def kind_question(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask for the word or the number; None where there is neither exactly one word nor exactly one number."""
    kinds = [line.kind for line in scene.prints]
    single = [line for line in scene.prints if kinds.count(line.kind) == 1]
    if not single:
        return None
    line = single[rng.integers(len(single))]
    return Question(f"What {line.kind} is written in the image?", line.text, line.color)


def reading_questions(scene: Scene, rng: np.random.Generator) -> dict[str, list[Question]]:
    """Ask about a scene: "yes/no", "name", "count" about objects and "read" about print -> questions."""
    asked: dict[str, list[Question | None]] = {}
    if scene.objects:
        negative: Negative = "adversarial" if rng.random() < 0.5 else "random"
        asked["yes/no"] = [present_question(scene, rng), absent_question(scene, rng, negative, NAMES)]
        asked["name"] = [what_question(scene, rng)]
        asked["count"] = [count_question(scene)]
    if scene.prints:
        asked["read"] = [color_question(scene.prints[rng.integers(len(scene.prints))]), kind_question(scene, rng)]
    return {kind: [each for each in found if each] for kind, found in asked.items()}
