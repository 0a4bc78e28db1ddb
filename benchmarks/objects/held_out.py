"""Held-out scenes with their questions, as images and files in POPE's format: what the model is measured with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmtok.evaluation.questions import Question as AskedQuestion
from mmtok.evaluation.questions import write_questions
from mmtok.tiny.questions import Negative, Question, absent_question, count_question, present_question, what_question
from mmtok.tiny.scenes import GRID, HELD_OUT_BACKGROUNDS, SIDE, Scene, SceneSettings, draw, sample_scene
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
class HeldOutScene:
    """A scene as it is shown to the model.

    Attributes:
        scene: the scene.
        image: RGB, as it lies in the set's folder.
        labels: (tokens,) what each vision token shows: an index into the scene's objects, negative for none of them.
    """

    scene: Scene
    image: Image.Image
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class HeldOutSet:
    """A folder with the images of some scenes, and the question files about them, a task each."""

    images: Path
    files: list[Path]


def held_out_scene(
    settings: SceneSettings, number: int, *, seed: int, sheets: Mapping[str, SpriteSheet], scale: int = 1
) -> HeldOutScene:
    """Draw one scene of a set.

    Args:
        settings: what may be drawn.
        number: of the scene in its set.
        seed: of the set.
        sheets: style -> its drawings.
        scale: 1 for an image of one crop; 2 for one that becomes the whole image and four tiles.
    """
    scene = _scene(settings, number, seed, sheets)
    drawing = draw(scene, sheets, scale=scale)
    labels = drawing.labels()
    if scale > 1:
        fine = draw(scene, sheets, scale=scale, grid=scale * GRID).labels().reshape(scale * GRID, scale * GRID)
        # Row separators, which end the rows of the joined tiles, show nothing.
        labels = np.concatenate([labels, np.pad(fine, ((0, 0), (0, 1)), constant_values=-2).reshape(-1)])
    return HeldOutScene(scene, Image.fromarray(drawing.pixels), labels)


def write_held_out(
    folder: str | Path,
    settings: SceneSettings = USUAL,
    count: int = 250,
    *,
    seed: int = SEED,
    sheets: Mapping[str, SpriteSheet] | None = None,
    scale: int = 1,
    canvas: int = SIDE,
    cut: int = 0,
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
        scale: see `held_out_scene`.
        canvas: side of a grey square, in whose middle the image is put, where that is larger than the image.
        cut: rows of pixels that are cut off above and below, for scenes of which no object loses any.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sheets = training_sheets() if sheets is None else sheets
    asked: dict[str, list[tuple[str, Question]]] = {}
    numbers = (n for n in itertools.count() if not cut or _is_whole(_scene(settings, n, seed, sheets), cut / scale))
    for number in itertools.islice(numbers, count):
        drawn = held_out_scene(settings, number, seed=seed, sheets=sheets, scale=scale)
        name = f"scene-{number:04}.png"
        image = drawn.image.crop((0, cut, drawn.image.width, drawn.image.height - cut))
        _on_canvas(image, canvas).save(folder / name)
        for task, questions in questions_about(drawn.scene, np.random.default_rng([seed, number, 1])).items():
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


def _scene(settings: SceneSettings, number: int, seed: int, sheets: Mapping[str, SpriteSheet]) -> Scene:
    return sample_scene(settings, np.random.default_rng([seed, number]), sheets)


def _is_whole(scene: Scene, cut: float) -> bool:
    """Whether no object loses anything with so many rows above and below."""
    return all(cut <= each.y - each.size / 2 and each.y + each.size / 2 <= SIDE - cut for each in scene.objects)


def _on_canvas(image: Image.Image, side: int) -> Image.Image:
    if side <= image.width:
        return image
    padded = Image.new("RGB", (side, side), (128, 128, 128))
    padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return padded
