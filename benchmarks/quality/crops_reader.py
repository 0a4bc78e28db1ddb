"""The embedded model in the layout of LLaVA-NeXT: the same weights, on images of five crops.

An image of 288 x 288 becomes the whole image at half its size and four tiles, with row separators: 744 tokens. Nothing
is trained here (see crops_training.py). A row separator is the word <image>, as which the model reads background.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration, LlavaNextConfig, LlavaNextForConditionalGeneration

from mmtok.tiny.scenes import HELD_OUT_BACKGROUNDS, SIDE, SceneSettings

# The whole image is one of the crowded scenes; a tile shows a quarter of it, with objects twice as large.
CLUTTERED = SceneSettings(8, 11, 26.0, 36.0, backgrounds=HELD_OUT_BACKGROUNDS)
SCALE = 2
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


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
