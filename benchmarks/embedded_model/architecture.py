"""The untrained model: LLaVA's three parts at 1.4 million parameters, seeded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from mmtok.tiny.scenes import SceneSettings

from .vocabulary import BOS, EOS, IMAGE, PAD, words

# The images that the model reads. Training, evaluation and the image processor share them.
PLAIN = SceneSettings()
CROWDED = SceneSettings(min_objects=8, max_objects=12, min_radius=6.0, max_radius=8.0, gap=1.0)

# Words that name no object. A text row of such a word is to spread evenly over the background, which is written with
# the embedding of <image>, instead of singling out a patch: this is their cosine.
BACKGROUND_WORDS = ("there", "in", "image", "object", "objects", "color", "shape", "many", "describe")
BACKGROUND_COSINE = 0.7


def config_values() -> dict[str, Any]:
    """Describe the model. Like LLaVA-1.5 it reads the last but one layer of a CLIP tower, without the class token."""
    ids = {word: index for index, word in enumerate(words())}
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": PLAIN.size,
        "patch_size": PLAIN.patch_size,
    }
    text = {
        "model_type": "llama",
        "vocab_size": len(ids),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "initializer_range": 0.08,
        "rope_theta": 100_000.0,
        "pad_token_id": ids[PAD],
        "bos_token_id": ids[BOS],
        "eos_token_id": ids[EOS],
    }
    return {
        "model_type": "llava",
        "vision_config": vision,
        "text_config": text,
        "image_token_index": ids[IMAGE],
        "image_seq_length": PLAIN.grid**2,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
    }


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """Make the model with random weights, the same for the same seed; torch's own generator is left as it was.

    Word embeddings are orthogonal unit vectors and stay as they are: every stage of training can rely on them. Those of
    `BACKGROUND_WORDS` lean towards <image>. Queries and keys of the language model start equal, so that it attends to
    like content from the start (after Trockman and Kolter 2023, arXiv 2305.09828). Weights that are larger than
    Llama's and positions that turn more slowly are what lets a model of three layers find an object by two words in
    some hundred steps; with Llama's own values it stays at chance for as long.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(LlavaConfig.from_dict(config_values()))
        with torch.no_grad():
            _set_words(model.get_input_embeddings().weight)
            for layer in model.model.language_model.layers:
                torch.nn.init.normal_(layer.self_attn.q_proj.weight, std=0.06)
                layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    return model


def _set_words(weight: torch.Tensor) -> None:
    ids = {word: index for index, word in enumerate(words())}
    torch.nn.init.orthogonal_(weight)
    for word in BACKGROUND_WORDS:
        own, background = weight[ids[word]], weight[ids[IMAGE]]
        weight[ids[word]] = BACKGROUND_COSINE * background + (1 - BACKGROUND_COSINE**2) ** 0.5 * own


def vision_features(model: LlavaForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return the tower's features that LLaVA reads, before the projector: (batch, patches, hidden)."""
    layers = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
    return layers[model.config.vision_feature_layer][:, 1:]
