"""Random LLaVA checkpoints for serving.py: as many vision tokens as the published ones, a small language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from shapes import PINPOINTS, Shape
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mmtok.publish.recipe import Recipe
from mmtok.publish.stage import stage

WORDS = 1000
# The vision tower, whose last layer is not run, has a larger part of the operations than in LLaVA-1.5-7B: there is less
# for pruning to gain.
MODELS = {
    name: Shape(
        name,
        name == "LLaVA-NeXT",
        hidden=1024,
        mlp=2816,
        heads=16,
        layers=8,
        kv_heads=16,
        vision_layers=3,
        vision_hidden=512,
        vision_mlp=2048,
        vision_heads=8,
        vocabulary=1024,
        image_token=WORDS,
    )
    for name in ("LLaVA", "LLaVA-NeXT")
}


def make(name: str, folder: Path) -> tuple[Path, Path]:
    """Writes a stock checkpoint and the staged one of the same weights, unless they exist; returns both folders."""
    stock, staged = folder / name / "stock", folder / name / "staged"
    if not (staged / "config.json").exists():
        torch.manual_seed(0)
        stock_class, _ = MODELS[name].classes
        model = stock_class(MODELS[name].config(stock_class))
        model.generation_config.eos_token_id = None
        model.save_pretrained(stock)
        _name_as_published(stock / "model.safetensors")
        _processor(name).save_pretrained(stock)
        stage(stock, staged, Recipe(options={"vision_token_budget": 64}), check=False)
    return stock, staged


def image(name: str, seed: int) -> Image.Image:
    """Noise of one crop, or for LLaVA-NeXT of five."""
    side = MODELS[name].image_size * (2 if MODELS[name].next else 1)
    pixels = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def _name_as_published(file: Path) -> None:
    """Gives the tower's tensors the names of the llava-hf repositories, which vLLM looks for."""
    tower, published = "vision_tower.", "vision_tower.vision_model."
    tensors = load_file(file)
    save_file(
        {
            name if published in name else name.replace(tower, published): tensor.clone()
            for name, tensor in tensors.items()
        },
        file,
        metadata={"format": "pt"},
    )


def _processor(name: str) -> Any:
    vocabulary = {**{f"w{index}": index for index in range(WORDS)}, "<image>": WORDS}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="w1", extra_special_tokens={"image_token": "<image>"}
    )
    side = MODELS[name].image_size
    settings = {
        "patch_size": MODELS[name].patch_size,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    if name == "LLaVA":
        return LlavaProcessor(CLIPImageProcessor(**sizes), tokenizer, **settings)
    return LlavaNextProcessor(LlavaNextImageProcessor(**sizes, image_grid_pinpoints=PINPOINTS), tokenizer, **settings)
