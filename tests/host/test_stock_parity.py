"""Equal to stock in every mode, on every supported release: short enough to run in many environments.

With a full budget or none the reference is stock on the same inputs; pruned, it is stock on the prompt pruned by hand.
Greedy tokens do not depend on how generation is organised, so one reference serves all modes.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from model_cases import CACHE, IMAGE, Family, stock_tokens

ROWS = {
    "text first": [[3, (24, 24), 4], [2, (24, 48), 6]],
    "image first": [[(24, 24), 4], [(24, 48), 6]],
}
# The end of a text is a token that no vocabulary here has, so that every answer has five tokens.
# Random models write image tokens, for which there is no image: they may not.
GREEDY: dict[str, Any] = {
    "max_new_tokens": 5,
    "do_sample": False,
    "eos_token_id": 10_000,
    "pad_token_id": 0,
    "suppress_tokens": [IMAGE],
}
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 3},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "assistant": {"assistant_model": "own"},
}
# Stock drafts for one row at a time, and before 5.0 its chunked prefill takes no notice of padding.
ONE_ROW = {"chunked prefill", "prompt lookup", "assistant"}


@pytest.fixture(params=["text first", "image first"])
def rows(request: pytest.FixtureRequest) -> list[Any]:
    return ROWS[request.param]


def inputs_of(family: Family, model: Any, rows: list[Any]) -> dict[str, torch.Tensor]:
    """Inputs; a prompt that begins with its image has no BOS in front."""
    inputs = family.inputs(rows, model)
    if not isinstance(rows[0][0], int) and len(rows) == 1:
        per_token = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
        return {name: values[:, 1:] if name in per_token else values for name, values in inputs.items()}
    return inputs


def pruned_by_hand(
    family: Family, model: Any, stock: Any, inputs: dict[str, torch.Tensor], budget: int
) -> dict[str, torch.Tensor]:
    """Stock's embeddings of the kept tokens of one row."""
    kept = model.select_vision_tokens(**inputs, vision_token_budget=budget).kept_mask[0]
    ids = inputs["input_ids"]
    embeds = family.by_hand(stock, inputs, kept, **feature_arguments(stock))
    positions = {name: values[:, :, kept] for name, values in family.positions(stock, inputs).items()}
    return {"inputs_embeds": embeds[None], "input_ids": ids[:, kept], **positions}


def feature_arguments(stock: Any) -> dict[str, Any]:
    names = ("vision_feature_layer", "vision_feature_select_strategy")
    return {name: getattr(stock.config, name) for name in names if hasattr(stock.config, name)}


def generated(model: Any, inputs: dict[str, Any], mode: dict[str, Any], **options: Any) -> torch.Tensor:
    mode = {**mode, "assistant_model": model} if "assistant_model" in mode else mode
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        return model.generate(**inputs, **GREEDY, **mode, **options)


def is_refused(family: Family, model: Any, inputs: dict[str, Any], mode: str) -> bool:
    """Whether a family cannot do this, with some tokens or all of them."""
    settings = {**GREEDY, **MODES.get(mode, {})}
    if "assistant_model" in settings:
        settings["assistant_model"] = model
    return all(family.refuses(model, inputs, {**settings, "vision_token_budget": budget}) for budget in (2, 10**6))


def stock_can(family: Family, stock: Any, inputs: dict[str, Any], mode: str) -> bool:
    """Whether stock itself does this on the installed release."""
    if mode in ("chunked prefill", "static cache"):  # not every release splits pixels
        return family.stock_takes(stock, MODES[mode])
    try:
        generated(stock, inputs, MODES.get(mode, {}))
    except RuntimeError:
        return False  # 5.17 with an assistant and the sliding cache of Gemma 3
    return True


@pytest.mark.parametrize(
    ("mode", "batch"), [(mode, batch) for mode in MODES for batch in ([1] if mode in ONE_ROW else [1, 2])]
)
def test_full_budget_and_off_are_stock(family: Family, rows: list[Any], mode: str, batch: int) -> None:
    model, stock = family.models()
    inputs = inputs_of(family, model, rows[:batch])
    if is_refused(family, model, inputs, mode):
        return
    if not stock_can(family, stock, inputs, mode):
        pytest.skip(f"stock itself fails with {mode} on this release")
    with torch.no_grad():
        expected = stock.generate(**inputs, **GREEDY)
    assert torch.equal(generated(model, inputs, MODES[mode], vision_token_budget=10**6), expected)
    if mode != "chunked prefill":  # stock cannot split pixels into chunks on every release
        assert torch.equal(generated(model, inputs, MODES[mode], vision_token_budget=None), expected)


@pytest.mark.parametrize("mode", [*MODES, "ids and embeddings"])
def test_pruned_is_stock_on_the_kept_tokens(family: Family, rows: list[Any], mode: str) -> None:
    model, stock = family.models()
    inputs = inputs_of(family, model, rows[:1])
    if is_refused(family, model, inputs, mode):
        return
    if not stock_can(family, stock, inputs, mode):
        pytest.skip(f"stock itself fails with {mode} on this release")
    shorter = pruned_by_hand(family, model, stock, inputs, budget=2)
    expected = stock_tokens(stock, shorter, **GREEDY)
    if mode == "ids and embeddings":
        inputs = {**inputs, "inputs_embeds": stock.get_input_embeddings()(inputs["input_ids"])}
    sequences = generated(model, inputs, MODES.get(mode, {}), vision_token_budget=2)
    assert torch.equal(sequences[:, :-5], inputs["input_ids"])
    assert torch.equal(sequences[:, -5:], expected)


def test_beams(family: Family, rows: list[Any]) -> None:
    model, stock = family.models()
    inputs = inputs_of(family, model, rows[:1])
    beams = {"num_beams": 3, "num_return_sequences": 2}
    try:
        expected = stock.generate(**inputs, **GREEDY, **beams)
    except RuntimeError:
        pytest.skip("stock itself fails on beams with an image on this release")
    for budget in (None, 10**6):
        assert torch.equal(generated(model, inputs, beams, vision_token_budget=budget), expected)
    shorter = pruned_by_hand(family, model, stock, inputs, budget=2)
    found = generated(model, inputs, beams, vision_token_budget=2)
    grids = family.has_grids and not hasattr(stock, "_prepare_position_ids_for_generation")
    if grids or not family.takes_embeddings:
        # Stock cannot be given a pruned prompt, or its positions: with one beam the search is greedy.
        one, shorter = {"num_beams": 1}, pruned_by_hand(family, model, stock, inputs, budget=2)
        found = generated(model, inputs, one, vision_token_budget=2)
        beams = one
    assert torch.equal(found[:, -5:], stock_tokens(stock, shorter, **GREEDY, **beams))


def test_forward_and_labels(family: Family, rows: list[Any]) -> None:
    model, stock = family.models()
    inputs = inputs_of(family, model, rows)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with torch.no_grad():
        expected = stock(**inputs, labels=labels)
        for budget in (None, 10**6):
            found = model(**inputs, labels=labels, vision_token_budget=budget)
            assert torch.equal(found.logits, expected.logits)
            assert torch.equal(found.loss, expected.loss)
        one = inputs_of(family, model, rows[:1])
        shorter = pruned_by_hand(family, model, stock, one, budget=2)
        ids = shorter.pop("input_ids")
        kept = model(**one, labels=one["input_ids"], vision_token_budget=2)
        by_hand = stock(**shorter, labels=ids)
    torch.testing.assert_close(kept.logits[kept.kept_mask][None], by_hand.logits)
    torch.testing.assert_close(kept.loss, by_hand.loss)


def test_a_second_turn_from_a_returned_cache(family: Family, rows: list[Any]) -> None:
    model, _ = family.models()
    inputs = inputs_of(family, model, rows[:1])
    settings = {**GREEDY, "vision_token_budget": 2}
    first = model.generate(**inputs, **settings, return_dict_in_generate=True)
    longer = torch.cat((first.sequences, torch.tensor([[7, 8, 9]])), 1)
    mask = torch.ones_like(longer)  # generated tokens may be padding ids
    again = model.generate(input_ids=longer, attention_mask=mask, **{CACHE: first[CACHE]}, **settings)
    selection = model.select_vision_tokens(**inputs, vision_token_budget=2)
    kept = torch.cat((selection.kept_mask[0], torch.ones(longer.shape[1] - inputs["input_ids"].shape[1]).bool()))
    _, stock = family.models()
    shorter = pruned_by_hand(family, model, stock, inputs, budget=2)
    whole = shorter["inputs_embeds"]
    rest = stock.get_input_embeddings()(longer[:, inputs["input_ids"].shape[1] :])
    whole = {
        "input_ids": longer[:, kept],
        "attention_mask": mask[:, kept],
        "inputs_embeds": torch.cat((whole, rest), 1).detach(),
    }
    if "position_ids" in shorter:
        positions = shorter["position_ids"]
        behind = positions[:, :, -1:] + torch.arange(1, rest.shape[1] + 1)
        whole["position_ids"] = torch.cat((positions, behind), dim=2)
    assert torch.equal(again[:, -5:], stock_tokens(stock, whole, **GREEDY))
