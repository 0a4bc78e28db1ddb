"""What a reader of relations is asked while it learns, and what it is told to find on the way to an answer."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.embedded_model.architecture import PLAIN
from benchmarks.embedded_model.samples import IGNORED
from mmtok.tiny import questions as ask
from mmtok.tiny.scenes import Scene

from .crops_reader import ExtendedEncoder
from .scene_sets import relation_question

TURNS = 8


def conversation(scene: Scene, relations: float, rng: np.random.Generator) -> list[ask.SceneQuestion]:
    """Draws questions about a scene, so large a share of them for relations, the others as the embedded model's."""
    drawn: list[ask.SceneQuestion] = []
    while len(drawn) < TURNS:
        kind, holds = rng.random(), bool(rng.random() < 0.5)
        question: ask.SceneQuestion | None = None
        if kind < relations:
            if len(scene.objects) > 1:
                question = relation_question(scene, rng, holds=holds)
        elif kind < relations + 0.5 * (1 - relations):
            negative: ask.Negative = "hard" if rng.random() < 0.6 else "random"
            question = ask.existence_question(scene, rng, present=holds, negative=negative)
        elif kind < relations + 0.7 * (1 - relations):
            question = ask.color_question(scene, rng)
        elif kind < relations + 0.85 * (1 - relations):
            question = ask.shape_question(scene, rng)
        elif len(scene.objects) < 10:  # the vocabulary counts in single digits
            question = ask.count_question(scene)
        if question is not None:
            drawn.append(question)
    return drawn


def searched(
    scenes: list[Scene],
    turns: list[list[ask.SceneQuestion]],
    ids: torch.Tensor,
    labels: torch.Tensor,
    encoder: ExtendedEncoder,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where in the prompts something is to be found, and what.

    Returns:
        (N, 4) for each name of an object of the image: row, column, and the object's place. (A, 5) for each question
        about a relation: row, the column that the answer is read from, how far the first object is from the second to
        the right and down, and how much what is asked holds.
    """
    half = PLAIN.size / 2
    names, asked = [], []
    for row, (scene, questions) in enumerate(zip(scenes, turns, strict=True)):
        objects = {item.name: item for item in scene.objects}
        by_ids = {tuple(encoder.ids(name)): item for name, item in objects.items()}
        prompt, answer = ids[row].tolist(), (labels[row] != IGNORED).tolist()
        for column in range(1, len(prompt)):
            item = by_ids.get((prompt[column - 1], prompt[column]))
            if item is not None and not answer[column]:
                names.append((row, column, item.x / half - 1, item.y / half - 1))
        starts = [column for column in range(1, len(prompt)) if answer[column] and not answer[column - 1]]
        for column, question in zip(starts, questions, strict=True):
            said = question.text.rstrip("?").split()
            if said[:2] != ["Is", "the"]:
                continue
            first, second = objects[" ".join(said[2:4])], objects[" ".join(said[-2:])]
            right, down = (first.x - second.x) / half, (first.y - second.y) / half
            holds = {"left": -right, "right": right, "above": -down, "below": down}[said[4]]
            asked.append((row, column - 1, right, down, np.tanh(3 * holds)))
    return torch.tensor(names, dtype=torch.float32).view(-1, 4), torch.tensor(asked, dtype=torch.float32).view(-1, 5)
