"""The first stage: the vision tower and the projector learn to write every patch as what it shows.

A patch is written as a mix of its object's word and of <image>, by how much of it the object covers: full in the patch
that the object covers most, less towards its edges. A text row then finds the middle of an object, not its outline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from benchmarks.training.loop import train_only
from mmtok.tiny.catalogue import NAMES
from mmtok.tiny.scenes import Drawing, Scene, SceneSettings, draw, sample_scene
from mmtok.tiny.sprites import SpriteSheet

from .architecture import object_vectors, vision_features

# Scenes full of objects teach most per patch; the others keep the tower used to empty ones.
FULL = SceneSettings(9, 14, 28.0, 58.0, even=True)
EVEN = SceneSettings(even=True)
USUAL = SceneSettings()
SHARE_FULL = 0.7

# Patches without an object are many: each of those counts this much.
BACKGROUND_WEIGHT = 0.2

# Cosines are multiplied by this before their softmax over the objects.
SHARPNESS = 12.0

NAME_INDEX = {name: index for index, name in enumerate(NAMES)}


@dataclass(frozen=True)
class PatchTargets:
    """What patches are to be written as.

    Attributes:
        objects: (..., patches) int64, index into `NAMES` of the object that covers most of the patch.
        shares: (..., patches) float32, 0 for background to 1 for that object alone.
    """

    objects: NDArray[np.int64]
    shares: NDArray[np.float32]


def patch_targets(scene: Scene, drawing: Drawing) -> PatchTargets:
    """Grade patches by coverage, relative to the best patch of the object, so that thin objects are written too."""
    coverage = drawing.coverage
    classes = np.array([NAME_INDEX[name] for name in scene.names])
    best = np.maximum(coverage.max(1, keepdims=True), 0.05)
    visible = np.clip((coverage - 0.03) / np.minimum(0.12, 0.6 * best), 0, 1)
    shares = visible * (0.5 + 0.5 * np.clip(coverage / np.minimum(best, 0.9), 0, 1))
    winner = coverage.argmax(0)
    return PatchTargets(classes[winner], np.take_along_axis(shares, winner[None], 0)[0].astype(np.float32))


class SightLearner(nn.Module):
    """The tower, the projector, and a linear head that names patches from the features that LLaVA reads."""

    def __init__(
        self, model: LlavaForConditionalGeneration, sheets: Mapping[str, SpriteSheet], batch_size: int
    ) -> None:
        super().__init__()
        self.model = model
        self.sheets, self.batch_size = sheets, batch_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.patch_head = nn.Linear(model.config.vision_config.hidden_size, len(NAMES) + 1)
        self.register_buffer("vectors", object_vectors(model), persistent=False)
        train_only(self, ("vision_tower", "multi_modal_projector", "patch_head"))

    def loss(self, rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Name and write every patch of a batch; the share of redrawn sprites falls towards the end."""
        changed = 0.5 if done < 0.75 else 0.25
        pixels, targets = [], []
        for _ in range(self.batch_size):
            settings = FULL if rng.random() < SHARE_FULL else (EVEN if rng.random() < 0.5 else USUAL)
            scene = sample_scene(settings, rng, self.sheets)
            drawing = draw(scene, self.sheets, restyle, changed)
            pixels.append(drawing.pixels)
            targets.append(patch_targets(scene, drawing))
        objects = torch.from_numpy(np.stack([target.objects for target in targets])).flatten()
        shares = torch.from_numpy(np.stack([target.shares for target in targets])).flatten()
        raw = vision_features(self.model, to_pixel_values(np.stack(pixels)))
        written = self.model.model.multi_modal_projector(raw).float().flatten(0, 1)
        cosines = F.normalize(written, dim=-1) @ self.vectors.T.float()
        error = self._error(written, objects, shares)
        loss = _graded(self.patch_head(raw).float().flatten(0, 1), objects, shares)
        loss = loss + _graded(SHARPNESS * cosines, objects, shares) + 2 * error
        clear = shares > 0.5
        right = (cosines.argmax(-1) == objects)[clear].float().mean().item()
        return loss, {"right": right, "error": error.item()}

    def _error(self, written: torch.Tensor, objects: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """The squared error of the written patches against the mix of word and background."""
        vectors = self.vectors
        target = shares[:, None] * vectors[objects] + (1 - shares[:, None]) * vectors[-1]
        weight = shares + BACKGROUND_WEIGHT * (1 - shares)
        return (weight * (written - target).square().sum(-1)).sum() / weight.sum()


def _graded(logits: torch.Tensor, objects: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Cross entropy of a patch's object and of the background, in proportion to the patch's shares."""
    logs = logits.log_softmax(-1)
    background = BACKGROUND_WEIGHT * (1 - shares)
    named = logs.gather(1, objects[:, None])[:, 0]
    return -(shares * named + background * logs[:, -1]).sum() / (shares + background).sum()


def to_pixel_values(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Scale images as the image processor does: uint8 (B, H, W, 3) to float32 (B, 3, H, W), -1 ... 1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


Sprite = Image.Image


def restyle(sprite: Sprite, rng: np.random.Generator) -> Sprite:
    """Change proportions, colours, outline and sharpness of a drawing (RGBA), each with some probability."""
    if rng.random() < 0.7:
        width = max(2, round(sprite.width * rng.uniform(0.78, 1.25)))
        sprite = sprite.resize((width, sprite.height), Image.Resampling.BILINEAR)
    if rng.random() < 0.4:
        shear = (1, rng.uniform(-0.25, 0.25), 0, rng.uniform(-0.12, 0.12), 1, 0)
        sprite = sprite.transform(sprite.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    sprite = _recolor(sprite, rng)
    if rng.random() < 0.3:
        sprite = _outline(sprite, 2 * int(rng.integers(1, 3)) + 1, rng)
    if rng.random() < 0.15:
        sprite = sprite.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5)))
    return sprite


def _recolor(sprite: Sprite, rng: np.random.Generator) -> Sprite:
    """Change hue, saturation, gamma, contrast and brightness."""
    pixels = np.asarray(sprite).copy()
    rgb = pixels[..., :3].astype(np.float32) / 255
    angle = rng.normal(0, 0.35) if rng.random() < 0.75 else rng.uniform(-np.pi, np.pi)
    saturation = rng.uniform(0.3, 1.5) if rng.random() < 0.93 else 0.0
    gray = rgb.mean(-1, keepdims=True)
    rgb = (gray + saturation * (rgb - gray)) @ hue_rotation(angle).T
    rgb = rgb.clip(0, 1) ** rng.uniform(0.6, 1.6)
    rgb = 0.5 + (rgb - 0.5) * rng.uniform(0.7, 1.3) + rng.uniform(-0.1, 0.1)
    pixels[..., :3] = (255 * rgb).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def hue_rotation(angle: float) -> np.ndarray:
    """The rotation of RGB about the grey axis by an angle in radians: (3, 3) float32; greys stay as they are."""
    cosine, sine = np.cos(angle), np.sin(angle) / np.sqrt(3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return np.asarray(cosine * np.eye(3) + (1 - cosine) / 3 + sine * cross, np.float32)


def _outline(sprite: Sprite, width: int, rng: np.random.Generator) -> Sprite:
    """Put a dark line around what is drawn."""
    canvas = Image.new("RGBA", (sprite.width + 6, sprite.height + 6))
    canvas.paste(sprite, (3, 3))
    line = Image.new("RGBA", canvas.size, (*(int(value) for value in rng.integers(0, 60, 3)), 255))
    line.putalpha(canvas.getchannel("A").filter(ImageFilter.MaxFilter(width)))
    line.alpha_composite(canvas)
    return line
