"""Training samples: a scene, a conversation about it, and the patches that are kept of its image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mmtok.tiny import questions as ask
from mmtok.tiny.questions import SceneQuestion
from mmtok.tiny.scenes import COLORS, SHAPES, Scene, sample_scene

from .architecture import CROWDED, PLAIN
from .vocabulary import EOS, IMAGE, build_tokenizer

IGNORED = -100
TURNS = 9
FEWEST_PATCHES = 5

# Probabilities. Descriptions tie patches to words, but outweigh the answers where they are many or long.
DESCRIPTION_FIRST = 0.4
MOST_DESCRIBED = 5
MOST_PATCHES = 0.3
INSTRUCTION = 0.1

# The odds of keeping a patch of an object against one of the background are drawn up to this: selections by coverage
# hold far more of the objects than a random one does, often several patches of the same.
HIGHEST_ODDS = 50

# How often each kind of question is asked, besides descriptions.
QUESTION_MIX = {"existence": 0.45, "attribute": 0.25, "color": 0.12, "shape": 0.12, "count": 0.06}


@dataclass(frozen=True)
class Lesson:
    """What the samples of a stage are like.

    `most_patches`: of an image. `crowded`: the share of batches whose images hold many small objects.
    """

    most_patches: int = PLAIN.grid**2
    crowded: float = 0.0


LESSON = Lesson()


@dataclass(frozen=True)
class Batch:
    """Right-padded conversations of B scenes with n kept patches each, L tokens.

    `input_ids` and `labels`: (B, L), int64; the n image tokens start at column `image_start` in every row.
    `kept`: (B, n), ascending patch indices. `colors`, `shapes`: (B, patches), indices into COLORS and SHAPES, or -1.
    """

    scenes: list[Scene]
    input_ids: torch.Tensor
    labels: torch.Tensor
    kept: torch.Tensor
    colors: torch.Tensor
    shapes: torch.Tensor
    image_start: int

    def pixel_values(self) -> torch.Tensor:
        """Render the scenes as the image processor hands them to the model: (B, 3, size, size), float32, -1 to 1."""
        return to_pixel_values([scene.pixels() for scene in self.scenes])


def to_pixel_values(images: list[NDArray[np.uint8]]) -> torch.Tensor:
    """Normalize rendered images as the image processor does: (B, 3, size, size), float32, -1 to 1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


class ConversationEncoder:
    """Turns questions into token ids and labels in the chat template's form, remembering the ids of each text."""

    def __init__(self) -> None:
        self.tokenizer = build_tokenizer()
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(IMAGE)
        self.pad_id: int = self.tokenizer.pad_token_id
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Encode a piece of a prompt, without the <s> in front."""
        if text not in self._ids:
            self._ids[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self._ids[text]

    @property
    def image_start(self) -> int:
        """The column of the first image token: after <s> and "USER:"."""
        return 1 + len(self.ids("USER:"))

    def encode(self, turns: list[SceneQuestion], patches: int, ended: int = 0) -> tuple[list[int], list[int]]:
        """Return ids and labels of a conversation about one image of `patches` image tokens.

        Labels are the answers. Of the short ones only that of turn `ended` also labels its </s>: that it follows one
        word is learnt at once, and nine such labels would drown the nine answers.
        """
        ids = [self.tokenizer.bos_token_id]
        labels = [IGNORED]
        for index, turn in enumerate(turns):
            image = [self.image_id] * patches if index == 0 else []
            prompt = [*self.ids("USER:"), *image, *self.ids(f"{turn.text} ASSISTANT:")]
            answer = self.ids(f"{turn.answer}{EOS}")
            ends = len(answer) > 2 or index == ended
            ids += [*prompt, *answer]
            labels += [*[IGNORED] * len(prompt), *answer[:-1], answer[-1] if ends else IGNORED]
        return ids, labels


def sample_conversation(
    scene: Scene,
    seen: NDArray[np.int64],
    rng: np.random.Generator,
) -> list[SceneQuestion]:
    """Draw the questions of one scene: mostly POPE's, a third of those about one attribute.

    `seen`: the labels of the patches that are kept.
    """
    described = len(scene.objects) <= MOST_DESCRIBED and rng.random() < DESCRIPTION_FIRST
    drawn = [ask.description(scene, seen)] if described else []
    while len(drawn) < TURNS:
        question = _sample_question(scene, rng)
        if question is not None:
            drawn.append(question)
    if rng.random() < INSTRUCTION:
        index = int(rng.integers(len(drawn)))
        if drawn[index].text != ask.DESCRIBE:
            drawn[index] = SceneQuestion(f"{drawn[index].text}\n{ask.SHORT_ANSWER}", drawn[index].answer)
    return drawn


def sample_batch(encoder: ConversationEncoder, rng: np.random.Generator, size: int, lesson: Lesson = LESSON) -> Batch:
    """Draw a batch. All its scenes keep the same number of patches: the most, or less, few more often than many."""
    most_patches = lesson.most_patches
    few = int(np.exp(rng.uniform(np.log(FEWEST_PATCHES), np.log(most_patches))))
    count = most_patches if rng.random() < MOST_PATCHES else few
    settings = CROWDED if lesson.crowded and rng.random() < lesson.crowded else PLAIN
    count = max(count, settings.max_objects)
    scenes = [sample_scene(settings, rng) for _ in range(size)]
    labels = [scene.patch_labels() for scene in scenes]
    kept = [sample_kept(scene_labels, count, rng) for scene_labels in labels]
    encoded = [
        encoder.encode(sample_conversation(scene, of[patches], rng), count, int(rng.integers(TURNS)))
        for scene, of, patches in zip(scenes, labels, kept, strict=True)
    ]
    colors, shapes = zip(*(_words_of_patches(scene, of) for scene, of in zip(scenes, labels, strict=True)), strict=True)
    return Batch(
        scenes=scenes,
        input_ids=_pad([ids for ids, _ in encoded], encoder.pad_id),
        labels=_pad([answers for _, answers in encoded], IGNORED),
        kept=torch.from_numpy(np.stack(kept)),
        colors=torch.from_numpy(np.stack(colors)),
        shapes=torch.from_numpy(np.stack(shapes)),
        image_start=encoder.image_start,
    )


def _sample_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    kind = _KINDS[int(np.searchsorted(_BOUNDS, rng.random(), side="right"))]
    present = bool(rng.random() < 0.5)
    if kind == "existence":
        return ask.existence_question(scene, rng, present=present, negative="hard" if rng.random() < 0.6 else "random")
    if kind == "attribute":
        return ask.attribute_question(scene, rng, present=present)
    if kind == "color":
        return ask.color_question(scene, rng)
    if kind == "shape":
        return ask.shape_question(scene, rng)
    # The vocabulary counts in single digits.
    return ask.count_question(scene) if len(scene.objects) < 10 else None


def sample_kept(labels: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose patches at random, but one of each object: an answer must not depend on what has been dropped.

    `labels`: what each patch shows, negative for none. Returns ascending indices, `count` where there are as many.
    """
    odds = np.exp(rng.uniform(0, np.log(HIGHEST_ODDS)))
    # The smallest of exponential variables come first as if drawn one by one with odds in proportion to their rates.
    order = np.argsort(rng.exponential(size=len(labels)) / np.where(labels >= 0, odds, 1))
    shown, first = np.unique(labels[order], return_index=True)
    of_objects = order[first[shown >= 0]]
    others = order[~np.isin(order, of_objects)]
    return np.sort(np.concatenate([of_objects, others])[:count])


def _words_of_patches(scene: Scene, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    colors = np.array([*(_COLOR_INDEX[item.color] for item in scene.objects), -1])
    shapes = np.array([*(_SHAPE_INDEX[item.shape] for item in scene.objects), -1])
    return colors[labels], shapes[labels]


def _pad(rows: list[list[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


_COLOR_INDEX = {color: index for index, color in enumerate(COLORS)}
_SHAPE_INDEX = {shape: index for index, shape in enumerate(SHAPES)}
_KINDS = tuple(QUESTION_MIX)
_BOUNDS = np.cumsum(tuple(QUESTION_MIX.values()))
