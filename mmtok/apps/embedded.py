"""What the demo and the page ask the embedded model: drawn images, questions about them, and what the model knows.

Everything here that depends on what the model was trained on is in this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmtok.tiny.catalogue import NAMES
from mmtok.tiny.questions import Question, absent_question, count_question, present_question, what_question
from mmtok.tiny.scenes import SceneSettings, sample_scene

SCENE = SceneSettings(4, 5, 44.0, 60.0)
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
        objects: names of what it shows.
        questions: with their right answers.
    """

    image: Image.Image
    objects: tuple[str, ...]
    questions: tuple[Question, ...]


def example(seed: int | None = None) -> Example:
    """Draws an image and asks what animal (or the like) it shows, for an object that is not there, and for a count.

    Args:
        seed: of the image and the questions; None for another one each time.
    """
    rng = np.random.default_rng(seed)
    scene = sample_scene(SCENE, rng)
    asked = (
        # Where no category has exactly one object, the first question asks for an object by its name.
        what_question(scene, rng) or present_question(scene, rng),
        absent_question(scene, rng, "adversarial"),
        count_question(scene),
    )
    return Example(scene.image(SCALE), scene.names, tuple(each for each in asked if each is not None))
