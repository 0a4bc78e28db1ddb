"""Question files about rendered scenes, in POPE's format, with their images: what offline runs are measured on.

As in POPE, the three yes/no tasks ask for the same present objects and differ in the absent ones:

    random       any absent object
    popular      absent objects among those that the images of the set show most often
    adversarial  absent objects whose colour and whose shape are both there, on different objects
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.embedded_model.held_out import HELD_OUT_SEED
from mmtok.evaluation.questions import Question, write_questions
from mmtok.tiny import questions as ask
from mmtok.tiny.scenes import COLORS, SHAPES, Scene, SceneObject, SceneSettings, sample_scene

# Scenes of every task, so of 2 x 250 yes/no questions each.
SCENES = 250
# The share of all kinds of objects that counts as popular.
_POPULAR = 16
_KINDS = [(color, shape) for color in COLORS for shape in SHAPES]
_RELATIONS: dict[str, Callable[[SceneObject, SceneObject], float]] = {
    "left of": lambda one, other: other.x - one.x,
    "right of": lambda one, other: one.x - other.x,
    "above": lambda one, other: other.y - one.y,
    "below": lambda one, other: one.y - other.y,
}


@dataclass(frozen=True)
class SceneSet:
    """A folder of images and the question files about them.

    Attributes:
        images: the folder of the images.
        files: the question files, a task each.
    """

    images: Path
    files: list[Path]


def write_scene_set(
    folder: str | Path,
    settings: SceneSettings,
    *,
    scenes: int = SCENES,
    seed: int = HELD_OUT_SEED,
    relations: bool = False,
    canvas: int | None = None,
) -> SceneSet:
    """Renders scenes and asks about them.

    Args:
        folder: created; images as PNG in `images`, question files beside it.
        settings: of the scenes.
        scenes: how many.
        seed: of everything; the default is none that training draws from.
        canvas: side of a grey square, in pixels, in whose middle the image is put; None for the image alone.
        relations: also ask where two objects stand to each other, and don't ask how many there are.

    Returns:
        The set: tasks random, popular and adversarial of two questions a scene; color and shape, where a scene allows
        the question; count, or relation with two questions a scene.
    """
    folder = Path(folder)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    drawn = [sample_scene(settings, np.random.default_rng([seed, number])) for number in range(scenes)]
    names = [f"scene-{number:04}.png" for number in range(scenes)]
    for scene, name in zip(drawn, names, strict=True):
        _on_canvas(scene.image(), canvas).save(images / name)
    tasks = {
        "random": _existence(drawn, seed, _any_absent),
        "popular": _existence(drawn, seed, _popular_absent(drawn)),
        "adversarial": _existence(drawn, seed, _adversarial_absent),
        "color": _each(drawn, seed, ask.color_question),
        "shape": _each(drawn, seed, ask.shape_question),
    }
    if relations:
        tasks["relation"] = _relations(drawn, seed)
    else:
        tasks["count"] = _each(drawn, seed, lambda scene, rng: ask.count_question(scene))
    files = []
    for task, asked in tasks.items():
        path = folder / f"{task}.json"
        write_questions(
            path,
            [
                Question(task, number, names[scene], question.text, question.answer)
                for number, (scene, question) in enumerate(asked, start=1)
            ],
        )
        files.append(path)
    return SceneSet(images, files)


def _on_canvas(image: Image.Image, side: int | None) -> Image.Image:
    if side is None:
        return image
    padded = Image.new("RGB", (side, side), (128, 128, 128))
    padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return padded


_Absent = Callable[[Scene, np.random.Generator], tuple[str, str]]


def _existence(scenes: list[Scene], seed: int, absent: _Absent) -> list[tuple[int, ask.SceneQuestion]]:
    asked = []
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, number, 1])
        asked.append((number, ask.existence_question(scene, rng, present=True)))
        color, shape = absent(scene, rng)
        text = f"Is there {ask.with_article(f'{color} {shape}')} in the image?"
        asked.append((number, ask.SceneQuestion(text, "no", color=color, shape=shape)))
    return asked


def _there(scene: Scene) -> set[tuple[str, str]]:
    return {(item.color, item.shape) for item in scene.objects}


def _drawn_from(pool: list[tuple[str, str]], rng: np.random.Generator) -> tuple[str, str]:
    return pool[rng.integers(len(pool))]


def _any_absent(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    return _drawn_from([kind for kind in _KINDS if kind not in _there(scene)], rng)


def _popular_absent(scenes: list[Scene]) -> _Absent:
    frequency = Counter(kind for scene in scenes for kind in sorted(_there(scene)))
    ranked = [kind for kind, _ in frequency.most_common()]

    def absent(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
        left = [kind for kind in ranked if kind not in _there(scene)]
        return _drawn_from(left[:_POPULAR], rng)

    return absent


def _adversarial_absent(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    there = _there(scene)
    colors, shapes = {color for color, _ in there}, {shape for _, shape in there}
    absent = [kind for kind in _KINDS if kind not in there]
    both = [(color, shape) for color, shape in absent if color in colors and shape in shapes]
    # A scene whose objects share a colour or a shape may leave no such pair.
    return _drawn_from(both or [kind for kind in absent if kind[0] in colors or kind[1] in shapes], rng)


def _each(
    scenes: list[Scene], seed: int, question: Callable[[Scene, np.random.Generator], ask.SceneQuestion | None]
) -> list[tuple[int, ask.SceneQuestion]]:
    asked = [(number, question(scene, np.random.default_rng([seed, number, 2]))) for number, scene in enumerate(scenes)]
    return [(number, found) for number, found in asked if found is not None]


def _relations(scenes: list[Scene], seed: int) -> list[tuple[int, ask.SceneQuestion]]:
    asked = []
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, number, 3])
        asked += [(number, relation_question(scene, rng, holds=holds)) for holds in (True, False)]
    return asked


def relation_question(scene: Scene, rng: np.random.Generator, *, holds: bool) -> ask.SceneQuestion:
    """Asks "Is the red circle left of the blue star?" of two objects that are clearly apart in that direction.

    Raises:
        ValueError: a scene of less than two objects.
    """
    if len(scene.objects) < 2:
        raise ValueError(f"A scene of {len(scene.objects)} objects has no two to compare: draw scenes of at least 2.")
    first, second = (scene.objects[index] for index in rng.choice(len(scene.objects), 2, replace=False))
    # The direction in which the two are farther apart; the question that holds is asked of it, or its opposite.
    distances = {name: distance(first, second) for name, distance in _RELATIONS.items()}
    name = max(distances, key=lambda key: distances[key]) if holds else min(distances, key=lambda key: distances[key])
    return ask.SceneQuestion(f"Is the {first.name} {name} the {second.name}?", "yes" if holds else "no")
