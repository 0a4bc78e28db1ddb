"""What transformers' own model tests ask of a model class, pruned and unpruned: weights, layouts, outputs, training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import FAMILIES, IMAGE, IMAGE_SIZE, Family
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

SIZE = (IMAGE_SIZE, IMAGE_SIZE)
ROWS = [[3, SIZE, 4], [SIZE, 2]]
BUDGETS = pytest.mark.parametrize("budget", [None, 3])


@pytest.fixture
def model(family: Family) -> Any:
    return family.models()[0]


def logits(model: Any, inputs: dict[str, torch.Tensor], budget: int | None) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, vision_token_budget=budget).logits


@BUDGETS
def test_a_saved_model_loads_without_a_key_too_many(
    family: Family, model: Any, tmp_path: Path, budget: int | None
) -> None:
    model.config.vision_token_budget = budget
    model.save_pretrained(tmp_path)
    again, info = family.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.config.vision_token_budget == budget
    inputs = family.inputs(ROWS, model)
    torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, atol=family.rounding, rtol=0)


@BUDGETS
def test_tied_weights_stay_tied(family: Family, tmp_path: Path, budget: int | None) -> None:
    config = family.config()
    config.text_config.tie_word_embeddings = config.tie_word_embeddings = True
    model = family.model_class(config).eval()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again, info = family.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.lm_head.weight is again.get_input_embeddings().weight
    inputs = family.inputs(ROWS, model)
    assert torch.equal(logits(again, inputs, budget), logits(model, inputs, budget))


@BUDGETS
def test_resized_embeddings_leave_the_old_tokens(family: Family, model: Any, budget: int | None) -> None:
    inputs = family.inputs(ROWS, model)
    before, words = logits(model, inputs, budget), model.config.get_text_config().vocab_size
    model.resize_token_embeddings(words + 10, mean_resizing=False)
    assert model.config.get_text_config().vocab_size == model.get_input_embeddings().num_embeddings == words + 10
    after = logits(model, inputs, budget)
    assert after.shape[-1] == words + 10
    assert torch.equal(after[..., :words], before)


@BUDGETS
def test_attention_implementations_agree(family: Family, model: Any, budget: int | None) -> None:
    inputs = family.inputs(ROWS, model)
    real, atol = inputs["attention_mask"].bool(), 1e-4 + 10 * family.rounding
    model.set_attn_implementation("sdpa")
    expected = logits(model, inputs, budget)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits(model, inputs, budget)[real], expected[real], atol=atol, rtol=1e-4)
    model.set_attn_implementation({"text_config": "sdpa", "vision_config": "eager"})
    torch.testing.assert_close(logits(model, inputs, budget)[real], expected[real], atol=atol, rtol=1e-4)


@pytest.mark.parametrize("layers", [[0, 2], [-1]])
def test_chosen_layers_have_their_hidden_states_and_others_none(family: Family, layers: list[int]) -> None:
    # How layers are counted, and whether they can be chosen at all, differs between releases: stock says it of a text,
    # because on 5.24 stock LLaVA asks its vision tower for the same layers, and fails.
    pruned, stock = family.models(vision_token_budget=3)
    text, images = (family.inputs(rows, pruned) for rows in ([[9], [5]], ROWS))
    (own, own_chosen), (every, chosen) = (
        [model(**inputs, output_hidden_states=wanted).hidden_states for wanted in (True, layers)]
        for model, inputs in ((stock, text), (pruned, images))
    )
    assert len(own) == len(every) == 3
    assert len(own_chosen) == len(chosen)
    for expected, found in zip(own_chosen, chosen, strict=True):
        if expected is None:
            assert found is None
        else:
            (number,) = [number for number, states in enumerate(own) if torch.equal(states, expected)]
            assert torch.equal(found, every[number])


@pytest.mark.parametrize("left", [True, False])
def test_labels_that_are_shifted_already_give_the_loss_of_labels(family: Family, model: Any, left: bool) -> None:
    if not family.reads_loss_arguments():
        pytest.skip("The stock loss of this release leaves out shift_labels.")
    inputs = family.inputs(ROWS, model, left=left)
    ids = inputs["input_ids"]
    labels = ids.masked_fill((ids == IMAGE) | (inputs["attention_mask"] == 0), -100)
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    other = torch.zeros_like(labels)
    with torch.no_grad():
        expected = model(**inputs, vision_token_budget=3, labels=labels).loss
        found = model(**inputs, vision_token_budget=3, labels=other, shift_labels=shifted).loss
    torch.testing.assert_close(found, expected)


def test_shifted_labels_of_another_length_are_refused(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS, model)
    short = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"shift_labels has shape \(2, 3\): give one value a token"):
        model(**inputs, vision_token_budget=3, labels=inputs["input_ids"], shift_labels=short)


@pytest.mark.parametrize("layer", [-1, [0], [-2, -1]])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name.startswith("llava")])
def test_every_choice_of_vision_layers(name: str, layer: Any) -> None:
    family = FAMILIES[name]
    model = family.model_class(family.config(vision_feature_layer=layer)).eval()
    agrees_with_stock(model, family.inputs(ROWS, model))


def test_the_class_token_as_a_vision_token() -> None:
    # Stock LLaVA-NeXT cannot arrange a class token in rows and columns.
    family = FAMILIES["llava"]
    model = family.model_class(family.config(vision_feature_select_strategy="full")).eval()
    places = torch.tensor([[1, *[5] * 3, *[IMAGE] * 17, *[6] * 4], [1, *[5] * 5, *[IMAGE] * 17, *[6] * 2]])
    inputs = family.inputs(ROWS, model)
    agrees_with_stock(model, {**inputs, "input_ids": places, "attention_mask": torch.ones_like(places)})


def agrees_with_stock(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Pruning runs, and keeping every token is stock."""
    whole = logits(model, inputs, None)
    assert logits(model, inputs, 3).shape == whole.shape
    with torch.no_grad():
        assert torch.equal(model(**inputs, vision_token_budget=1.0).logits, whole)


def test_a_model_takes_no_copy_of_its_configuration(family: Family) -> None:
    config = family.config(vision_token_budget=3)
    before = copy.deepcopy(config.to_dict())
    model = family.model_class(config)
    assert model.config is config
    assert model.model.config is config
    assert model.model.language_model.config is config.text_config
    assert {**before, "dtype": None} == {**config.to_dict(), "dtype": None}


def test_an_unpruned_model_is_exported_as_stock_is() -> None:
    # Stock LLaVA-NeXT cannot be exported: its shapes depend on the values of image_sizes.
    family = FAMILIES["llava"]
    pruned, stock = family.models(vision_token_budget=None)
    inputs = {**family.inputs([[3, SIZE, 4]], pruned), "use_cache": False, "return_dict": False}
    try:
        of_stock = torch.export.export(stock, (), inputs, strict=False)
    except GuardOnDataDependentSymNode:
        pytest.skip("Stock itself cannot be exported on this release: it counts the image tokens.")
    graphs = [each.module() for each in (torch.export.export(pruned, (), inputs, strict=False), of_stock)]
    with torch.no_grad():
        assert torch.equal(graphs[0](**inputs)[0], graphs[1](**inputs)[0])
