"""Questions about a scene with their answers, as plain text.

The yes/no questions have POPE's form (Li et al. 2023, arXiv 2305.10355): half of them are true, and a hard negative
asks for an object that is absent but shares its colour or its shape with one that is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .scenes import COLORS, SHAPES, Scene, SceneObject

Negative = Literal["hard", "random"]
DESCRIBE = "Describe the image."
COUNT = "How many objects are in the image?"
SHORT_ANSWER = "Answer the question using a single word or phrase."


@dataclass(frozen=True)
class SceneQuestion:
    """A question and its answer; `color` and `shape` say what it asks for, where it asks for something."""

    text: str
    answer: str
    color: str | None = None
    shape: str | None = None


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def existence_question(
    scene: Scene, rng: np.random.Generator, *, present: bool, negative: Negative = "hard"
) -> SceneQuestion:
    """Ask whether an object of one colour and shape is there: "Is there a red circle in the image?".

    `present` is the answer. Of the absent objects, `negative` "hard" takes one that shares its colour or its shape
    with an object of the scene, and "random" any.
    """
    there = {(item.color, item.shape) for item in scene.objects}
    if present:
        pool = [(item.color, item.shape) for item in scene.objects]
    else:
        pool = [pair for pair in _PAIRS if pair not in there]
        if negative == "hard":
            colors, shapes = {color for color, _ in there}, {shape for _, shape in there}
            pool = [(color, shape) for color, shape in pool if color in colors or shape in shapes]
    color, shape = pool[rng.integers(len(pool))]
    return SceneQuestion(_is_there(f"{color} {shape}"), "yes" if present else "no", color=color, shape=shape)


def attribute_question(scene: Scene, rng: np.random.Generator, *, present: bool) -> SceneQuestion | None:
    """Ask for one attribute: "Is there a circle in the image?", "Is there a red object in the image?".

    None where the scene leaves nothing to ask for, such as every shape being present.
    """
    if rng.random() < 0.5:
        colors = [color for color in COLORS if any(o.color == color for o in scene.objects) == present]
        if not colors:
            return None
        color = colors[rng.integers(len(colors))]
        return SceneQuestion(_is_there(f"{color} object"), "yes" if present else "no", color=color)
    shapes = [shape for shape in SHAPES if any(o.shape == shape for o in scene.objects) == present]
    if not shapes:
        return None
    shape = shapes[rng.integers(len(shapes))]
    return SceneQuestion(_is_there(shape), "yes" if present else "no", shape=shape)


def color_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask "What color is the circle?" for a shape that occurs once; None where no shape does."""
    shapes = [o.shape for o in scene.objects]
    single = [o for o in scene.objects if shapes.count(o.shape) == 1]
    if not single:
        return None
    item = single[rng.integers(len(single))]
    return SceneQuestion(f"What color is the {item.shape}?", item.color, shape=item.shape)


def shape_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask "What shape is the red object?" for a colour that occurs once; None where no colour does."""
    colors = [o.color for o in scene.objects]
    single = [o for o in scene.objects if colors.count(o.color) == 1]
    if not single:
        return None
    item = single[rng.integers(len(single))]
    return SceneQuestion(f"What shape is the {item.color} object?", item.shape, color=item.color)


def count_question(scene: Scene) -> SceneQuestion:
    """Ask how many objects there are; the answer is in digits."""
    return SceneQuestion(COUNT, str(len(scene.objects)))


def description(scene: Scene, patches: NDArray[np.int64] | None = None) -> SceneQuestion:
    """Ask for a description; the answer names every object in reading order, "a red circle and a blue star".

    `patches`: the labels of the patches that the model sees (see `Scene.patch_labels`), by default all.
    """
    order = reading_order(scene, scene.patch_labels() if patches is None else patches)
    return SceneQuestion(DESCRIBE, " and ".join(with_article(item.name) for item in order))


def reading_order(scene: Scene, patches: NDArray[np.int64]) -> list[SceneObject]:
    """Sort the objects by the first patch that shows them; those without a patch come last."""
    seen = list(dict.fromkeys(patches[patches >= 0].tolist()))
    hidden = [index for index in range(len(scene.objects)) if index not in seen]
    return [scene.objects[index] for index in seen + hidden]


def _is_there(noun: str) -> str:
    return f"Is there {with_article(noun)} in the image?"


_PAIRS = [(color, shape) for color in COLORS for shape in SHAPES]
