"""The untrained model: Qwen2.5-VL's three parts at 2.6 million parameters, seeded; its tower for images of one size.

And its checkpoint folder: stock Qwen2.5-VL, in the key layout of the published repos.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.training.folder import PIXELS, write_model, write_processor
from mmtok.tiny.catalogue import OBJECTS
from mmtok.tiny.prints import CHARACTERS
from mmtok.tiny.reading import NAMES, TOKEN

from .vocabulary import (
    CHAT_TEMPLATE,
    CONTEXT,
    END,
    IMAGE,
    PAD,
    VIDEO,
    VISION_END,
    VISION_START,
    build_tokenizer,
    token_ids,
    tokens,
)

PATCH = 14
WIDTH, TOWER_WIDTH, DEPTH, LAYERS = 160, 128, 5, 4

# Words that name nothing in an image lean towards <|image_pad|>, which background is written with, by this cosine; an
# object's word towards that of its category.
BACKGROUND_WORDS = ("is", "there", "a", "an", "in", "the", "image", "what", "how", "many", "are", "?")
BACKGROUND_COSINE, CATEGORY_COSINE = 0.7, 0.45

# How the tower writes the characters of a word: by their place from its start, then by that from its end.
PLACES = 4


def character_place(index: int, length: int) -> int:
    """The place of a character: 0 and 1 are the first two, 2 and 3 the last two, for lengths of 3 and 4."""
    return index if index < 2 else PLACES - length + index


def config_values() -> dict[str, Any]:
    """Describe the model, in the layout of the published config.json."""
    ids = token_ids()
    return {
        "model_type": "qwen2_5_vl",
        "vocab_size": len(ids),
        "hidden_size": WIDTH,
        "intermediate_size": 384,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "hidden_act": "silu",
        "initializer_range": 0.06,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10_000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "bos_token_id": ids[PAD],
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
        "image_token_id": ids[IMAGE],
        "video_token_id": ids[VIDEO],
        "vision_start_token_id": ids[VISION_START],
        "vision_end_token_id": ids[VISION_END],
        "vision_config": {
            "depth": DEPTH,
            "hidden_size": TOWER_WIDTH,
            "intermediate_size": 2 * TOWER_WIDTH,
            "num_heads": 4,
            "hidden_act": "silu",
            "in_channels": 3,
            "patch_size": PATCH,
            "spatial_patch_size": PATCH,
            "spatial_merge_size": TOKEN // PATCH,
            "temporal_patch_size": 2,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": list(range(DEPTH)),
            "window_size": 112,
            "tokens_per_second": 2,
        },
    }


def build_model(seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Make the model with random weights, the same for the same seed; torch's own generator is left as it was.

    Word embeddings are unit vectors, orthogonal but for the cosines above, and stay as they are. A word is the same
    with and without a space or a capital. Queries and keys start equal.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        # Attention written out: the backward of scaled_dot_product_attention is slow on the CPU.
        config = Qwen2_5_VLConfig.from_dict(config_values())
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager").float()
        _set_words(model.get_input_embeddings().weight)
        for layer in model.model.language_model.layers:
            nn.init.normal_(layer.self_attn.q_proj.weight, std=0.06)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        _set_tower(model.model.visual)
    return model


def _set_words(weight: torch.Tensor) -> None:
    bare = [token.removeprefix("Ġ") if len(token) > 1 else token for token in tokens()]
    bare = [token.lower() if len(token) > 1 else token for token in bare]
    # Bytes that no question or answer has come last: there are more of them than dimensions.
    used = dict.fromkeys(token for token in bare if len(token) > 1 or token in f"{CHARACTERS}a?.Ċ")
    rows = {token: index for index, token in enumerate(dict.fromkeys([*used, *bare]))}
    vectors = F.normalize(torch.randn(len(rows), WIDTH), dim=-1)
    if len(used) > WIDTH:
        raise ValueError(f"{len(used)} words have no orthogonal vectors of {WIDTH} numbers.")
    vectors[: len(used)] = nn.init.orthogonal_(torch.empty(len(used), WIDTH))
    leanings = dict.fromkeys(BACKGROUND_WORDS, (IMAGE, BACKGROUND_COSINE))
    leanings |= {name: (OBJECTS[name].category, CATEGORY_COSINE) for name in NAMES if OBJECTS[name].category}
    for word, (towards, cosine) in leanings.items():
        vectors[rows[word]] = cosine * vectors[rows[towards]] + (1 - cosine**2) ** 0.5 * vectors[rows[word]]
    weight.copy_(vectors[[rows[token] for token in bare]])


def _set_tower(tower: nn.Module) -> None:
    nn.init.normal_(tower.patch_embed.proj.weight, std=0.025)
    for block in tower.blocks:
        query = 0.06 * torch.randn(TOWER_WIDTH, TOWER_WIDTH)
        block.attn.qkv.weight.copy_(torch.cat([query, query, 0.06 * torch.randn(TOWER_WIDTH, TOWER_WIDTH)]))
        for linear in (block.attn.proj, block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj):
            nn.init.normal_(linear.weight, std=0.06)
    nn.init.normal_(tower.merger.mlp[0].weight, std=0.04)
    nn.init.normal_(tower.merger.mlp[2].weight, std=0.02)


def to_patches(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Cut images as the processor does: uint8 (B, H, W, 3) to float32 (B, patches, 3 * 14 * 14), -1 ... 1.

    Patches come in blocks of 2 x 2, one block a token. Of the two equal frames that the processor makes, one.
    """
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    count, channels, height, width = images.shape
    blocks = images.view(count, channels, height // TOKEN, 2, PATCH, width // TOKEN, 2, PATCH)
    return blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(count, -1, channels * PATCH**2)


def tower_features(
    model: Qwen2_5_VLForConditionalGeneration, patches: torch.Tensor, rows: int, columns: int, middle: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the tower on images of one grid, which is several times as fast as stock's forward of ragged ones.

    Args:
        model: its tower; all of its blocks attend to whole images.
        patches: (B, 4 * rows * columns, 588), see `to_patches`.
        rows, columns: of the grid of vision tokens.
        middle: blocks after which the second result is taken.

    Returns:
        (B, rows * columns, WIDTH) vision tokens, and (B, 4 * rows * columns, TOWER_WIDTH) of a middle block.
    """
    tower = model.model.visual
    count, length, _ = patches.shape
    hidden = (patches @ tower.patch_embed.proj.weight.sum(2).flatten(1).T).float()
    row, column = torch.meshgrid(torch.arange(2 * rows), torch.arange(2 * columns), indexing="ij")
    places = [each.reshape(rows, 2, columns, 2).transpose(1, 2).reshape(-1, 1) for each in (row, column)]
    head = TOWER_WIDTH // tower.config.num_heads
    frequencies = 1 / 10_000 ** (torch.arange(0, head // 2, 2) / (head // 2))
    angles = torch.cat([place * frequencies for place in places], -1)
    cosine, sine = angles.cos().repeat(1, 2), torch.cat([-angles.sin(), angles.sin()], -1)
    kept = hidden
    for number, block in enumerate(tower.blocks):
        states = block.attn.qkv(block.norm1(hidden)).view(count, length, 3, -1, head).permute(2, 0, 3, 1, 4)
        query, key = (each * cosine + each.roll(head // 2, -1) * sine for each in states[:2])
        weights = (query * head**-0.5 @ key.transpose(-1, -2)).softmax(-1, dtype=torch.float32)
        mixed = (weights.to(states.dtype) @ states[2]).transpose(1, 2).reshape(count, length, -1)
        hidden = hidden + block.attn.proj(mixed)
        hidden = hidden + block.mlp(block.norm2(hidden))
        if number + 1 == middle:
            kept = hidden
    merged = tower.merger.mlp(tower.merger.ln_q(hidden).reshape(-1, 4 * TOWER_WIDTH))
    return merged.view(count, rows * columns, -1).float(), kept


def character_vectors() -> torch.Tensor:
    """Return how a character at a place is written: (PLACES, characters, WIDTH) unit vectors, always the same."""
    generator = torch.Generator().manual_seed(77)
    base = F.normalize(torch.randn(len(CHARACTERS), WIDTH, generator=generator), dim=-1)
    turns = [torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0] for _ in range(PLACES)]
    return torch.stack([base @ turn for turn in turns])


_QWEN_KEYS = {"model.visual.": "visual.", "model.language_model.": "model.", "lm_head.": "lm_head."}
# Vision tokens of an image: larger ones are shrunk by the processor.
FEWEST, MOST = 16, 400


def export_checkpoint(
    model: Qwen2_5_VLForConditionalGeneration, folder: Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write everything that `from_pretrained` needs into a folder; in bfloat16 the weights take 5 MB."""
    write_model(model, folder, _QWEN_KEYS, config_values(), dtype)
    pixels = {
        **PIXELS,
        "min_pixels": FEWEST * TOKEN**2,
        "max_pixels": MOST * TOKEN**2,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": TOKEN // PATCH,
    }
    owner = {"processor_class": "Qwen2_5_VLProcessor"}
    files = {
        "preprocessor_config": {"image_processor_type": "Qwen2VLImageProcessor", **owner, **pixels},
        "video_preprocessor_config": {"video_processor_type": "Qwen2VLVideoProcessor", **owner, **pixels},
    }
    write_processor(folder, build_tokenizer(), CHAT_TEMPLATE, files, **owner)
