"""Random LLaVA checkpoints for serving.py: as many vision tokens as the published ones, a small language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from shapes import PINPOINTS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mmtok.publish.recipe import Recipe
from mmtok.publish.stage import stage

MODELS = ("LLaVA", "LLaVA-NeXT")
CROP, PATCH = 336, 14
CROP_TOKENS = (CROP // PATCH) ** 2
WORDS, IMAGE_TOKEN, VOCABULARY = 1000, 1000, 1024
# The vision tower, whose last layer is not run, has a larger part of the operations than in LLaVA-1.5-7B: there is less
# for pruning to gain.
LANGUAGE = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
}
VISION = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "image_size": CROP,
    "patch_size": PATCH,
}


def make(name: str, folder: Path) -> tuple[Path, Path]:
    """Writes a stock checkpoint and the staged one of the same weights, unless they exist; returns both folders."""
    stock, staged = folder / name / "stock", folder / name / "staged"
    if not (staged / "config.json").exists():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(_config(name))
        model.generation_config.eos_token_id = None
        model.save_pretrained(stock)
        _name_as_published(stock / "model.safetensors")
        _processor(name).save_pretrained(stock)
        stage(stock, staged, Recipe(options={"vision_token_budget": 64}), check=False)
    return stock, staged


def image(name: str, seed: int) -> Image.Image:
    """Noise of one crop, or for LLaVA-NeXT of five."""
    side = CROP if name == "LLaVA" else 2 * CROP
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


def _config(name: str) -> Any:
    fields = {
        "text_config": LlamaConfig(**LANGUAGE).to_dict(),
        "vision_config": CLIPVisionConfig(**VISION).to_dict(),
        "image_token_index": IMAGE_TOKEN,
        "image_seq_length": CROP_TOKENS,
    }
    return LlavaConfig(**fields) if name == "LLaVA" else LlavaNextConfig(**fields, image_grid_pinpoints=PINPOINTS)


def _processor(name: str) -> Any:
    vocabulary = {**{f"w{index}": index for index in range(WORDS)}, "<image>": IMAGE_TOKEN}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="w1", extra_special_tokens={"image_token": "<image>"}
    )
    settings = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    sizes = {"size": {"shortest_edge": CROP}, "crop_size": {"height": CROP, "width": CROP}}
    if name == "LLaVA":
        return LlavaProcessor(CLIPImageProcessor(**sizes), tokenizer, **settings)
    return LlavaNextProcessor(LlavaNextImageProcessor(**sizes, image_grid_pinpoints=PINPOINTS), tokenizer, **settings)
