"""A small model of every family: its configuration, and two images as its processor would give them.

`doctor.py` compares them with stock, and the tests are written with the same configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mmtok.hub.families import FAMILIES

PAD, BOS, EOS, IMAGE, VIDEO, VISION_START, VISION_END, VOCABULARY = 0, 1, 2, 99, 100, 101, 102, 120
# Of towers whose images have one size.
IMAGE_SIZE, PATCH_SIZE = 24, 6
TOKENS_PER_CROP = (IMAGE_SIZE // PATCH_SIZE) ** 2
PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]

Images = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Small:
    """Fields of a configuration that are not those of every family: of language model, tower and model.

    `images` makes the image arguments of two images of a generator; the first has 4 x 4 tokens or more.
    """

    images: Callable[[torch.Generator], Images]
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    fields: Mapping[str, Any] = field(default_factory=dict)


def small_config(model_type: str, **options: Any) -> Any:
    """A configuration of the class that prunes the models of a stock model type, with these `PruningOptions`."""
    small = SMALL[model_type]
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        **small.text,
    }
    config_class = FAMILIES[model_type].load_class().config_class
    return config_class(text_config=text, vision_config=dict(small.vision), **small.fields, **options)


def _square(generator: torch.Generator) -> Images:
    return {"pixel_values": torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)}


def _tiled(generator: torch.Generator) -> Images:
    pixels = torch.rand(2, 5, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[48, 48], [40, 40]])}


def _sized(generator: torch.Generator) -> Images:
    return {**_square(generator), "image_sizes": torch.tensor([[24, 24], [18, 24]])}


def _grids(generator: torch.Generator) -> Images:
    pixels = torch.rand(64 + 48, 3 * 2 * (PATCH_SIZE // 2) ** 2, generator=generator)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 8, 8], [1, 4, 12]])}


def _positioned(generator: torch.Generator) -> Images:
    """8 x 8 patches, and 4 x 12 with fillers behind them."""
    places = torch.full((2, 64, 2), -1)
    for own, (rows, columns) in zip(places, ((8, 8), (4, 12)), strict=True):
        number = torch.arange(rows * columns)
        own[: len(number)] = torch.stack((number % columns, number // columns), -1)
    pixels = torch.rand(2, 64, 3 * (PATCH_SIZE // 2) ** 2, generator=generator)
    return {"pixel_values": pixels, "image_position_ids": places}


_TOWER: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}
_CLIP = {**_TOWER, "model_type": "clip_vision_model"}
_SIGLIP = {**_TOWER, "model_type": "siglip_vision_model", "vision_use_head": False}
# A token of 2 x 2 patches.
_MERGED = {**_TOWER, "patch_size": PATCH_SIZE // 2}
_LLAVA = {"image_token_index": IMAGE, "pad_token_id": PAD}
_NEXT = {**_LLAVA, "image_seq_length": TOKENS_PER_CROP}
_ONE_SIZE = {"pad_token_id": PAD, "tie_word_embeddings": False}

# Images that keep their size: a token of 2 x 2 patches, positions in time, height and width.
_GRID: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": PATCH_SIZE // 2,
}
_SECTIONS: dict[str, Any] = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
# By the names of either of two releases.
_ROPE = {"rope_scaling": {**_SECTIONS, "type": "default"}, "rope_parameters": _SECTIONS}
_HALF_ROPE = {"rope_scaling": None, "rope_parameters": {**_SECTIONS, "partial_rotary_factor": 0.5}}
_MARKERS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_DEEP = {**_GRID, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
# A layer of linear attention and one of full attention.
_RECURRENT = {
    **_HALF_ROPE,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_RECURRENT_TOWER = {**_GRID, "num_position_embeddings": 16}
_GLM = {
    "rope_scaling": None,
    "rope_parameters": {**_SECTIONS, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5},
}
_GLM_EXPERTS = {
    "model_type": "glm4v_moe_text",
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
_GLM_TOWER = {**_GRID, "image_size": IMAGE_SIZE}
_GLM4V = Small(_grids, {**_GLM, "model_type": "glm4v_text"}, {**_GLM_TOWER, "model_type": "glm4v_vision"}, _MARKERS)
_SLIDING = {"head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}

SMALL: dict[str, Small] = {
    "llava": Small(_square, {"model_type": "llama"}, _CLIP, _NEXT),
    "llava_next": Small(_tiled, {"model_type": "llama"}, _CLIP, {**_NEXT, "image_grid_pinpoints": PINPOINTS}),
    # A mosaic of more than two crops is shrunk.
    "llava_onevision": Small(
        _tiled,
        {"model_type": "qwen2"},
        _SIGLIP,
        {
            **_LLAVA,
            "image_grid_pinpoints": PINPOINTS,
            "video_token_index": VIDEO,
            "vision_aspect_ratio": "anyres_max_2",
        },
    ),
    "qwen2_vl": Small(_grids, _ROPE, {**_GRID, "embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2}, _MARKERS),
    # Windows of 2 x 2 tokens.
    "qwen2_5_vl": Small(
        _grids, _ROPE, {**_GRID, "window_size": 2 * PATCH_SIZE, "fullatt_block_indexes": [1]}, _MARKERS
    ),
    "qwen3_vl": Small(_grids, {**_ROPE, "head_dim": 8}, _DEEP, _MARKERS),
    "qwen3_vl_moe": Small(_grids, {**_ROPE, **_EXPERTS, "head_dim": 8}, _DEEP, _MARKERS),
    "qwen3_5": Small(_grids, _RECURRENT, _RECURRENT_TOWER, _MARKERS),
    "qwen3_5_moe": Small(_grids, {**_RECURRENT, **_EXPERTS}, _RECURRENT_TOWER, _MARKERS),
    "internvl": Small(
        _square,
        {"model_type": "qwen2"},
        _MERGED,
        {**_ONE_SIZE, "image_token_id": IMAGE, "image_seq_length": TOKENS_PER_CROP},
    ),
    "gemma3": Small(
        _square,
        {**_SLIDING, "query_pre_attn_scalar": 8},
        {**_SIGLIP, **_MERGED},
        {
            **_ONE_SIZE,
            "image_token_index": IMAGE,
            "boi_token_index": VISION_START,
            "eoi_token_index": VISION_END,
            "mm_tokens_per_image": TOKENS_PER_CROP,
        },
    ),
    "gemma4": Small(
        _positioned,
        {
            **_SLIDING,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": VOCABULARY,
            "num_kv_shared_layers": 0,
            "use_bidirectional_attention": "vision",
        },
        {
            **_MERGED,
            "pooling_kernel_size": 2,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "position_embedding_size": 512,
        },
        {**_ONE_SIZE, "image_token_id": IMAGE, "video_token_id": VIDEO, "audio_token_id": 103},
    ),
    "mistral3": Small(
        _sized,
        {"model_type": "mistral", "head_dim": 8},
        {**_MERGED, "model_type": "pixtral", "head_dim": 12, "image_size": 480},
        {
            **_ONE_SIZE,
            "image_token_index": IMAGE,
            "spatial_merge_size": 2,
            "vision_feature_layer": -1,
            "multimodal_projector_bias": False,
            "projector_hidden_act": "gelu",
        },
    ),
    "glm4v": _GLM4V,
    "glm4v_moe": Small(_grids, {**_GLM, **_GLM_EXPERTS}, {**_GLM_TOWER, "model_type": "glm4v_moe_vision"}, _MARKERS),
    "glm46v": _GLM4V,
}
