"""What the model classes rely on is checked when they are made: a renamed argument ends in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from model_cases import CACHE, Family
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast

from mmtok.hub.pruned_model import PrunedModel, pruning_forward
from mmtok.hub.releases import (
    NEWEST_TESTED,
    OLDEST_TESTED,
    UnsupportedRelease,
    cached_keys,
    cached_length,
    given_cache,
    keep_checkpoint_layout,
    projected_features,
)

SENTENCE = (
    rf"MMTok was tested with transformers {OLDEST_TESTED} to {NEWEST_TESTED}, and {transformers.__version__} is "
    rf"installed: install transformers=={NEWEST_TESTED}, or a newer release of MMTok\."
)


OUTPUT = tuple | LlavaCausalLMOutputWithPast


def stock_with(**renamed: str) -> type:
    """A stock class whose forward has other names for some of its arguments."""
    names = ["input_ids", "pixel_values", "attention_mask", "position_ids", CACHE, "inputs_embeds", "labels"]
    arguments = [f"{renamed.get(name, name)}=None" for name in (*names, "logits_to_keep")]
    space: dict[str, Any] = {}
    exec(f"def forward(self, {', '.join(arguments)}, **kwargs): ...", space)
    space["forward"].__annotations__["return"] = OUTPUT
    return type("Stock", (LlavaForConditionalGeneration,), {"forward": space["forward"]})


@pytest.mark.parametrize(
    "name", ["input_ids", "pixel_values", "attention_mask", "position_ids", CACHE, "inputs_embeds", "labels"]
)
def test_a_renamed_argument_is_an_import_error(name: str) -> None:
    pruning_forward(stock_with())
    with pytest.raises(UnsupportedRelease, match=rf"Stock\.forward has no argument .*{name}.*\. {SENTENCE}"):
        pruning_forward(stock_with(**{name: "renamed"}))
    assert issubclass(UnsupportedRelease, ImportError)


def test_a_forward_without_further_keyword_arguments_is_an_import_error() -> None:
    def forward(self, input_ids, pixel_values, attention_mask, position_ids, past_key_values, inputs_embeds, labels,
                logits_to_keep): ...  # fmt: skip

    forward.__annotations__["return"] = OUTPUT
    stock = type("Stock", (LlavaForConditionalGeneration,), {"forward": forward})
    with pytest.raises(UnsupportedRelease, match=rf"takes no further keyword arguments\. {SENTENCE}"):
        pruning_forward(stock)


@pytest.mark.parametrize("missing", ["loss", "logits", "hidden_states", "attentions", "cache", "image_outputs"])
def test_a_missing_output_field_is_an_import_error(missing: str) -> None:
    fields = dict.fromkeys(("loss", "logits", "hidden_states", "attentions", "cache", "image_outputs"), Any)
    del fields[missing]
    output = dataclass(type("Output", (), {"__annotations__": fields, **dict.fromkeys(fields)}))
    stock = stock_with()
    stock.forward.__annotations__["return"] = tuple | output
    with pytest.raises(UnsupportedRelease, match=rf"Output has no field {missing}.*\. {SENTENCE}"):
        pruning_forward(stock)


@pytest.mark.parametrize("returned", [{"features": 1}, torch.zeros(3), None, [torch.zeros(2, 3, 4)]])
def test_a_changed_return_of_the_feature_method_is_an_import_error(
    family: Family, monkeypatch: pytest.MonkeyPatch, returned: Any
) -> None:
    model, _ = family.models()
    inputs = family.inputs([[3, (24, 24), 4]], model)
    owner = type(family.feature_owner(model))
    stock = owner.get_image_features

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        stock(self, *args, **kwargs)
        return returned

    monkeypatch.setattr(owner, "get_image_features", changed)
    for call in (model.generate, model, model.select_vision_tokens):
        with pytest.raises(UnsupportedRelease, match=rf"get_image_features returned a .* per image\. {SENTENCE}"):
            call(**inputs, vision_token_budget=2)


def test_other_key_conversions_are_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    conversion_mapping = pytest.importorskip("transformers.conversion_mapping", reason="4.57 has no key conversions")
    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping", lambda model: [], raising=False)
    with pytest.raises(UnsupportedRelease, match=rf"mapping has no argument add_legacy\. {SENTENCE}"):
        keep_checkpoint_layout(None, None)


def test_features_of_every_release_are_read() -> None:
    features = [torch.zeros(4, 3), torch.zeros(2, 3)]

    class Output:
        pooler_output = features

    for returned in (Output(), features, tuple(features), (torch.zeros(2, 9, 3), features)):
        assert [len(each) for each in projected_features(returned)] == [4, 2]
    assert len(projected_features(torch.zeros(5, 4, 3))) == 5


def test_caches_are_found_under_both_names() -> None:
    cache = transformers.DynamicCache()
    assert given_cache({"cache": cache}) is cache
    assert given_cache({"past_key_values": cache, "cache": None}) is cache
    assert given_cache({"input_ids": 1}) is None
    assert cached_length(None) == cached_length(cache) == 0
    assert cached_keys(cache) == {}
    cache.update(torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3, 4), 0)
    assert cached_length(cache) == 3
    start, keys = cached_keys(cache)[0]
    assert (start, keys.shape) == (0, (2, 1, 3, 4))


def test_stock_generation_is_not_overridden(family: Family) -> None:
    ours = set(vars(PrunedModel)) | set(vars(family.model_class))
    assert not ours & {
        "prepare_inputs_for_generation",
        "_update_model_kwargs_for_generation",
        "_prepare_cache_for_generation",
        "_expand_inputs_for_generation",
    }
