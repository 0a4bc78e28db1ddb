"""Training conversations: several questions about one scene, of which a part of the patches is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mmtok.tiny.catalogue import OBJECTS
from mmtok.tiny.questions import (
    DESCRIBE,
    SHORT_ANSWER,
    Negative,
    Question,
    absent_question,
    category_question,
    count_question,
    description,
    is_there,
    present_question,
    what_question,
)
from mmtok.tiny.scenes import Scene

from .architecture import IMAGE, tokenizer

IGNORED = -100
TURNS = 9
DESCRIBED = 0.3

# A count is read off all patches: it is learned from many scenes, not from many questions about one.
TURNS_AFTER_COUNT = 3

# Patches of objects are kept up to this many times as often as the others.
MOST_ODDS = 50.0
NEGATIVES: tuple[Negative, ...] = ("random", "adversarial", "popular")


def spread_patches(labels: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` patches in order: one of each object as far as they go, then any, those of objects rather."""
    odds = np.exp(rng.uniform(0, np.log(MOST_ODDS)))
    order = np.argsort(rng.exponential(size=len(labels)) / np.where(labels >= 0, odds, 1))
    return np.sort(_one_of_each(order, labels)[:count])


def patches_towards(
    liking: NDArray[np.float32], labels: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `count` patches in order: some that a word is most like, as a selection by text would, then as above.

    Args:
        liking: (patches,) how much each patch is like the word.
        labels: (patches,) the object that each patch shows, -1 for none.
        count: patches to draw.
        rng: generator.
    """
    first = np.argsort(-liking)[: max(1, min(count // 3, int(rng.integers(1, 5))))]
    rest = rng.permutation(np.setdiff1d(np.arange(len(labels)), first))
    order = _one_of_each(rest, np.where(np.isin(labels, labels[first]), -1, labels))
    return np.sort(np.concatenate([first, order])[:count])


def _one_of_each(order: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Move the first patch of each object to the front."""
    shown, first = np.unique(labels[order], return_index=True)
    front = np.sort(first[shown >= 0])
    return np.concatenate([order[front], np.delete(order, front)])


def seen_part(scene: Scene, labels: NDArray[np.int64]) -> Scene:
    """The scene with the objects alone that some patch of `labels` shows, in the order in which they are first seen."""
    seen = dict.fromkeys(labels[labels >= 0].tolist())
    return replace(scene, objects=tuple(scene.objects[index] for index in seen))


def converse(
    scene: Scene, labels: NDArray[np.int64], rng: np.random.Generator, asked: str = "", *, counted: bool = False
) -> list[Question]:
    """Ask `TURNS` questions about what the patches with these labels show; answers are those of who sees no other.

    Nothing is asked about an object that is there without being seen. `asked`: a name that one question asks for.
    `counted`: the first question is how many objects there are, before an answer that tells some of them.
    """
    seen = seen_part(scene, labels)
    hidden = set(scene.names) - set(seen.names)
    hidden |= {OBJECTS[name].category for name in hidden} - {OBJECTS[name].category for name in seen.names}
    turns: list[Question] = []
    first = count_question(seen) if counted and seen.objects else None
    if seen.objects and len(seen.objects) <= 5 and rng.random() < DESCRIBED:
        turns.append(description(list(seen.names)))
    if asked and asked not in hidden:
        turns.append(_is_it_there(seen, asked))
    while len(turns) < TURNS:
        question = _sample_question(seen, rng)
        if question is not None and not any(f" {name} in" in question.text for name in hidden if name):
            turns.append(question)
    shuffled = [turns[index] for index in rng.permutation(len(turns))]
    return _with_instruction([first, *shuffled[:TURNS_AFTER_COUNT]] if first else shuffled, rng)


def _is_it_there(seen: Scene, name: str) -> Question:
    return Question(is_there(name), "yes" if name in seen.names else "no", name)


def _sample_question(seen: Scene, rng: np.random.Generator) -> Question | None:
    kind = rng.random()
    if kind < 0.28:
        return present_question(seen, rng) if seen.objects else None
    if kind < 0.56:
        return absent_question(seen, rng, NEGATIVES[rng.choice(3, p=(0.4, 0.45, 0.15))])
    if kind < 0.74:
        return what_question(seen, rng)
    if kind < 0.84:
        return category_question(seen, rng, present=bool(rng.random() < 0.5))
    return count_question(seen) if seen.objects else None


def _with_instruction(turns: list[Question], rng: np.random.Generator) -> list[Question]:
    """Add the benchmarks' instruction to no turn, every turn or half of them; descriptions stay without it."""
    share = (0.0, 1.0, 0.5)[rng.choice(3, p=(0.4, 0.3, 0.3))]
    return [
        replace(turn, text=f"{turn.text}\n{SHORT_ANSWER}") if turn.text != DESCRIBE and rng.random() < share else turn
        for turn in turns
    ]


@dataclass(frozen=True)
class Encoded:
    """Conversations as tokens, padded on the right.

    Attributes:
        input_ids: (B, length) int64; every conversation has the same number of <image> tokens, at the same place.
        labels: (B, length) int64, `IGNORED` where nothing is learned.
        image_start: place of the first <image>.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    image_start: int


class ConversationEncoder:
    """Turns conversations into tokens in the chat template's form."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer()
        self.known: dict[str, list[int]] = {}
        self.bos, self.pad = self.tokenizer.bos_token_id, self.tokenizer.pad_token_id
        self.image = self.tokenizer.convert_tokens_to_ids(IMAGE)

    def ids(self, text: str) -> list[int]:
        """Encode a text without <s>."""
        if text not in self.known:
            self.known[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self.known[text]

    def encode(self, conversations: Sequence[list[Question]], patches: int, rng: np.random.Generator) -> Encoded:
        """Encode conversations about `patches` patches each.

        Of each, </s> is learned behind one answer of one word, and behind every longer one.
        """
        rows = [self._encode_one(turns, patches, int(rng.integers(len(turns)))) for turns in conversations]
        return Encoded(
            _padded([ids for ids, _ in rows], self.pad),
            _padded([labels for _, labels in rows], IGNORED),
            1 + len(self.ids("USER:")),
        )

    def _encode_one(self, turns: list[Question], patches: int, ended: int) -> tuple[list[int], list[int]]:
        ids, labels = [self.bos], [IGNORED]
        for index, turn in enumerate(turns):
            image = [self.image] * patches if index == 0 else []
            prompt = [*self.ids("USER:"), *image, *self.ids(f"{turn.text} ASSISTANT:")]
            answer = self.ids(f"{turn.answer}{self.tokenizer.eos_token}")
            last = answer[-1] if len(answer) > 2 or index == ended else IGNORED
            ids += prompt + answer
            labels += [IGNORED] * len(prompt) + answer[:-1] + [last]
        return ids, labels


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
