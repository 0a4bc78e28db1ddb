"""The untrained model: LLaVA's three parts at 2.6 million parameters, seeded; and its checkpoint folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks.training.folder import write_checkpoint
from mmtok.tiny import LLAVA, checkpoint_path
from mmtok.tiny.catalogue import NAMES, OBJECTS
from mmtok.tiny.scenes import GRID

IMAGE = "<image>"
# Words that name no object. A text row of such a word is to spread evenly over the background, which is written with
# the embedding of <image>, instead of singling out a patch: this is their cosine.
BACKGROUND_WORDS = ("there", "in", "image", "objects", "many", "describe")
BACKGROUND_COSINE = 0.7

# Cosine of an object's word and that of its category: a row of "animal" finds the patches of a dog.
CATEGORY_COSINE = 0.45


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: word-level, lower case, punctuation apart, <s> in front."""
    return PreTrainedTokenizerFast.from_pretrained(checkpoint_path(LLAVA))


@cache
def token_ids() -> dict[str, int]:
    """Word -> id."""
    return dict(tokenizer().get_vocab())


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """Make the model of the embedded `config.json` with random weights, the same for the same seed.

    torch's own generator is left as it was.

    Word embeddings are orthogonal unit vectors but for the cosines above, and stay as they are: every stage of training
    relies on them. Queries and keys start equal, so that both transformers attend to like content from the start (after
    Trockman and Kolter 2023, arXiv 2305.09828); the tower's positions start as sines of rows and columns.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(LlavaConfig.from_pretrained(checkpoint_path(LLAVA)))
        with torch.no_grad():
            _set_words(model.get_input_embeddings().weight)
            for layer in model.model.language_model.layers:
                _equal_queries_and_keys(layer.self_attn)
            model.model.multi_modal_projector.linear_2.weight.mul_(0.1)
            _set_tower(vision_transformer(model))
    return model


def _equal_queries_and_keys(attention: torch.nn.Module) -> None:
    torch.nn.init.normal_(attention.q_proj.weight, std=0.06)
    attention.k_proj.weight.copy_(attention.q_proj.weight)


def _set_words(weight: torch.Tensor) -> None:
    ids = token_ids()
    torch.nn.init.orthogonal_(weight)
    leanings = dict.fromkeys(BACKGROUND_WORDS, (IMAGE, BACKGROUND_COSINE))
    # Of "hot dog" the first word leans towards "food": "dog" leans towards "animal".
    leanings |= {name.split()[0]: (own.category, CATEGORY_COSINE) for name, own in OBJECTS.items() if own.category}
    for word, (towards, cosine) in leanings.items():
        weight[ids[word]] = cosine * weight[ids[towards]] + (1 - cosine**2) ** 0.5 * weight[ids[word]]


def _set_tower(tower: torch.nn.Module) -> None:
    embeddings = tower.embeddings
    quarter = embeddings.position_embedding.weight.shape[1] // 4
    row, column = (
        place.flatten()[:, None] for place in torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    )
    pitch = torch.linspace(-1.6, 1.1, quarter).exp()
    waves = [wave(place * pitch) for place in (column, row) for wave in (torch.sin, torch.cos)]
    embeddings.position_embedding.weight[1:] = 0.25 * torch.cat(waves, 1)
    torch.nn.init.normal_(embeddings.patch_embedding.weight, std=0.04)
    for layer in tower.encoder.layers:
        _equal_queries_and_keys(layer.self_attn)
        for linear, spread in (
            (layer.self_attn.v_proj, 0.05),
            (layer.self_attn.out_proj, 0.05),
            (layer.mlp.fc1, 0.05),
            (layer.mlp.fc2, 0.04),
        ):
            torch.nn.init.normal_(linear.weight, std=spread)


def vision_transformer(model: LlavaForConditionalGeneration) -> torch.nn.Module:
    """Return the tower's transformer; some releases have dropped the wrapper around it."""
    tower = model.model.vision_tower
    return getattr(tower, "vision_model", tower)


def vision_features(model: LlavaForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return the features that LLaVA reads, before the projector: (batch, patches, hidden).

    The last layer, which is not read, is not computed.
    """
    tower = vision_transformer(model)
    hidden = tower.pre_layrnorm(tower.embeddings(pixel_values))
    for layer in tower.encoder.layers[: model.config.vision_feature_layer + 1]:
        hidden = layer(hidden, None)
    return hidden[:, 1:]


def object_vectors(model: LlavaForConditionalGeneration) -> torch.Tensor:
    """Return what patches are written with: (objects + 1, hidden) unit vectors; the last, of <image>, is background."""
    ids = token_ids()
    weight = model.get_input_embeddings().weight.detach()
    rows = [weight[[ids[word] for word in name.split()]].sum(0) for name in NAMES]
    return F.normalize(torch.stack([*rows, weight[ids[IMAGE]]]), dim=-1)


# From the names in memory to those of the llava-hf repos. Some versions have dropped the tower's inner "vision_model".
_LLAVA_HF_KEYS = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.vision_model.": "vision_tower.vision_model.",
    "model.vision_tower.": "vision_tower.vision_model.",
}


def export_checkpoint(model: LlavaForConditionalGeneration, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write everything that `from_pretrained` needs into a folder; in float16 the weights take 5 MB."""
    write_checkpoint(model, folder, checkpoint_path(LLAVA), _LLAVA_HF_KEYS, dtype)
