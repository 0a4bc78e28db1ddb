"""Attention weights that baselines select by: of the vision tower's class token, and of the language model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class TowerAttention:
    """Queries and keys of one layer of a CLIP tower, (crops, 1 + tokens, width) each."""

    def __init__(self, heads: int) -> None:
        self.heads = heads
        self.queries: torch.Tensor | None = None
        self.keys: torch.Tensor | None = None

    def per_token(self, tokens: int) -> dict[str, torch.Tensor]:
        """Means over the heads: `cls_attention` (crops, tokens) and `keys` (crops, tokens, d_key).

        The class token is left out unless it is one of the `tokens` that LLaVA reads.
        """
        assert self.queries is not None, "the tower has not run"
        assert self.keys is not None, "the tower has not run"
        keys = self.keys.float().unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query = self.queries[:, :1].float().unflatten(-1, (self.heads, -1)).transpose(1, 2)
        weights = (query @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5).softmax(-1).mean(1)[:, 0]
        first = keys.shape[2] - tokens
        return {"cls_attention": weights[:, first:], "keys": keys.mean(1)[:, first:]}


@contextmanager
def cls_attention(model: Any, *, wanted: bool) -> Iterator[TowerAttention | None]:
    """Records the attention of the tower's layer that LLaVA reads, with any attention kernel.

    Yields:
        None where it is not wanted; else what is filled when the tower runs inside the block.

    Raises:
        ValueError: a tower whose layers are not CLIP's.
    """
    if not wanted:
        yield None
        return
    tower = model.config.vision_config.model_type
    if tower != "clip_vision_model":
        raise ValueError(
            f"The vision tower is a {tower}, without a class token: CLS attention is read from CLIP towers."
        )
    layer = model.config.vision_feature_layer
    layer = layer if isinstance(layer, int) else layer[-1]
    # hidden_states[i] with i > 0 is what layer i - 1 returns; counted from the end the two agree.
    attention = _attention_layers(model.model.vision_tower)[layer - 1 if layer > 0 else layer]
    if not (hasattr(attention, "q_proj") and hasattr(attention, "k_proj")):
        raise ValueError(
            f"{type(attention).__name__} has no q_proj and k_proj: CLS attention is read from CLIP towers."
        )
    record = TowerAttention(model.config.vision_config.num_attention_heads)
    handles = [
        attention.q_proj.register_forward_hook(lambda _module, _args, output: setattr(record, "queries", output)),
        attention.k_proj.register_forward_hook(lambda _module, _args, output: setattr(record, "keys", output)),
    ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def language_attention(model: Any, inputs: Mapping[str, Any], layer: int = 1) -> torch.Tensor:
    """Attention of the last token of every prompt, a mean over the heads of one layer.

    Args:
        model: a model of a family; its language model is switched to "eager" attention, which returns weights.
        inputs: arguments for prompts of L tokens, padded on the left; types of the tokens reach the mask where the
            tokens of an image see each other in both directions.
        layer: 0 for the first; of a model with recurrent layers, those with attention are counted.

    Returns:
        (B, L) float32.
    """
    language_model = model.model.language_model
    # There the mask is made outside the language model.
    runs = model.model if model.sees_both_ways else language_model
    found: list[torch.Tensor] = []

    def record(_module: torch.nn.Module, _args: Any, output: Any) -> None:
        found.append(output[1][:, :, -1].float().mean(1))

    layers = _attention_layers(language_model)
    handle = layers[min(layer, len(layers) - 1)].register_forward_hook(record)
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation("eager")
    try:
        runs(**inputs, use_cache=False)
    finally:
        handle.remove()
        language_model.set_attn_implementation(before)
    return found[0]


def _attention_layers(model: torch.nn.Module) -> list[Any]:
    """The self-attention modules of a transformer, first layer first."""
    return [module for name, module in model.named_modules() if name.endswith(".self_attn")]
