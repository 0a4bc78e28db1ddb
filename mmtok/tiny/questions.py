"""Questions about a scene with their answers, as plain text.

The yes/no questions are those of POPE (Li et al. 2023, arXiv 2305.10355), with its three kinds of absent objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .catalogue import CATEGORIES, COMMON, NAMES, OBJECTS, with_article
from .scenes import Scene

Negative = Literal["random", "popular", "adversarial"]
COUNT = "How many objects are in the image?"
DESCRIBE = "Describe the image."
SHORT_ANSWER = "Answer the question using a single word or phrase."


@dataclass(frozen=True)
class Question:
    """A question and its answer; `name` is the object that is asked for or that the answer names, "" without one."""

    text: str
    answer: str
    name: str = ""


def is_there(noun: str) -> str:
    """Ask whether something is there: "Is there a kite in the image?"."""
    return f"Is there {with_article(noun)} in the image?"


def present_question(scene: Scene, rng: np.random.Generator) -> Question:
    """Ask for an object that is there."""
    name = scene.names[rng.integers(len(scene.names))]
    return Question(is_there(name), "yes", name)


def absent_question(
    scene: Scene, rng: np.random.Generator, negative: Negative, names: Sequence[str] = NAMES
) -> Question:
    """Ask for an object that is not there.

    `negative`: "random" takes any; "popular" one of the most common objects; "adversarial" one that is at home in the
    scene's place or shares its category with something that is there. Where all of those are shown, any is taken.
    `names`: what may be asked for.
    """
    there = set(scene.names)
    pool = tuple(names)
    if negative == "popular":
        pool = COMMON
    elif negative == "adversarial":
        categories = {OBJECTS[name].category for name in there} - {""}
        pool = tuple(n for n in names if scene.place in OBJECTS[n].places or OBJECTS[n].category in categories)
    absent = [name for name in pool if name not in there] or [name for name in names if name not in there]
    name = absent[rng.integers(len(absent))]
    return Question(is_there(name), "no", name)


def category_question(scene: Scene, rng: np.random.Generator, *, present: bool) -> Question | None:
    """Ask "Is there an animal in the image?"; None where the scene has every category, or none of them."""
    there = {OBJECTS[name].category for name in scene.names}
    pool = [category for category in CATEGORIES if (category in there) == present]
    return Question(is_there(pool[rng.integers(len(pool))]), "yes" if present else "no") if pool else None


def what_question(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask "What animal is in the image?" for a category with one object; None where no category has exactly one."""
    categories = [OBJECTS[name].category for name in scene.names]
    single = [name for name, own in zip(scene.names, categories, strict=True) if own and categories.count(own) == 1]
    if not single:
        return None
    name = single[rng.integers(len(single))]
    return Question(f"What {OBJECTS[name].category} is in the image?", name, name)


def count_question(scene: Scene) -> Question | None:
    """Ask how many objects there are; the answer is one digit. None for ten and more."""
    return Question(COUNT, str(len(scene.objects))) if len(scene.objects) < 10 else None


def description(names: list[str]) -> Question:
    """Ask for a description; the answer names the objects in the order given, "a dog and a kite"."""
    return Question(DESCRIBE, " and ".join(map(with_article, names)))
