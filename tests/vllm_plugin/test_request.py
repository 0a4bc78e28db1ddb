"""What a request sends to the model, and what it refuses; none of this needs vLLM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_cases import BOS, EOS, IMAGE, Family, numbered_words

from mmtok.hub.tokenizer_source import TokenizerSource
from mmtok.vllm.request import PruningRequest

SOURCE = TokenizerSource(numbered_words())

PROMPT = [BOS, 5, IMAGE, 6, 7, EOS]


def test_a_request_holds_its_options_and_the_text_to_cover(family: Family) -> None:
    request = PruningRequest.of(family.config(vision_token_budget=4), PROMPT, {"vision_coverage_weight": 2.0}, SOURCE)
    assert request.text_ids == [5, 6, 7]
    assert request.pruning.vision_token_budget == 4
    assert request.options["vision_coverage_weight"] == 2.0
    assert request.options["text_coverage_weight"] == 1.0


def test_an_unpruned_request_is_the_same_for_every_question_and_option(family: Family) -> None:
    config = family.config(vision_token_budget=4)
    one = PruningRequest.of(config, PROMPT, {"vision_token_budget": None}, SOURCE)
    other = PruningRequest.of(config, [BOS, IMAGE, 9], {"vision_token_budget": None, "text_temperature": 1.0}, SOURCE)
    assert one.to_json() == other.to_json()


def test_a_request_survives_its_way_to_the_model(family: Family) -> None:
    request = PruningRequest.of(family.config(), PROMPT, {"vision_token_budget": 1.0}, SOURCE)
    request = replace(request, image_key="key")
    sent = request.to_tensor()
    assert sent.dtype == torch.uint8
    assert PruningRequest.from_tensor(sent) == request
    assert isinstance(PruningRequest.from_tensor(sent).pruning.vision_token_budget, float)


@pytest.mark.parametrize(
    "overrides",
    [{"vision_token_budget": 1}, {"padding": "exclude"}, {"text_temperature": 0.5}, {"budget_scope": "image"}],
)
def test_different_options_or_texts_have_different_json(family: Family, overrides: dict[str, Any]) -> None:
    config = family.config(vision_token_budget=1.0)
    plain = PruningRequest.of(config, PROMPT, {}, SOURCE).to_json()
    assert PruningRequest.of(config, PROMPT, overrides, SOURCE).to_json() != plain
    assert PruningRequest.of(config, [BOS, 5, IMAGE, 7, 6], {}, SOURCE).to_json() != plain
    assert PruningRequest.of(config, PROMPT, {}, SOURCE).to_json() == plain


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("coverage_target", 0.5, r"coverage_target is 0\.5: vLLM plans"),
        ("image_scale", 0.5, r"image_scale is 0\.5: vLLM plans"),
        ("budget_scope", "video", "budget_scope is 'video': vLLM plans .* Set it to 'image' or 'crop'"),
    ],
)
def test_what_vllm_cannot_plan_with_is_refused(family: Family, name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruningRequest.of(family.config(), PROMPT, {name: value}, SOURCE)


def test_an_option_out_of_range_is_refused(family: Family) -> None:
    with pytest.raises(ValueError, match="vision_token_budget is 0: give"):
        PruningRequest.of(family.config(), PROMPT, {"vision_token_budget": 0}, SOURCE)
