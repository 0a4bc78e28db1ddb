"""The embedded model is trained for five crops: its language model goes on with what the tower writes of them.

Tower and projector stay as they are, as in the last stage of the embedded model's own training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import LlavaNextForConditionalGeneration

from benchmarks.objects.held_out import training_sheets
from benchmarks.objects.restyle import restyle
from benchmarks.objects.tuning import SHARE_REDRAWN, TuningLearner, WrittenScene, written_scene
from benchmarks.training.loop import Run, Stage, train_stage
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.model_content import model_content
from mmtok.tiny.scenes import GRID, TRAINING_BACKGROUNDS, draw, sample_scene
from mmtok.tiny.sprites import SpriteSheet

from .crops_reader import CLUTTERED, SCALE, make_crops_checkpoint

CROPS = Stage("crops", 4, 600, rate=1e-3, matrix_rate=1e-3)
BATCH = 12
SCENES = 600
# Scenes that are written at once.
CHUNK = 20


def train_crops_checkpoint(base: Path, folder: Path, seed: int = 0) -> Path:
    """Writes a LLaVA-NeXT checkpoint whose language model was trained for five crops.

    Args:
        base: the embedded checkpoint.
        folder: replaced and returned; snapshots lie beside it, from which an interrupted training goes on. A finished
            one is not repeated.
        seed: of scenes and batches.
    """
    run = Run(folder.with_name(f"{folder.name}-{model_content(base)[-8:]}-{seed}"), seed=seed)
    finished, what = folder / ".trained", f"{model_content(base)}, seed {seed}"
    if finished.exists() and finished.read_text(encoding="utf-8") == what:
        return folder
    make_crops_checkpoint(base, folder)
    stock = LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    learner = TuningLearner(stock, write_crops(folder, training_sheets(), SCENES, run.seed), BATCH, share_counted=0.0)
    train_stage(run, CROPS, learner, learner.loss)
    stock.eval().save_pretrained(folder)
    finished.write_text(what, encoding="utf-8")
    return folder


@torch.no_grad()
def write_crops(reader: Path, sheets: Mapping[str, SpriteSheet], count: int, seed: int) -> list[WrittenScene]:
    """Draws scenes and lets a LLaVA-NeXT checkpoint write their crops: 744 tokens each, row separators among them."""
    checkpoint = Checkpoint.load(reader)
    settings = replace(CLUTTERED, backgrounds=TRAINING_BACKGROUNDS)
    written: list[WrittenScene] = []
    for start in range(0, count, CHUNK):
        rng = np.random.default_rng([seed, CROPS.number, start, CHUNK])
        scenes = [sample_scene(settings, rng, sheets) for _ in range(min(CHUNK, count - start))]
        whole, tiles = (
            [draw(scene, sheets, restyle, SHARE_REDRAWN, scale=SCALE, grid=grid) for scene in scenes]
            for grid in (GRID, SCALE * GRID)
        )
        images = [Image.fromarray(drawing.pixels) for drawing in whole]
        inputs = checkpoint.processor.image_processor(images=images, return_tensors="pt")
        encoded = checkpoint.model.encode_images(**inputs)
        written += [
            joined_crops(written_scene(scene, tokens[: GRID**2], coarse), written_scene(scene, tokens[GRID**2 :], fine))
            for scene, tokens, coarse, fine in zip(scenes, encoded.projected, whole, tiles, strict=True)
        ]
    return written


def joined_crops(whole: WrittenScene, tiles: WrittenScene) -> WrittenScene:
    """The tokens of a whole image, and then those of its tiles, whose rows end in a separator that shows nothing.

    Args:
        whole: (patches,) all over.
        tiles: `patches` with the row separators, the rest without.
    """

    def rows(values: NDArray[Any], separator: int) -> NDArray[Any]:
        side = SCALE * GRID
        return np.pad(values.reshape(side, side), ((0, 0), (0, 1)), constant_values=separator).reshape(-1)

    return WrittenScene(
        whole.scene,
        torch.cat([whole.patches, tiles.patches]).bfloat16(),
        np.concatenate([whole.labels, rows(tiles.labels, -1)]),
        np.concatenate([whole.empty, rows(tiles.empty, 0)]),
        np.concatenate([whole.owners, rows(tiles.owners, 0)]),
    )
