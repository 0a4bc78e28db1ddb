"""Held-out accuracy of a checkpoint in POPE's form, per token budget and selector.

    python -m benchmarks.embedded_model.held_out FOLDER

Prompts go through the checkpoint's own processor and chat template, and the model answers in its own words: as in POPE
(arXiv 2305.10355) the positive class is "yes" and whatever is not "yes" counts as "no".
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoProcessor, LlavaForConditionalGeneration

from mmtok.hub.coverage import greedy_coverage
from mmtok.hub.objective import coverage_matrix
from mmtok.tiny.questions import Question, existence_question
from mmtok.tiny.scenes import Scene, SceneSettings, sample_scene

from .architecture import vision_features

HELD_OUT_SEED = 20_261_121
HELD_OUT = SceneSettings(min_objects=2)
BUDGETS = (64, 32, 16, 8, 4)

# The reference implementation's words that ask for nothing: they are no text to cover.
_STOP_WORDS = (
    "a an the is are was were be been being have has had do does did it they he she we you i what where when why how "
    "who which and or but so if then question answer to for with by from at into onto upon"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True)
class Item:
    """A held-out question."""

    scene: Scene
    question: Question

    @property
    def target(self) -> int:
        """The index of the object asked for, or -1."""
        names = [item.name for item in self.scene.objects]
        name = f"{self.question.color} {self.question.shape}"
        return names.index(name) if name in names else -1


@dataclass(frozen=True)
class Score:
    """Shares from 0 to 1. `kept_target`: how often a patch of the object asked for is kept, where it is there."""

    accuracy: float
    f1: float
    yes_ratio: float
    kept_target: float


@dataclass(frozen=True)
class Look:
    """What a selector sees of one question: text (m, d), vision (n, d) and raw_vision (n, d_raw)."""

    text: torch.Tensor
    vision: torch.Tensor
    raw_vision: torch.Tensor
    number: int


Selector = Callable[[Look, int], torch.Tensor]


def select_mmtok(look: Look, budget: int) -> torch.Tensor:
    """Cover text and picture with the paper's weights and temperatures."""
    return greedy_coverage(coverage_matrix(look.text, look.vision, look.raw_vision), budget).indices


def select_by_text(look: Look, budget: int) -> torch.Tensor:
    """Cover the text rows alone."""
    return greedy_coverage(coverage_matrix(look.text, look.vision, look.raw_vision, vision_weight=0.0), budget).indices


def select_by_vision(look: Look, budget: int) -> torch.Tensor:
    """Cover the vision rows alone."""
    return greedy_coverage(coverage_matrix(look.text, look.vision, look.raw_vision, text_weight=0.0), budget).indices


def select_uniform(look: Look, budget: int) -> torch.Tensor:
    """Take every (n / budget)-th patch in reading order, from the middle of each run."""
    total = len(look.vision)
    return ((torch.arange(budget) + 0.5) * total / budget).long()


def select_random(look: Look, budget: int) -> torch.Tensor:
    """Take patches at random, seeded by the question's number."""
    return torch.from_numpy(np.random.default_rng(look.number).permutation(len(look.vision))[:budget])


SELECTORS: dict[str, Selector] = {
    "mmtok": select_mmtok,
    "text": select_by_text,
    "vision": select_by_vision,
    "uniform": select_uniform,
    "random": select_random,
}


def held_out_items(count: int, seed: int = HELD_OUT_SEED) -> list[Item]:
    """Draw scenes with one question each: in turn one that is true and a hard negative."""
    items = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        scene = sample_scene(HELD_OUT, rng)
        items.append(Item(scene, existence_question(scene, rng, present=number % 2 == 0)))
    return items


class Examiner:
    """Asks a checkpoint held-out questions; pictures and prompts are read once and shared by all selectors."""

    def __init__(self, folder: Path, items: Sequence[Item], batch_size: int = 50) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
        self.items = list(items)
        self.batch_size = batch_size
        self.prompts: list[torch.Tensor] = []
        self.looks: list[Look] = []
        self._read()

    def score(self, selector: Selector | None = None, budget: int | None = None) -> Score:
        """Answer all questions with the tokens that `selector` keeps at `budget`, or with all tokens."""
        kept = [
            torch.arange(len(look.vision)) if selector is None or budget is None else selector(look, budget).sort()[0]
            for look in self.looks
        ]
        answers = []
        for start in range(0, len(self.items), self.batch_size):
            answers += self._answer(range(start, min(start + self.batch_size, len(self.items))), kept)
        return _score(self.items, answers, kept)

    @torch.no_grad()
    def _read(self) -> None:
        embed = self.model.get_input_embeddings()
        for start in range(0, len(self.items), self.batch_size):
            chunk = self.items[start : start + self.batch_size]
            inputs = [self._prompt(item) for item in chunk]
            raw = vision_features(self.model, torch.cat([values["pixel_values"] for values in inputs]))
            projected = self.model.model.multi_modal_projector(raw)
            for offset, (item, values) in enumerate(zip(chunk, inputs, strict=True)):
                self.prompts.append(values["input_ids"][0])
                text = embed(torch.tensor(self._text_ids(item.question.text), dtype=torch.long))
                self.looks.append(Look(text, projected[offset], raw[offset], number=start + offset))

    def _prompt(self, item: Item) -> dict[str, torch.Tensor]:
        content = [{"type": "image", "image": item.scene.image()}, {"type": "text", "text": item.question.text}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _text_ids(self, text: str) -> list[int]:
        covered = [word for word in re.findall(r"\b\w+\b", text.lower()) if word not in STOP_WORDS]
        return self.processor.tokenizer.encode(" ".join(covered), add_special_tokens=False)

    @torch.no_grad()
    def _answer(self, numbers: range, kept: list[torch.Tensor]) -> list[str]:
        """Read the pruned prompts, padded on the left, and return the word that each is answered with."""
        embed = self.model.get_input_embeddings()
        rows = []
        for number in numbers:
            is_image = self.prompts[number] == self.model.config.image_token_index
            embeds = embed(self.prompts[number])
            embeds[is_image] = self.looks[number].vision
            stays = ~is_image
            stays[is_image.nonzero()[kept[number], 0]] = True
            rows.append(embeds[stays])
        longest = max(len(row) for row in rows)
        embeds = torch.stack([torch.cat([row.new_zeros(longest - len(row), row.shape[1]), row]) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
        ids = self.model(inputs_embeds=embeds, attention_mask=mask).logits[:, -1].argmax(-1)
        return [self.processor.decode([token]).strip() for token in ids.tolist()]


def _score(items: list[Item], answers: list[str], kept: list[torch.Tensor]) -> Score:
    said = np.array([answer == "yes" for answer in answers])
    truth = np.array([item.question.answer == "yes" for item in items])
    right_yes = (said & truth).sum()
    shown = [
        bool((item.scene.patch_labels()[indices.numpy()] == item.target).any())
        for item, indices in zip(items, kept, strict=True)
        if item.target >= 0
    ]
    return Score(
        accuracy=float((said == truth).mean()),
        f1=float(2 * right_yes / max(1, said.sum() + truth.sum())),
        yes_ratio=float(said.mean()),
        kept_target=float(np.mean(shown)) if shown else 0.0,
    )


def evaluate(folder: Path, questions: int = 2000, budgets: Sequence[int] = BUDGETS) -> dict[str, dict[str, Score]]:
    """Score a checkpoint: {"all tokens": {"all": score}, selector: {budget: score}}."""
    examiner = Examiner(folder, held_out_items(questions))
    scores = {"all tokens": {"all": examiner.score()}}
    cells = [(name, budget) for name in SELECTORS for budget in budgets]
    for name, budget in tqdm(cells, desc="evaluation", mininterval=5):
        scores.setdefault(name, {})[str(budget)] = examiner.score(SELECTORS[name], budget)
    return scores


def as_json(scores: dict[str, dict[str, Score]]) -> dict[str, dict[str, dict[str, float]]]:
    """Round the scores to four digits."""
    return {
        name: {budget: {key: round(value, 4) for key, value in asdict(score).items()} for budget, score in row.items()}
        for name, row in scores.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the scores of a checkpoint as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the checkpoint's folder")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(json.dumps(as_json(evaluate(options.folder, options.questions)), indent=2))


if __name__ == "__main__":
    main()
