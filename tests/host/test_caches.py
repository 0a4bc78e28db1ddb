"""Going on behind a pruned prompt in caches that do not hold all of it, or hold it in another layer than the first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from model_cases import BOS, CACHE, EOS, FAMILIES, PAD, VOCABULARY
from transformers import MistralConfig

from mmtok.hub.generation import CACHED_PROMPT, CachedPrompt

ROWS = [[3, (24, 24), 4], [(24, 24), 7]]


def mistral_of(window: int) -> tuple[Any, dict[str, torch.Tensor]]:
    """A LLaVA with a language model that reads `window` tokens back, in every layer, and inputs of two rows."""
    text = MistralConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=window, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    family = FAMILIES["llava"]
    config = family.config(vision_token_budget=4)
    config.text_config = text
    torch.manual_seed(0)
    model = family.model_class(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3) if weight.dim() > 1 else None
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = PAD, None
    return model, family.inputs(ROWS, model)


# The pruned prompts have 12 tokens: windows that hold the prompt to the end, its end at first, and nothing at last.
@pytest.mark.parametrize("window", [64, 14, 9, 4])
@pytest.mark.filterwarnings("ignore:No layer of the DynamicCache shows a key")
@torch.no_grad()
def test_forward_goes_on_behind_a_prompt_that_leaves_the_window(window: int) -> None:
    model, inputs = mistral_of(window)
    expected = model.generate(**inputs, max_new_tokens=9, do_sample=False)[:, -9:]
    output, tokens = model(**inputs, use_cache=True), []
    for _ in range(9):
        tokens.append(output.logits[:, -1].argmax(-1, keepdim=True))
        output = model(input_ids=tokens[-1], **{CACHE: getattr(output, CACHE)})
    assert torch.equal(torch.cat(tokens, dim=1), expected)


@pytest.mark.parametrize("window", [64, 9])
@torch.no_grad()
def test_reordered_rows_are_seen_in_what_the_window_holds(window: int) -> None:
    model, inputs = mistral_of(window)
    cache = getattr(model(**inputs, use_cache=True), CACHE)
    cache.reorder_cache(torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="was cropped or reordered since"):
        model(input_ids=torch.tensor([[5], [6]]), **{CACHE: cache})


@torch.no_grad()
def test_a_window_that_has_left_the_prompt_behind_says_so() -> None:
    model, inputs = mistral_of(4)
    cache = getattr(model(**inputs, use_cache=True), CACHE)
    for _ in range(2):
        model(input_ids=torch.tensor([[5, 6], [6, 7]]), **{CACHE: cache})
    with pytest.warns(UserWarning, match="No layer of the DynamicCache shows a key of the pruned prompt"):
        model(input_ids=torch.tensor([[5], [6]]), **{CACHE: cache})


@torch.no_grad()
def test_the_prompt_is_found_behind_a_layer_without_keys() -> None:
    model, _ = FAMILIES["llava"].models(vision_token_budget=4)
    inputs = FAMILIES["llava"].inputs(ROWS, model)
    cache = getattr(model(**inputs, use_cache=True), CACHE)
    mixed = SimpleNamespace(layers=[SimpleNamespace(), *cache.layers], get_seq_length=cache.get_seq_length)
    CachedPrompt.attach(mixed, getattr(cache, CACHED_PROMPT).pruned)
    record = getattr(mixed, CACHED_PROMPT)
    record.require_intact(mixed)
    cache.reorder_cache(torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="was cropped or reordered since"):
        record.require_intact(mixed)
    hidden = SimpleNamespace(layers=[SimpleNamespace()], get_seq_length=cache.get_seq_length)
    CachedPrompt.attach(hidden, record.pruned)
    with pytest.warns(UserWarning, match="shows a key of the pruned prompt"):
        getattr(hidden, CACHED_PROMPT).require_intact(hidden)
