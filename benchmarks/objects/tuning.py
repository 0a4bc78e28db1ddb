"""The third stage: the language model goes on with what the trained tower writes; tower and projector stay as they are.

Because they do, the patches of the stage's scenes are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration

from benchmarks.training.loop import mixed_precision, train_only
from mmtok.tiny.questions import Question, absent_question
from mmtok.tiny.scenes import Drawing, Scene, draw
from mmtok.tiny.sprites import SpriteSheet

from .architecture import object_vectors, vision_features
from .conversations import ConversationEncoder, converse, patches_towards, spread_patches
from .language import answer_loss, sample_reading_scene, seen_labels
from .sight import NAME_INDEX, patch_targets, restyle, to_pixel_values

# Scenes that are drawn at once.
CHUNK = 40
SHARE_REDRAWN = 0.3
SHARE_CROWDED = 0.25

# Of the batches, so many ask for a count first, and of these so many see all patches. Of the others, so many see all
# patches, and so many the patches that are closest to a word which is asked for.
SHARE_COUNTED = 0.5
SHARE_COUNTED_COMPLETE = 0.4
SHARE_COMPLETE = 0.2
SHARE_TOWARDS = 0.5

# A count is asked of this many patches at least.
FEWEST_COUNTED = 4

# Of the scenes that are counted, so many lose some of their objects, which makes many scenes of one.
SHARE_EMPTIED = 0.6


@dataclass(frozen=True)
class WrittenScene:
    """A scene as the tower writes it.

    Attributes:
        scene: the scene.
        patches: (patches, hidden), behind the projector; bfloat16.
        labels: (patches,) the object that each patch shows to the reader, -1 for none (see `seen_labels`).
        empty: (patches,) bool, where a patch shows no part of any object.
        owners: (patches,) the object that covers most of each patch, wherever it is not empty.
    """

    scene: Scene
    patches: torch.Tensor
    labels: NDArray[np.int64]
    empty: NDArray[np.bool_]
    owners: NDArray[np.int64]

    def without(self, dropped: NDArray[np.int64], rng: np.random.Generator) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """Return patches and labels with some objects replaced by empty patches of the same scene."""
        gone = np.flatnonzero(np.isin(self.owners, dropped) & ~self.empty)
        free = np.flatnonzero(self.empty)
        if not len(free):
            return self.patches, self.labels
        patches, labels = self.patches.clone(), self.labels.copy()
        patches[torch.from_numpy(gone)] = self.patches[torch.from_numpy(rng.choice(free, len(gone)))]
        labels[gone] = -1
        return patches, labels


@torch.no_grad()
def write_scenes(
    model: LlavaForConditionalGeneration, sheets: Mapping[str, SpriteSheet], count: int, seed: int
) -> list[WrittenScene]:
    """Draw scenes and let the tower write them."""
    written: list[WrittenScene] = []
    for start in range(0, count, CHUNK):
        rng = np.random.default_rng([seed, 3, start, CHUNK])
        scenes = [
            sample_reading_scene(bool(rng.random() < SHARE_CROWDED), sheets, rng)
            for _ in range(min(CHUNK, count - start))
        ]
        drawings = [draw(scene, sheets, restyle, SHARE_REDRAWN) for scene in scenes]
        pixel_values = to_pixel_values(np.stack([drawing.pixels for drawing in drawings]))
        with mixed_precision():
            patches = model.model.multi_modal_projector(vision_features(model, pixel_values)).bfloat16()
        written += [written_scene(*item) for item in zip(scenes, patches, drawings, strict=True)]
    return written


def written_scene(scene: Scene, patches: torch.Tensor, drawing: Drawing) -> WrittenScene:
    """Keep what was written of a scene with the truth about it."""
    targets = patch_targets(scene, drawing)
    empty = drawing.coverage.max(0) <= 0.03
    return WrittenScene(scene, patches, seen_labels(scene, targets), empty, drawing.coverage.argmax(0))


class TuningLearner(nn.Module):
    """The language model, which reads what the tower wrote."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration | LlavaNextForConditionalGeneration,
        scenes: list[WrittenScene],
        batch_size: int,
        share_counted: float = SHARE_COUNTED,
    ) -> None:
        """
        Args:
            model: its language model learns.
            scenes: all of the same number of patches.
            batch_size: scenes at once.
            share_counted: of the batches, so many ask for a count first.
        """
        super().__init__()
        self.model = model
        self.scenes, self.batch_size, self.share_counted = scenes, batch_size, share_counted
        self.patches = len(scenes[0].labels)
        self.encoder = ConversationEncoder()
        self.register_buffer("vectors", F.normalize(object_vectors(model), dim=-1), persistent=False)
        train_only(self, ("language_model.layers", "language_model.norm", "lm_head"))

    def loss(self, rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Answer about one batch of scenes, of which the same number of patches is seen."""
        chosen = [self.scenes[i] for i in rng.choice(len(self.scenes), self.batch_size, replace=False)]
        if rng.random() < self.share_counted:
            value, shown = self._count(chosen, rng)
            return value, {"counts right": shown["digits right"]}
        few = int(np.exp(rng.uniform(np.log(2), np.log(self.patches))))
        count = self.patches if rng.random() < SHARE_COMPLETE else few
        towards = bool(rng.random() < SHARE_TOWARDS)
        kept, turns = [], []
        for item in chosen:
            asked = _asked_name(item.scene, rng) if towards else ""
            if asked:
                liking = F.cosine_similarity(item.patches.float(), self.vectors[NAME_INDEX[asked]], dim=-1).numpy()
                kept.append(patches_towards(liking, item.labels, count, rng))
            else:
                kept.append(spread_patches(item.labels, count, rng))
            turns.append(converse(item.scene, item.labels[kept[-1]], rng, asked))
        patches = torch.stack([item.patches[k] for item, k in zip(chosen, kept, strict=True)])
        return answer_loss(self.model, patches, self.encoder.encode(turns, count, rng))

    def _count(self, chosen: list[WrittenScene], rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """Count objects, on all patches or on some, the same number for each scene."""
        count = self.patches
        if rng.random() >= SHARE_COUNTED_COMPLETE:
            count = int(np.exp(rng.uniform(np.log(FEWEST_COUNTED), np.log(self.patches))))
        asked = [counted(item, count, rng) for item in chosen]
        patches = torch.stack([patches for patches, _ in asked])
        turns = [turns for _, turns in asked]
        return answer_loss(self.model, patches, self.encoder.encode(turns, count, rng))


def counted(item: WrittenScene, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, list[Question]]:
    """Return `count` patches of a scene, of which some have lost a part of the objects, and questions about them."""
    present = np.arange(len(item.scene.objects))
    lost = int(rng.integers(len(present))) if rng.random() < SHARE_EMPTIED else 0
    patches, labels = item.without(rng.permutation(present)[:lost], rng)
    kept = spread_patches(labels, count, rng)
    return patches[torch.from_numpy(kept)], converse(item.scene, labels[kept], rng, counted=True)


def _asked_name(scene: Scene, rng: np.random.Generator) -> str:
    """The name of an object that is there, or as often of one that is not."""
    if rng.random() < 0.5:
        return scene.names[rng.integers(len(scene.names))]
    return absent_question(scene, rng, "adversarial" if rng.random() < 0.5 else "random").name
