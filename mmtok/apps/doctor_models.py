"""The models that `doctor.py` compares, each beside the stock model with the same weights, and inputs of two rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from configuration_mmtok import MMTokLlavaConfig
from mmtok.hub.families import FAMILIES
from mmtok.hub.prune import stock_class_of
from mmtok.tiny import checkpoint_path
from modeling_mmtok_llava import MMTokLlavaForConditionalGeneration

from .small_models import SMALL, VISION_END, VISION_START, small_config

# (device) -> the model, the stock model, inputs of both.
Maker = Callable[[torch.device], tuple[Any, Any, dict[str, torch.Tensor]]]


def makers() -> dict[str, Maker]:
    """What makes the models, by their names: the embedded one, and a small one of each further family of the release.

    The embedded one is a LLaVA-1.5.
    """
    small = {
        f"small {FAMILIES[model_type].title}": partial(_small, model_type)
        for model_type in SMALL
        if model_type != "llava" and FAMILIES[model_type].is_available()
    }
    return {"embedded LLaVA-1.5": _embedded, **small}


def _embedded(device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    path = checkpoint_path()
    stock = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32).to(device).eval()
    # Of its own type: transformers warns where the checkpoint's differs from that of the class.
    config = MMTokLlavaConfig.from_dict({**stock.config.to_dict(), "model_type": MMTokLlavaConfig.model_type})
    model = MMTokLlavaForConditionalGeneration.from_pretrained(path, config=config, dtype=torch.float32)
    model = model.to(device).eval()
    side = model.config.vision_config.image_size
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return model, stock, _prompts(model, {"pixel_values": pixels.to(device)})


def _small(model_type: str, device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A model of random weights, the stock model with the same, and two images."""
    torch.manual_seed(0)
    model_class, config = FAMILIES[model_type].load_class(), small_config(model_type)
    model = model_class(config).to(device).eval()
    for weight in model.parameters():
        # The default initialisation makes all tokens nearly alike, and so every selection a matter of rounding.
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    stock = stock_class_of(model_class)(config).to(device).eval()
    stock.load_state_dict(model.state_dict())
    images = SMALL[model_type].images(torch.Generator().manual_seed(0))
    return model, stock, _prompts(model, {name: value.to(device) for name, value in images.items()})


def _prompts(model: Any, images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A row for each image: words, the image between two markers, words; padded on the left."""
    image = model.config.image_token_id
    lengths = model.encode_images(**images).lengths
    rows = [
        [1, 5, VISION_START, *[image] * length, VISION_END, 7, 8 + number, 9] for number, length in enumerate(lengths)
    ]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device), **images}
    names = {"token_type_ids", "mm_token_type_ids"} & inspect.signature(model.forward).parameters.keys()
    return inputs | {name: (inputs["input_ids"] == image).int() for name in names}
