"""The untrained model: Qwen2.5-VL's three parts at 2.6 million parameters, seeded; its tower for images of one size.

And its checkpoint folder: stock Qwen2.5-VL, in the key layout of the published repos.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.training.folder import write_checkpoint
from mmtok.tiny import QWEN, checkpoint_path
from mmtok.tiny.catalogue import OBJECTS
from mmtok.tiny.prints import CHARACTERS
from mmtok.tiny.reading import NAMES, TOKEN

IMAGE = "<|image_pad|>"
PATCH, WIDTH, TOWER_WIDTH = 14, 160, 128

# Words that name nothing in an image lean towards <|image_pad|>, which background is written with, by this cosine; an
# object's word towards that of its category.
BACKGROUND_WORDS = ("is", "there", "a", "an", "in", "the", "image", "what", "how", "many", "are", "?")
BACKGROUND_COSINE, CATEGORY_COSINE = 0.7, 0.45

# How the tower writes the characters of a word: by their place from its start, then by that from its end.
PLACES = 4


def character_place(index: int, length: int) -> int:
    """The place of a character: 0 and 1 are the first two, 2 and 3 the last two, for lengths of 3 and 4."""
    return index if index < 2 else PLACES - length + index


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: byte-level as Qwen's, a known word as one token, any other text as its bytes."""
    return PreTrainedTokenizerFast.from_pretrained(checkpoint_path(QWEN))


@cache
def token_ids() -> dict[str, int]:
    """Token -> id, in the order of the ids. Characters of print are bytes."""
    return dict(sorted(tokenizer().get_vocab().items(), key=lambda item: item[1]))


def build_model(seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Make the model of the embedded `config.json` with random weights, the same for the same seed.

    torch's own generator is left as it was.

    Word embeddings are unit vectors, orthogonal but for the cosines above, and stay as they are. A word is the same
    with and without a space or a capital. Queries and keys start equal.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        # Attention written out: the backward of scaled_dot_product_attention is slow on the CPU.
        config = Qwen2_5_VLConfig.from_pretrained(checkpoint_path(QWEN))
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager").float()
        _set_words(model.get_input_embeddings().weight)
        for layer in model.model.language_model.layers:
            nn.init.normal_(layer.self_attn.q_proj.weight, std=0.06)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        _set_tower(model.model.visual)
    return model


def _set_words(weight: torch.Tensor) -> None:
    bare = [token.removeprefix("Ġ") if len(token) > 1 else token for token in token_ids()]
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


def export_checkpoint(
    model: Qwen2_5_VLForConditionalGeneration, folder: Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write everything that `from_pretrained` needs into a folder; in bfloat16 the weights take 5 MB."""
    write_checkpoint(model, folder, checkpoint_path(QWEN), _QWEN_KEYS, dtype)
