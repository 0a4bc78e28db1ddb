"""Held-out scenes with their questions, as images and files in POPE's format: what the model is measured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmtok.evaluation.questions import Question as AskedQuestion
from mmtok.evaluation.questions import write_questions
from mmtok.tiny.questions import Negative, Question, absent_question, count_question, present_question, what_question
from mmtok.tiny.scenes import HELD_OUT_BACKGROUNDS, Scene, SceneSettings, draw, sample_scene
from mmtok.tiny.sprites import DRAWINGS, SpriteSheet, load_sheets

# The styles that the package does not come with, and the one that training does not draw.
MORE_DRAWINGS = Path(__file__).parent / "more_drawings"
UNSEEN_STYLE = "twemoji"

SEED = 20_261_125
USUAL = SceneSettings(2, 5, backgrounds=HELD_OUT_BACKGROUNDS)
CROWDED = SceneSettings(8, 11, 26.0, 40.0, backgrounds=HELD_OUT_BACKGROUNDS)
NEGATIVES: tuple[Negative, ...] = ("random", "popular", "adversarial")


def training_sheets() -> dict[str, SpriteSheet]:
    """Read the sheets that training draws from: all but the style kept for evaluation."""
    return {style: sheet for style, sheet in load_sheets(DRAWINGS, MORE_DRAWINGS).items() if style != UNSEEN_STYLE}


def unseen_sheets() -> dict[str, SpriteSheet]:
    """Read the sheet of the style that training does not draw."""
    return {UNSEEN_STYLE: load_sheets(MORE_DRAWINGS)[UNSEEN_STYLE]}


@dataclass(frozen=True)
class HeldOutSet:
    """A folder with the images of some scenes, and the question files about them, a task each."""

    images: Path
    files: list[Path]


def held_out_scene(settings: SceneSettings, number: int, seed: int, sheets: Mapping[str, SpriteSheet]) -> Scene:
    """One scene of the set with this seed."""
    return sample_scene(settings, np.random.default_rng([seed, number]), sheets)


def write_held_out(
    folder: str | Path,
    settings: SceneSettings = USUAL,
    count: int = 250,
    *,
    seed: int = SEED,
    sheets: Mapping[str, SpriteSheet] | None = None,
    scale: int = 1,
) -> HeldOutSet:
    """Write `count` scenes as PNG into a folder, with one file of questions for each task.

    The tasks are POPE's three, named after their negatives, each with one true and one false question a scene; `what`,
    for scenes in which it has an answer; and `count`.

    Args:
        folder: created.
        settings: of the scenes.
        count: how many.
        seed: of everything.
        sheets: style -> its drawings; those of training by default.
        scale: 1 for images of one crop; 2 for ones that become the whole image and four tiles.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sheets = training_sheets() if sheets is None else sheets
    asked: dict[str, list[tuple[str, Question]]] = {}
    for number in range(count):
        scene = held_out_scene(settings, number, seed, sheets)
        name = f"scene-{number:04}.png"
        Image.fromarray(draw(scene, sheets, scale=scale).pixels).save(folder / name)
        for task, questions in questions_about(scene, np.random.default_rng([seed, number, 1])).items():
            asked.setdefault(task, []).extend((name, question) for question in questions)
    for task, found in asked.items():
        numbered = [
            AskedQuestion(task, number, image, question.text, question.answer)
            for number, (image, question) in enumerate(found, start=1)
        ]
        write_questions(folder / f"{task}.json", numbered)
    return HeldOutSet(folder, [folder / f"{task}.json" for task in asked])


def questions_about(scene: Scene, rng: np.random.Generator) -> dict[str, list[Question]]:
    """Ask about a scene: task -> questions. One object is asked for in all three of POPE's tasks, as there."""
    present = present_question(scene, rng)
    tasks: dict[str, list[Question]] = {
        negative: [present, absent_question(scene, rng, negative)] for negative in NEGATIVES
    }
    others = {"what": what_question(scene, rng), "count": count_question(scene)}
    return {**tasks, **{task: [question] for task, question in others.items() if question is not None}}
