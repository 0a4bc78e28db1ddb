"""Held-out scenes with their questions, as images and files in POPE's format: what the model is measured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmtok.evaluation.questions import Question as AskedQuestion
from mmtok.evaluation.questions import write_questions

from .questions import (
    Negative,
    Question,
    absent_question,
    count_question,
    is_there,
    present_question,
    what_question,
)
from .scenes import HELD_OUT_BACKGROUNDS, Scene, SceneSettings, draw, sample_scene
from .sprites import SpriteSheet

SEED = 20_261_125
USUAL = SceneSettings(2, 5, backgrounds=HELD_OUT_BACKGROUNDS)
CROWDED = SceneSettings(8, 11, 26.0, 40.0, backgrounds=HELD_OUT_BACKGROUNDS)
NEGATIVES: tuple[Negative, ...] = ("random", "popular", "adversarial")
YES_NO = tuple(NEGATIVES)


@dataclass(frozen=True)
class HeldOutScene:
    """A scene, what each patch shows (see `Drawing.labels`), its image file, and the questions of each task."""

    scene: Scene
    labels: NDArray[np.int64]
    image: str
    questions: dict[str, list[Question]]


def write_held_out(
    folder: Path, settings: SceneSettings, sheets: Mapping[str, SpriteSheet], count: int, seed: int = SEED
) -> list[HeldOutScene]:
    """Write `count` scenes as PNG into a folder, with one file of questions for each task.

    The tasks are POPE's three, named after their negatives, each with one true and one false question a scene; `what`,
    for scenes in which it has an answer; and `count`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        scene = sample_scene(settings, rng, sheets)
        drawing = draw(scene, sheets)
        image = f"scene-{number:04}.png"
        Image.fromarray(drawing.pixels).save(folder / image)
        found.append(HeldOutScene(scene, drawing.labels(), image, _questions(scene, rng)))
    for task in dict.fromkeys(task for item in found for task in item.questions):
        asked = [(item.image, question) for item in found for question in item.questions.get(task, [])]
        numbered = [
            AskedQuestion(task, number, image, question.text, question.answer)
            for number, (image, question) in enumerate(asked)
        ]
        write_questions(folder / f"{task}.json", numbered)
    return found


def _questions(scene: Scene, rng: np.random.Generator) -> dict[str, list[Question]]:
    """One object is asked for in all three of POPE's tasks, as there."""
    present = present_question(scene, rng)
    tasks: dict[str, list[Question]] = {
        negative: [present, absent_question(scene, rng, negative)] for negative in NEGATIVES
    }
    others = {"what": what_question(scene, rng), "count": count_question(scene)}
    return {**tasks, **{task: [question] for task, question in others.items() if question is not None}}


def presence_questions(item: HeldOutScene) -> list[tuple[str, int]]:
    """Ask for every object of a scene that some patch shows: the text, and its index among the scene's objects."""
    return [(is_there(name), index) for index, name in enumerate(item.scene.names) if (item.labels == index).any()]
