"""The embedded model in the layout of LLaVA-NeXT, and its language model trained further for five crops.

An image of 288 x 288 becomes the whole image at half its size and four tiles, with row separators: 744 tokens. A row
separator is the word <image>, as which the model reads background. Tower and projector stay as they are, as in the last
stage of the embedded model's own training.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaNextConfig, LlavaNextForConditionalGeneration

from benchmarks.objects.held_out import training_sheets
from benchmarks.objects.sight import restyle
from benchmarks.objects.tuning import SHARE_REDRAWN, TuningLearner, WrittenScene, written_scene
from benchmarks.training.loop import Run, Stage, train_stage
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.record_store import model_content
from mmtok.tiny.scenes import GRID, HELD_OUT_BACKGROUNDS, SIDE, TRAINING_BACKGROUNDS, SceneSettings, draw, sample_scene
from mmtok.tiny.sprites import SpriteSheet

# The whole image is one of the crowded scenes; a tile shows a quarter of it, with objects twice as large.
CLUTTERED = SceneSettings(8, 11, 26.0, 36.0, backgrounds=HELD_OUT_BACKGROUNDS)
SCALE = 2
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
CROPS = Stage("crops", 4, 600, rate=1e-3, matrix_rate=1e-3)
BATCH = 12
SCENES = 600
# Scenes that are written at once.
CHUNK = 20


def make_crops_checkpoint(base: Path, folder: Path) -> Path:
    """Writes a LLaVA-NeXT checkpoint with the weights of an embedded one; `folder` is replaced and returned."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in base.iterdir():
        if path.suffix in (".json", ".jinja") and path.name not in ("config.json", "training_report.json"):
            shutil.copy(path, folder / path.name)
    _edit(folder / "tokenizer_config.json", processor_class="LlavaNextProcessor")
    _edit(folder / "processor_config.json", processor_class="LlavaNextProcessor")
    _edit(
        folder / "preprocessor_config.json",
        processor_class="LlavaNextProcessor",
        image_processor_type="LlavaNextImageProcessor",
        do_pad=True,
        image_grid_pinpoints=PINPOINTS,
    )
    stock = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    values = {key: value for key, value in stock.config.to_dict().items() if key not in ("model_type", "_name_or_path")}
    with torch.random.fork_rng(devices=[]):
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(**{**values, "image_grid_pinpoints": PINPOINTS}))
    model.load_state_dict(stock.state_dict(), strict=False)  # all but image_newline
    with torch.no_grad():
        model.model.image_newline.copy_(stock.get_input_embeddings().weight[stock.config.image_token_id])
    model.generation_config = stock.generation_config
    model.eval().save_pretrained(folder)
    return folder


def _edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


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
