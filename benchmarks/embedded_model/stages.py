"""What learns from what: the stages of training, in order.

    sight      the vision tower names the colour and shape of every patch
    alignment  the projector (and slowly the tower) writes every patch as the sum of the embeddings of its two words
    words      the language model answers about symbolic images of few patches, written that way without a mistake
    language   the same up to whole images
    tuning     everything but the word embeddings learns on rendered images

The word embeddings never change, and the language model learns before it sees: that is what aligns projected patches
with words, and so gives text rows something to match. From `words` on a random part of the patches is kept, so that the
model reads short prompts too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from mmtok.tiny.scenes import COLORS, SHAPES

from .architecture import build_model, vision_features
from .samples import IGNORED, Batch, ConversationEncoder, Lesson, sample_batch

# Most patches show no object: where every patch is named, each of those counts this much.
BACKGROUND_WEIGHT = 0.2

# The weight of 1 - cosine between projected patches and their words in `tuning`.
CLOSENESS = 0.1


class Learner(nn.Module):
    """The model, the head that `sight` trains it with, and what turns scenes into its inputs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.model: LlavaForConditionalGeneration = build_model(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.patch_head = nn.Linear(self.model.config.vision_config.hidden_size, len(COLORS) + len(SHAPES) + 2)
        self.encoder = ConversationEncoder()
        ids = self.encoder.ids
        self.color_ids = torch.tensor([ids(color)[0] for color in COLORS])
        self.shape_ids = torch.tensor([ids(shape)[0] for shape in SHAPES])
        self.background_id = torch.tensor(self.encoder.image_id)

    def symbolic_patches(self, batch: Batch) -> torch.Tensor:
        """Write every patch as words: (B, patches, hidden)."""
        embed = self.model.get_input_embeddings()
        objects = embed(self.color_ids)[batch.colors] + embed(self.shape_ids)[batch.shapes]
        return torch.where(batch.colors[..., None] >= 0, objects, embed(self.background_id))

    def projected_patches(self, batch: Batch) -> torch.Tensor:
        """Look at the rendered images: (B, patches, hidden)."""
        return self.model.model.multi_modal_projector(vision_features(self.model, batch.pixel_values()))

    def answer_loss(self, batch: Batch, patches: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return the language model's loss, and the share of right labels, when it reads the batch's kept patches."""
        kept = patches.gather(1, batch.kept[..., None].expand(-1, -1, patches.shape[-1]))
        words = self.model.get_input_embeddings()(batch.input_ids)
        start, stop = batch.image_start, batch.image_start + kept.shape[1]
        embeds = torch.cat([words[:, :start], kept.to(words.dtype), words[:, stop:]], dim=1)
        # Padding is on the right, where causal attention never looks: no mask is needed.
        logits = self.model(inputs_embeds=embeds).logits[:, :-1]
        labels = batch.labels[:, 1:]
        chosen = labels != IGNORED
        logits, labels = logits[chosen].float(), labels[chosen]
        return F.cross_entropy(logits, labels), (logits.argmax(-1) == labels).float().mean().item()


Loss = Callable[[Learner, np.random.Generator, int], tuple[torch.Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Stage:
    """`rates`: the peak learning rate of each part that learns (see `PARTS`); every other part is frozen.

    `horizon`: the step at which the rate would reach its lowest, by default the last; a stage that ends before is left
    at a high rate.
    """

    name: str
    steps: int
    batch_size: int
    rates: dict[str, float]
    loss: Loss
    horizon: int | None = None


def sight_loss(learner: Learner, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Name each patch's colour and shape from the features that LLaVA reads."""
    batch = sample_batch(learner.encoder, rng, size)
    logits = learner.patch_head(vision_features(learner.model, batch.pixel_values())).float()
    losses, shares = [], {}
    for name, part, truth in zip(
        ("colour", "shape"),
        logits.split([len(COLORS) + 1, len(SHAPES) + 1], dim=-1),
        (batch.colors, batch.shapes),
        strict=True,
    ):
        background = part.shape[-1] - 1
        weight = torch.ones(part.shape[-1])
        weight[background] = BACKGROUND_WEIGHT
        target = truth.where(truth >= 0, background)
        losses.append(F.cross_entropy(part.flatten(0, 1), target.flatten(), weight))
        shares[name] = (part.argmax(-1) == target)[truth >= 0].float().mean().item()
    return sum(losses, torch.zeros(())), shares


def writing_loss(learner: Learner, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Write each patch in words: the squared error of the projected patches, relative to the words' own square."""
    batch = sample_batch(learner.encoder, rng, size)
    projected, written = learner.projected_patches(batch).float(), learner.symbolic_patches(batch)
    weight = torch.where(batch.colors >= 0, 1.0, BACKGROUND_WEIGHT)
    error = (weight * (projected - written).square().sum(-1)).sum() / (weight * written.square().sum(-1)).sum()
    cosine = F.cosine_similarity(projected, written, dim=-1)[batch.colors >= 0].mean()
    return error, {"cosine": cosine.item()}


def symbolic_loss(lesson: Lesson) -> Loss:
    """Answer questions about images that are written in words."""

    def loss(learner: Learner, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch = sample_batch(learner.encoder, rng, size, lesson)
        answers, right = learner.answer_loss(batch, learner.symbolic_patches(batch))
        return answers, {"right": right}

    return loss


def image_loss(lesson: Lesson) -> Loss:
    """Answer questions about rendered images, and stay close to the words that each patch would be written with."""

    def loss(learner: Learner, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch = sample_batch(learner.encoder, rng, size, lesson)
        projected = learner.projected_patches(batch)
        answers, right = learner.answer_loss(batch, projected)
        cosine = F.cosine_similarity(projected.float(), learner.symbolic_patches(batch), dim=-1).mean()
        return answers + CLOSENESS * (1 - cosine), {"right": right, "cosine": cosine.item()}

    return loss


def part_of(name: str) -> str:
    """Say which part of the learner a parameter belongs to."""
    for part, fragment in PARTS.items():
        if fragment in name:
            return part
    raise ValueError(f"Parameter {name!r} belongs to no part of the learner; PARTS has to name one.")


# Looked up in this order: the word embeddings lie inside the language model.
PARTS = {
    "head": "patch_head",
    "tower": "vision_tower",
    "projector": "multi_modal_projector",
    "words": "embed_tokens",
    "language": "language_model",
    "output": "lm_head",
}

_LANGUAGE_MODEL = ("language", "output")

STAGES = (
    Stage("sight", 2000, 40, {"tower": 1e-3, "head": 1e-3}, sight_loss),
    Stage("alignment", 800, 40, {"projector": 3e-3, "tower": 5e-4}, writing_loss),
    Stage("words", 700, 40, dict.fromkeys(_LANGUAGE_MODEL, 2e-3), symbolic_loss(Lesson(24)), horizon=1400),
    Stage("language", 300, 40, dict.fromkeys(_LANGUAGE_MODEL, 1e-3), symbolic_loss(Lesson(crowded=0.25))),
    Stage(
        "tuning",
        800,
        40,
        {"projector": 5e-4, "tower": 2e-4, **dict.fromkeys(_LANGUAGE_MODEL, 1e-3)},
        image_loss(Lesson(crowded=0.25)),
    ),
)
