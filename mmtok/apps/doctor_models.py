"""The models that `doctor.py` compares, each beside the stock model with the same weights, and inputs of two rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from configuration_mmtok import MMTokLlavaConfig
from mmtok.hub.families import FAMILIES
from mmtok.hub.grids import GridModel
from mmtok.hub.prune import stock_class_of
from mmtok.tiny import checkpoint_path
from modeling_mmtok_llava import MMTokLlavaForConditionalGeneration

# Families that every supported release has: one crop, tiles, a mosaic, grids, grids with DeepStack.
COMPARED = ("llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl")
_TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
_VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 6,
}
# Of models whose images keep their size: the vision tower, with every field that a family has; others keep them unread.
_TOWER = {
    "depth": 3,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 3,
    "window_size": 12,
    "fullatt_block_indexes": [1],
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
}
_ROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
# By the names of either of two releases.
_SECTIONS = {"rope_scaling": {**_ROPE, "type": "default"}, "rope_parameters": _ROPE}

# (device) -> the model, the stock model, inputs of both.
Maker = Callable[[torch.device], tuple[Any, Any, dict[str, torch.Tensor]]]


def makers() -> dict[str, Maker]:
    """What makes the models, by their names: the embedded one, and a small one for each further kind of images."""
    made: dict[str, Maker] = {"embedded LLaVA-1.5": _embedded}
    for model_type in COMPARED[1:]:
        model_class = FAMILIES[model_type].load_class()
        make = _with_grids if issubclass(model_class, GridModel) else _with_tiles
        made[f"small {FAMILIES[model_type].title}"] = partial(make, model_class)
    return made


def _embedded(device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    path = checkpoint_path()
    stock = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32).to(device).eval()
    # Of its own type: transformers warns where the checkpoint's differs from that of the class.
    config = MMTokLlavaConfig.from_dict({**stock.config.to_dict(), "model_type": MMTokLlavaConfig.model_type})
    model = MMTokLlavaForConditionalGeneration.from_pretrained(path, config=config, dtype=torch.float32)
    model = model.to(device).eval()
    side = model.config.vision_config.image_size
    tokens = (side // model.config.vision_config.patch_size) ** 2
    inputs = _prompts(model, [tokens, tokens])
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return model, stock, {**inputs, "pixel_values": pixels.to(device)}


def _with_tiles(model_class: Any, device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A model with tiles of random weights, the stock model with the same, and two images."""
    torch.manual_seed(0)
    config = model_class.config_class(
        text_config={**_TEXT, "model_type": "qwen2"},
        vision_config={**_VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        vision_feature_select_strategy="full",
        image_token_index=63,
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
    )
    model, stock = _random(model_class, config, device)
    sizes = torch.tensor([[48, 48], [40, 40]])
    pixels = torch.rand(2, 5, 3, 24, 24, generator=torch.Generator().manual_seed(0)).to(device)
    images = {"pixel_values": pixels, "image_sizes": sizes}
    lengths = model.encode_images(**images).lengths
    return model, stock, {**_prompts(model, lengths), **images}


def _with_grids(model_class: Any, device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A model of random weights whose images keep their size, the stock model with the same, and two images."""
    torch.manual_seed(0)
    ids = {"image_token_id": 63, "video_token_id": 62, "vision_start_token_id": 61, "vision_end_token_id": 60}
    # Those that the class presumes are not in so small a vocabulary.
    text = {**_TEXT, **_SECTIONS, "bos_token_id": None, "eos_token_id": None}
    config = model_class.config_class(text_config=text, vision_config=_TOWER, **ids)
    model, stock = _random(model_class, config, device)
    grids = torch.tensor([[1, 8, 8], [1, 4, 12]], device=device)
    pixels = torch.rand(64 + 48, 3 * 2 * 3 * 3, generator=torch.Generator().manual_seed(0)).to(device)
    inputs = _prompts(model, [16, 12], in_front=[61], behind=[60])
    if "mm_token_type_ids" in inspect.signature(stock.forward).parameters:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == 63).int()
    return model, stock, {**inputs, "pixel_values": pixels, "image_grid_thw": grids}


def _random(model_class: Any, config: Any, device: torch.device) -> tuple[Any, Any]:
    """A model and the stock model with the same random weights."""
    model = model_class(config).to(device).eval()
    for weight in model.parameters():
        # The default initialisation makes all tokens nearly alike, and so every selection a matter of rounding.
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    stock = stock_class_of(model_class)(config).to(device).eval()
    stock.load_state_dict(model.state_dict())
    return model, stock


def _prompts(
    model: Any, lengths: list[int], in_front: Sequence[int] = (), behind: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """A row for each image of so many tokens: words, the image between its markers, words; padded on the left."""
    image = model.config.image_token_id
    rows = [[1, 5, *in_front, *[image] * length, *behind, 7, 8 + number, 9] for number, length in enumerate(lengths)]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
