"""Ways of generating that stock LLaVA supports, on a pruned prompt: the same list as transformers' own model tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import CACHE, IMAGE_SIZE, Family
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache
from transformers.generation import GenerationMixin

SIZE = (IMAGE_SIZE, IMAGE_SIZE)
ROWS = [[3, SIZE, 4], [SIZE, 2]]
GREEDY: dict[str, Any] = {"vision_token_budget": 3, "max_new_tokens": 5, "do_sample": False}


@pytest.fixture
def model(family: Family) -> Any:
    return family.models()[0]


def generated(model: Any, inputs: dict[str, torch.Tensor], **change: Any) -> torch.Tensor:
    return model.generate(**inputs, **{**GREEDY, **change})


def test_classes_are_generation_classes_themselves(family: Family) -> None:
    assert GenerationMixin in family.model_class.__bases__


@pytest.mark.parametrize(
    "change",
    [
        {"use_cache": False},
        {"prefill_chunk_size": 3},
        {"prefill_chunk_size": 50},
        {"cache_implementation": "static"},
        {"logits_to_keep": 0},
    ],
    ids=str,
)
def test_same_tokens_in_every_mode(family: Family, model: Any, change: dict[str, Any]) -> None:
    by_stock = {"prefill_chunk_size", "cache_implementation"} & {*change}
    if by_stock and not family.stock_takes(model, change, [[9], [5]]):
        pytest.skip("stock itself fails on texts in this mode on this release")
    inputs = family.inputs(ROWS, model)
    if family.refuses(model, inputs, {**GREEDY, **change}):
        return
    assert torch.equal(generated(model, inputs, **change), generated(model, inputs))


def test_same_tokens_with_an_assistant(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS[:1], model)
    expected = generated(model, inputs)
    if family.refuses(model, inputs, {**GREEDY, "assistant_model": model}):
        return
    for assistant in (model, family.models(seed=3)[0]):
        assert torch.equal(generated(model, inputs, assistant_model=assistant), expected)
    # Before 5.20 or so stock cannot look anything up without an id that ends the text.
    assert torch.equal(generated(model, inputs, prompt_lookup_num_tokens=2, eos_token_id=10_000), expected)


def test_an_assistant_of_another_width_is_refused(family: Family, model: Any) -> None:
    narrow_config = family.config()
    narrow_config.text_config.hidden_size, narrow_config.text_config.num_attention_heads = 16, 2
    narrow = family.model_class(narrow_config)
    with pytest.raises(ValueError, match="embeddings of width 16 and the model of width 32"):
        generated(model, family.inputs(ROWS[:1], model), assistant_model=narrow)


@pytest.mark.parametrize("beams", [1, 2])
def test_embeddings_give_the_tokens_of_their_ids(family: Family, model: Any, beams: int) -> None:
    inputs = family.inputs(ROWS, model)
    expected = generated(model, inputs, num_beams=beams)
    ids = inputs.pop("input_ids")
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(
        generated(model, {**inputs, "input_ids": ids, "inputs_embeds": embeds}, num_beams=beams), expected
    )
    if family.refuses(model, {**inputs, "inputs_embeds": embeds}, {**GREEDY, "num_beams": beams}):
        return
    alone = generated(model, {**inputs, "inputs_embeds": embeds}, num_beams=beams)
    assert torch.equal(alone, expected[:, ids.shape[1] :])


def test_other_embeddings_give_other_scores(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS, model)
    ids = inputs["input_ids"]
    settings = {"return_dict_in_generate": True, "output_scores": True}
    if family.refuses(model, {"inputs_embeds": torch.randn(*ids.shape, 32)}, settings):
        return
    own = model.generate(input_ids=ids, inputs_embeds=model.get_input_embeddings()(ids), max_new_tokens=2, **settings)
    random = torch.randn(*ids.shape, 32)
    other = model.generate(input_ids=ids, inputs_embeds=random, max_new_tokens=2, **settings)
    assert not any(torch.allclose(a, b) for a, b in zip(own.scores, other.scores, strict=True))


@pytest.mark.parametrize(("beams", "use_cache"), [(1, True), (1, False), (2, False)])
def test_outputs_of_every_step_are_aligned_with_the_prompt(
    family: Family, model: Any, beams: int, use_cache: bool
) -> None:
    model.set_attn_implementation("eager")
    inputs = family.inputs(ROWS, model)
    length, rows = inputs["input_ids"].shape[1], len(ROWS) * beams
    output = generated(
        model,
        inputs,
        num_beams=beams,
        use_cache=use_cache,
        return_dict_in_generate=True,
        output_hidden_states=True,
        output_attentions=True,
    )
    for step, (states, weights) in enumerate(zip(output.hidden_states, output.attentions, strict=True)):
        queries = 1 if use_cache and step else length + step
        assert {tuple(state.shape) for state in states} == {(rows, queries, 32)}
        assert {tuple(weight.shape) for weight in weights} == {(rows, 4, queries, length + step)}
        # What a query reads is read in full: nothing of the softmax is lost on the way.
        read = torch.stack([weight.sum(-1) for weight in weights])
        assert torch.all(torch.isclose(read, torch.ones(())) | (read == 0))
        # The last token reads itself, in the last column.
        assert all(bool((weight[:, :, -1, -1] > 0).all()) for weight in weights)
    assert (output.get(CACHE) is not None) is use_cache


def test_generation_continues_from_its_own_cache(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS, model)
    expected = generated(model, inputs, max_new_tokens=5)
    first = generated(model, inputs, max_new_tokens=3, return_dict_in_generate=True)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 3), value=1)
    rest = {"input_ids": first.sequences, CACHE: first[CACHE]}
    assert torch.equal(generated(model, {**rest, "attention_mask": mask}, max_new_tokens=2), expected)


@pytest.mark.parametrize("with_mask", [True, False])
def test_embeddings_continue_from_their_own_cache(family: Family, model: Any, with_mask: bool) -> None:
    inputs = family.inputs(ROWS, model)
    embed = model.get_input_embeddings()
    inputs["inputs_embeds"] = embed(inputs.pop("input_ids"))
    if family.refuses(model, inputs, GREEDY):
        return
    expected = generated(model, inputs, max_new_tokens=5)
    first = generated(model, inputs, max_new_tokens=3, return_dict_in_generate=True)
    longer = torch.cat((inputs["inputs_embeds"], embed(first.sequences)), dim=1)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 3), value=1)
    rest = {"inputs_embeds": longer, CACHE: first[CACHE]}
    if with_mask:
        rest["attention_mask"] = mask
    more = generated(model, rest, max_new_tokens=2)
    assert torch.equal(torch.cat((first.sequences, more), dim=1), expected)


def test_a_continued_cache_is_that_of_one_call(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS[:1], model)
    wanted = generated(model, inputs, max_new_tokens=4, return_dict_in_generate=True)[CACHE]
    first = generated(model, inputs, max_new_tokens=3, return_dict_in_generate=True)
    mask = torch.ones_like(first.sequences)
    rest = {"input_ids": first.sequences, CACHE: first[CACHE], "attention_mask": mask}
    generated(model, rest, max_new_tokens=1)
    for expected, continued in zip(wanted.layers, first[CACHE].layers, strict=True):
        # Keys and values, or the states of a recurrent layer.
        own, held = (
            [value for value in tree_leaves(vars(layer)) if isinstance(value, torch.Tensor)]
            for layer in (continued, expected)
        )
        assert held
        torch.testing.assert_close(own, held)


def test_a_cache_of_another_prompt_is_refused(family: Family, model: Any) -> None:
    first = generated(model, family.inputs(ROWS, model), return_dict_in_generate=True)
    other = family.inputs(ROWS, model, seed=1)["input_ids"]
    longer = torch.cat((other, other[:, :6]), dim=1)
    with pytest.raises(ValueError, match="do not begin with it: continue from the returned sequences"):
        generated(model, {"input_ids": longer, CACHE: first[CACHE]})


@pytest.mark.parametrize("with_mask", [True, False])
def test_decoding_by_hand_is_generation(family: Family, model: Any, with_mask: bool) -> None:
    inputs = family.inputs(ROWS, model)
    expected = generated(model, inputs, max_new_tokens=4)
    mask, sequences = inputs["attention_mask"], inputs["input_ids"]
    with torch.no_grad():
        # Positions in a grid are left to the model: those of the images are not running numbers.
        positions = {} if family.has_grids else {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)}
        output = model(**inputs, **positions, vision_token_budget=3, use_cache=True)
        for _ in range(4):
            token = output.logits[:, -1:].argmax(-1)
            sequences = torch.cat((sequences, token), dim=1)
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            given = {"attention_mask": mask} if with_mask else {}
            positions = {} if family.has_grids else {"position_ids": mask.cumsum(1)[:, -1:] - 1}
            output = model(token, **{CACHE: output[CACHE]}, **positions, **given)
    assert torch.equal(sequences, expected)


def test_a_mask_that_fits_neither_prompt_is_refused(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS, model)
    with torch.no_grad():
        output = model(**inputs, vision_token_budget=3, use_cache=True)
        with pytest.raises(ValueError, match="give one value for each of them"):
            model(torch.tensor([[5], [6]]), **{CACHE: output[CACHE]}, attention_mask=torch.ones(2, 4))


def test_image_tokens_without_a_image_are_refused(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS, model)
    with pytest.raises(ValueError, match="image tokens and no images: give pixel_values"):
        model.generate(input_ids=inputs["input_ids"], max_new_tokens=1)


def test_an_empty_cache_of_the_caller_is_filled(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS, model)
    cache = DynamicCache(config=model.config.get_text_config())
    assert torch.equal(generated(model, inputs, **{CACHE: cache}), generated(model, inputs))
    assert cache.get_seq_length() > 0


def test_positions_of_the_caller_are_those_of_stock(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS, model)
    _, stock = family.models()
    counted = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    positions = family.positions(stock, inputs).get("position_ids", counted)
    with torch.no_grad():
        expected = model(**inputs, vision_token_budget=3).logits
        given = model(**inputs, position_ids=positions, vision_token_budget=3).logits
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(given[real], expected[real], atol=1e-4, rtol=1e-4)
    if family.has_grids or family.takes_positions(stock):
        assert torch.equal(generated(model, {**inputs, "position_ids": positions}), generated(model, inputs))
