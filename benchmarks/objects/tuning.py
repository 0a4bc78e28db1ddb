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
from transformers import LlavaForConditionalGeneration

from .architecture import object_vectors, vision_features
from .conversations import ConversationEncoder, converse, patches_towards, spread_patches
from .language import SHARE_CROWDED, answer_loss, sample_reading_scene, seen_labels
from .loop import train_only
from .questions import absent_question
from .restyle import restyle
from .scenes import GRID, Scene, draw
from .sight import NAME_INDEX, patch_targets, to_pixel_values
from .sprites import SpriteSheet

# Scenes that are drawn at once.
CHUNK = 40
SHARE_REDRAWN = 0.3

# Of the batches, so many see all patches, and so many the patches that are closest to a word which is asked for.
SHARE_COMPLETE = 0.2
SHARE_TOWARDS = 0.5


@dataclass(frozen=True)
class WrittenScene:
    """A scene with its patches behind the projector, (patches, hidden), and what each of them shows, (patches,)."""

    scene: Scene
    patches: torch.Tensor
    labels: NDArray[np.int64]


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
        with torch.autocast("cpu", torch.bfloat16):
            patches = model.model.multi_modal_projector(vision_features(model, pixel_values)).float()
        labels = [seen_labels(scene, patch_targets(scene, d)) for scene, d in zip(scenes, drawings, strict=True)]
        written += map(WrittenScene, scenes, patches, labels)
    return written


class TuningLearner(nn.Module):
    """The language model, which reads what the tower wrote."""

    def __init__(self, model: LlavaForConditionalGeneration, scenes: list[WrittenScene], batch_size: int) -> None:
        super().__init__()
        self.model = model
        self.scenes, self.batch_size = scenes, batch_size
        self.encoder = ConversationEncoder()
        self.register_buffer("vectors", F.normalize(object_vectors(model), dim=-1), persistent=False)
        train_only(self, ("language_model.layers", "language_model.norm", "lm_head"))

    def loss(self, rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Answer about one batch of scenes, of which the same number of patches is seen."""
        few = int(np.exp(rng.uniform(np.log(2), np.log(GRID**2))))
        count = GRID**2 if rng.random() < SHARE_COMPLETE else few
        chosen = [self.scenes[i] for i in rng.choice(len(self.scenes), self.batch_size, replace=False)]
        towards = bool(rng.random() < SHARE_TOWARDS)
        kept, turns = [], []
        for item in chosen:
            asked = _asked_name(item.scene, rng) if towards else ""
            if asked:
                liking = F.cosine_similarity(item.patches, self.vectors[NAME_INDEX[asked]], dim=-1).numpy()
                kept.append(patches_towards(liking, item.labels, count, rng))
            else:
                kept.append(spread_patches(item.labels, count, rng))
            turns.append(converse(item.scene, item.labels[kept[-1]], rng, asked))
        patches = torch.stack([item.patches[k] for item, k in zip(chosen, kept, strict=True)])
        return answer_loss(self.model, patches, self.encoder.encode(turns, count, rng))


def _asked_name(scene: Scene, rng: np.random.Generator) -> str:
    """The name of an object that is there, or as often of one that is not."""
    if rng.random() < 0.5:
        return scene.names[rng.integers(len(scene.names))]
    return absent_question(scene, rng, "adversarial" if rng.random() < 0.5 else "random").name
