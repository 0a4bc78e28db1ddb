"""Whether vision tokens still say where in the image they were: a linear probe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from benchmarks.embedded_model.architecture import CROWDED, PLAIN, vision_features
from benchmarks.embedded_model.samples import to_pixel_values
from mmtok.tiny.scenes import sample_scene


def places() -> torch.Tensor:
    """(patches, 2), column and row of each patch, from -1 to 1."""
    line = torch.linspace(-1, 1, PLAIN.grid)
    return torch.stack([line.repeat(PLAIN.grid), line.repeat_interleave(PLAIN.grid)], dim=-1)


@torch.no_grad()
def place_kept(checkpoint: Path, *, seed: int, scenes: int = 240) -> dict[str, float]:
    """How much a linear probe finds of the place of a patch that shows an object.

    Args:
        checkpoint: in the layout of LLaVA-1.5.
        seed: of the images, crowded ones.
        scenes: how many; the probe is fitted to two thirds of them and measured on the rest.

    Returns:
        `tower` and `projected`: the share of the variance of row and column that is explained (R squared, 0 for
        nothing), from the tower's features that are projected, and from the projected tokens.
    """
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    drawn = [sample_scene(CROWDED, np.random.default_rng([seed, number])) for number in range(scenes)]
    shows = torch.from_numpy(np.stack([scene.patch_labels() for scene in drawn])) >= 0
    raw = torch.cat([vision_features(model, to_pixel_values([scene.pixels()])) for scene in drawn])
    fitted = torch.arange(scenes)[:, None].expand_as(shows) < scenes * 2 // 3
    truth = places().double().expand(*shows.shape, 2)
    found = {}
    for name, features in (("tower", raw), ("projected", model.model.multi_modal_projector(raw))):
        features = F.pad(features.double(), (0, 1), value=1.0)
        known, asked = features[shows & fitted], features[shows & ~fitted]
        ridge = 1e-2 * torch.eye(features.shape[-1], dtype=torch.double)
        weights = torch.linalg.solve(known.T @ known + ridge, known.T @ truth[shows & fitted])
        wanted = truth[shows & ~fitted]
        error = (asked @ weights - wanted).square().mean(0)
        found[name] = round(float((1 - error / wanted.var(0, correction=0)).mean()), 4)
    return found
