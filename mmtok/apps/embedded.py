"""What the demo and the page ask the embedded model: drawn images, questions about them, and what the model knows.

Everything here that depends on what the model was trained on is in this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmtok.tiny.questions import SceneQuestion, color_question, count_question, existence_question
from mmtok.tiny.scenes import COLORS, SHAPES, SceneSettings, sample_scene

SCENE = SceneSettings(min_objects=5)
KNOWS = (
    f"This is the small model that comes with the package. It was trained on drawn images alone and knows "
    f"{len(SHAPES)} shapes in {len(COLORS)} colours. What it answers about a photo means nothing, and how well it does "
    "with few vision tokens says nothing about a LLaVA of 7B."
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
    questions: tuple[SceneQuestion, ...]


def example(seed: int | None = None) -> Example:
    """Draws an image and asks for an object that is there, for one that is not but nearly, for a colour and a count.

    Args:
        seed: of the image and the questions; None for another one each time.
    """
    rng = np.random.default_rng(seed)
    scene = sample_scene(SCENE, rng)
    asked = (
        existence_question(scene, rng, present=True),
        existence_question(scene, rng, present=False),
        color_question(scene, rng),
        count_question(scene),
    )
    return Example(
        scene.image(), tuple(item.name for item in scene.objects), tuple(each for each in asked if each is not None)
    )
