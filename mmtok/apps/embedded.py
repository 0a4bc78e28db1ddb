"""What the demo and the page ask the embedded models: drawn images, questions about them, and what the models know.

Everything here that depends on what the models were trained on is in this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmtok.tiny import LLAVA, QWEN, Embedded, reading
from mmtok.tiny.catalogue import NAMES
from mmtok.tiny.questions import Question, absent_question, count_question, present_question, what_question
from mmtok.tiny.reading import ReadingSettings, color_question, kind_question, sample_reading_scene
from mmtok.tiny.scenes import SceneSettings, sample_scene

SCENE = SceneSettings(4, 5, 44.0, 60.0)
READING_SCENE = ReadingSettings(objects=(3, 4), prints=(2, 2), heights=(20, 28))
# Images are drawn this many times as large as the model reads them, for people to look at.
SCALE = 4
KNOWS = (
    f"This is the small model that comes with the package. It was trained on drawn images alone and knows "
    f"{len(NAMES)} everyday objects in the drawings of a few emoji sets. What it answers about a photo means nothing, "
    "and how well it does with few vision tokens says nothing about a LLaVA of 7B."
)


@dataclass(frozen=True)
class Example:
    """An image and questions about it.

    Attributes:
        image: RGB.
        shown: names of the objects that it shows, and what is printed on it.
        questions: with their right answers.
    """

    image: Image.Image
    shown: tuple[str, ...]
    questions: tuple[Question, ...]


def example(seed: int | None = None, model: Embedded = LLAVA) -> Example:
    """Draws an image and asks about it.

    LLaVA is asked what animal (or the like) there is, for an object that is not there, and for a count; Qwen2.5-VL what
    is printed, in two ways, and for an object that is not there.

    Args:
        seed: of the image and the questions; None for another one each time.
        model: the embedded model that knows what is drawn.
    """
    rng = np.random.default_rng(seed)
    if model == QWEN:
        return _reading_example(rng)
    scene = sample_scene(SCENE, rng)
    asked = (
        # Where no category has exactly one object, the first question asks for an object by its name.
        what_question(scene, rng) or present_question(scene, rng),
        absent_question(scene, rng, "adversarial"),
        count_question(scene),
    )
    return Example(scene.image(SCALE), scene.names, tuple(each for each in asked if each is not None))


def _reading_example(rng: np.random.Generator) -> Example:
    scene = None
    while scene is None or len(scene.prints) < 2 or not scene.objects:
        scene = sample_reading_scene(READING_SCENE, 9, 12, rng, kind="mixed")
    asked = (
        color_question(scene.prints[0]),
        kind_question(scene, rng) or color_question(scene.prints[1]),
        absent_question(scene, rng, "adversarial", reading.NAMES),
    )
    return Example(scene.image(), (*scene.names, *(line.text for line in scene.prints)), asked)
