"""The second stage: the language model answers about patches that are written without a tower, words frozen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from benchmarks.training.loop import train_only
from mmtok.tiny.catalogue import NAMES
from mmtok.tiny.scenes import Scene, SceneSettings, draw, sample_scene
from mmtok.tiny.sprites import SpriteSheet

from .architecture import object_vectors, token_ids
from .conversations import IGNORED, ConversationEncoder, Encoded, converse, spread_patches
from .sight import EVEN, USUAL, PatchTargets, patch_targets

CROWDED = SceneSettings(7, 10, 26.0, 44.0)
SHARE_CROWDED = 0.15

# How the tower's slips are imitated: the share of object patches and of others that show a wrong class, and noise.
WRONG, FALSE, NOISE = 0.05, 0.003, 0.04

# A patch shows an object to the reader from this share on.
SEEN_SHARE = 0.35


def sample_reading_scene(crowded: bool, sheets: Mapping[str, SpriteSheet], rng: np.random.Generator) -> Scene:
    """Draw a scene as the questions are asked about."""
    settings = CROWDED if crowded else (EVEN if rng.random() < 0.3 else USUAL)
    return sample_scene(settings, rng, sheets)


def seen_labels(scene: Scene, targets: PatchTargets) -> NDArray[np.int64]:
    """Say which object each patch shows to the reader: (patches,), -1 for none; every object keeps its best patch."""
    order = {name: index for index, name in enumerate(scene.names)}
    owner = np.array([order[NAMES[index]] for index in targets.objects])
    labels = np.where(targets.shares >= SEEN_SHARE, owner, -1)
    for index in range(len(scene.objects)):
        own = np.where(owner == index, targets.shares, 0)
        if own.max() > 0 and not (labels == index).any():
            labels[own.argmax()] = index
    return labels


class LanguageLearner(nn.Module):
    """The language model, which reads up to `most` patches of a scene."""

    def __init__(
        self, model: LlavaForConditionalGeneration, sheets: Mapping[str, SpriteSheet], batch_size: int, most: int
    ) -> None:
        super().__init__()
        self.model = model
        self.sheets, self.batch_size, self.most = sheets, batch_size, most
        self.encoder = ConversationEncoder()
        self.register_buffer("vectors", object_vectors(model), persistent=False)
        train_only(self, ("language_model.layers", "language_model.norm", "lm_head"))

    def loss(self, rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Answer about one batch of scenes."""
        few = int(np.exp(rng.uniform(np.log(3), np.log(self.most))))
        count = self.most if rng.random() < 0.3 else few
        crowded = bool(rng.random() < SHARE_CROWDED)
        scenes = [sample_reading_scene(crowded, self.sheets, rng) for _ in range(self.batch_size)]
        targets = [patch_targets(scene, draw(scene, self.sheets)) for scene in scenes]
        labels = [seen_labels(scene, target) for scene, target in zip(scenes, targets, strict=True)]
        kept = [spread_patches(own, count, rng) for own in labels]
        turns = [converse(s, own[k], rng) for s, own, k in zip(scenes, labels, kept, strict=True)]
        encoded = self.encoder.encode(turns, count, rng)
        objects = np.stack([target.objects[k] for target, k in zip(targets, kept, strict=True)])
        shares = np.stack([target.shares[k] for target, k in zip(targets, kept, strict=True)])
        return answer_loss(self.model, imitated_patches(self.vectors, objects, shares, rng), encoded)


def imitated_patches(
    vectors: torch.Tensor, objects: NDArray[np.int64], shares: NDArray[np.float32], rng: np.random.Generator
) -> torch.Tensor:
    """Write patches as a tower would that slips now and then: (B, patches, hidden).

    Args:
        vectors: (objects + 1, hidden), see `object_vectors`.
        objects, shares: (B, patches), see `PatchTargets`.
        rng: generator.
    """
    background = len(NAMES)
    shares = np.clip(shares + 0.15 * rng.standard_normal(shares.shape) * (shares > 0), 0, 1).astype(np.float32)
    wrong = rng.random(objects.shape) < np.where(shares > 0.3, WRONG, 0)
    false = rng.random(objects.shape) < np.where(shares > 0.3, 0, FALSE)
    objects = np.where(wrong | false, rng.integers(0, background, objects.shape), objects)
    shares = np.where(false, np.float32(0.7), shares)
    other = vectors[torch.from_numpy(rng.integers(0, background + 1, objects.shape))]
    stray = torch.from_numpy(rng.beta(1, 6, (*objects.shape, 1)).astype(np.float32))
    share = torch.from_numpy(shares)[..., None]
    mixed = share * vectors[torch.from_numpy(objects)] + (1 - share) * vectors[-1]
    noise = torch.from_numpy(rng.standard_normal(mixed.shape, dtype=np.float32))
    return (1 - stray) * mixed + stray * other + NOISE * noise


def answer_loss(
    model: LlavaForConditionalGeneration, patches: torch.Tensor, encoded: Encoded
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of the answers, and the shares that are right, when the model reads these patches.

    Args:
        model: its language model reads.
        patches: (B, patches, hidden), in the place of the <image> tokens.
        encoded: conversations with as many <image> tokens.
    """
    words = model.get_input_embeddings()(encoded.input_ids)
    start, stop = encoded.image_start, encoded.image_start + patches.shape[1]
    embeds = torch.cat([words[:, :start], patches.to(words.dtype), words[:, stop:]], dim=1)
    # Padding is on the right, where causal attention never looks: no mask is needed.
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, :-1]
    chosen = encoded.labels[:, 1:] != IGNORED
    logits, labels = model.lm_head(hidden[chosen]).float(), encoded.labels[:, 1:][chosen]
    right = (logits.argmax(-1) == labels).float()
    digits = torch.isin(labels, torch.tensor([token_ids()[str(digit)] for digit in range(10)]))
    shown = {"right": right.mean().item(), "digits right": right[digits].mean().item()}
    return F.cross_entropy(logits, labels), shown
