"""Options in a generation configuration: which place outranks which, and that the model keeps none of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import EOS, IMAGE, PAD, Family
from transformers import GenerationConfig

ROW = [3, (24, 24), 5]
# Random models write image tokens, for which there is no image: they may not.
LENGTH = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [IMAGE]}


@pytest.fixture
def model(family: Family) -> Any:
    model = family.models(vision_token_budget=9)[0]
    model.generation_config.eos_token_id = EOS
    return model


@pytest.fixture
def inputs(family: Family, model: Any) -> dict[str, torch.Tensor]:
    return family.inputs([ROW], model)


def with_budget(budget: Any) -> GenerationConfig:
    return GenerationConfig(vision_token_budget=budget, **LENGTH)


def read_by(model: Any, inputs: dict[str, torch.Tensor], **arguments: Any) -> int:
    """Length of the first prompt that reaches the language model in `generate`."""
    lengths: list[int] = []

    def record(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        lengths.append(kwargs["inputs_embeds"].shape[1])

    handle = model.model.language_model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        model.generate(**inputs, **arguments)
    finally:
        handle.remove()
    return lengths[0]


def tokens(model: Any, inputs: dict[str, torch.Tensor], **arguments: Any) -> int:
    """Length of the prompt that `generate` reads; `select_vision_tokens` has to say the same."""
    read = read_by(model, inputs, **arguments)
    pruning_options = {name: value for name, value in arguments.items() if name not in LENGTH}
    assert int(model.select_vision_tokens(**inputs, **pruning_options).kept_mask.sum()) == read
    return read


def test_the_order_of_precedence(family: Family, model: Any, inputs: dict[str, torch.Tensor]) -> None:
    length = {budget: read_by(model, inputs, vision_token_budget=budget, **LENGTH) for budget in (2, 3, 5, 9, None)}
    assert sorted(set(length.values())) == [length[2], length[3], length[5], length[9], length[None]]
    assert tokens(model, inputs, **LENGTH) == length[9]
    model.generation_config.vision_token_budget = 5
    assert tokens(model, inputs, **LENGTH) == length[5]
    assert tokens(model, inputs, generation_config=GenerationConfig(**LENGTH)) == length[5]
    assert tokens(model, inputs, generation_config=with_budget(3)) == length[3]
    assert tokens(model, inputs, generation_config=with_budget(3), vision_token_budget=2) == length[2]
    assert model.config.vision_token_budget == 9


@pytest.mark.parametrize("decoding", [{}, {"num_beams": 2, "num_return_sequences": 2}, {"prompt_lookup_num_tokens": 2}])
def test_none_keeps_every_token_wherever_it_stands(
    family: Family, model: Any, inputs: dict[str, torch.Tensor], decoding: dict[str, int]
) -> None:
    if "prompt_lookup_num_tokens" in decoding and not family.drafts:
        pytest.skip("stock takes no drafts")
    expected = model.generate(**inputs, vision_token_budget=None, **LENGTH, **decoding)
    config = with_budget(None)
    config.update(**decoding)
    assert torch.equal(model.generate(**inputs, generation_config=config), expected)
    config.vision_token_budget = 2
    assert torch.equal(model.generate(**inputs, generation_config=config, vision_token_budget=None), expected)
    model.generation_config.vision_token_budget = 2
    assert torch.equal(model.generate(**inputs, vision_token_budget=None, **LENGTH, **decoding), expected)


def test_an_assistant_reads_the_same_prompt(family: Family, model: Any, inputs: dict[str, torch.Tensor]) -> None:
    if not family.drafts:
        pytest.skip("stock takes no drafts")
    assistant, stock = family.models(seed=1, vision_token_budget=4)
    for budget, helper in ((2, assistant), (None, assistant), (None, stock)):
        expected = model.generate(**inputs, vision_token_budget=budget, **LENGTH)
        found = model.generate(**inputs, generation_config=with_budget(budget), assistant_model=helper)
        assert torch.equal(found, expected)


def test_every_option_is_read(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    pruning_options = {"vision_token_budget": 4, "vision_coverage_weight": 50.0, "text_temperature": 0.5}
    told = model.select_vision_tokens(**inputs, **pruning_options).images[0]
    read = model.select_vision_tokens(**inputs, generation_config=GenerationConfig(**pruning_options)).images[0]
    assert torch.equal(told.vision_gain, read.vision_gain)
    assert not torch.equal(told.vision_gain, model.select_vision_tokens(**inputs).images[0].vision_gain[:4])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"vision_token_budget": 0}, "vision_token_budget is 0: give a number of tokens"),
        ({"text_temperature": "cold"}, "text_temperature is 'cold': give a number from 1e-6 to 1e6"),
        ({"text_coverage_weight": 0, "vision_coverage_weight": 0}, "are both 0, which leaves nothing to cover"),
    ],
)
def test_nonsense_is_refused(model: Any, inputs: dict[str, torch.Tensor], option: dict[str, Any], message: str) -> None:
    config = GenerationConfig(**option, **LENGTH)
    for call in (model.generate, model.select_vision_tokens):
        with pytest.raises(ValueError, match=message):
            call(**inputs, generation_config=config)
    for name, value in option.items():
        setattr(model.generation_config, name, value)
    with pytest.raises(ValueError, match=message):
        model.generate(**inputs, **LENGTH)


def test_the_generation_configuration_is_left_alone(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    given = with_budget(3)
    before = given.to_dict(), model.generation_config.to_dict(), model.config.to_dict()
    model.generate(**inputs, generation_config=given)
    model.generate(**inputs, generation_config=given, vision_token_budget=None)
    assert (given.to_dict(), model.generation_config.to_dict(), model.config.to_dict()) == before


@pytest.mark.parametrize("budget", [3, None])
def test_it_is_saved_with_the_model(family: Family, model: Any, inputs: dict[str, Any], tmp_path, budget) -> None:
    # Of a generation configuration that was derived from the model's, stock reads no further attributes back.
    model.generation_config = GenerationConfig(vision_token_budget=budget, pad_token_id=PAD)
    model.save_pretrained(tmp_path)
    read = family.model_class.from_pretrained(tmp_path)
    assert read.config.vision_token_budget == 9
    assert tokens(read, inputs, **LENGTH) == tokens(model, inputs, **LENGTH)


def test_an_option_for_loading_is_the_configurations(family: Family, model: Any, inputs, tmp_path) -> None:
    """Stock puts every argument of `from_pretrained` into the generation configuration as well."""
    model.generation_config = GenerationConfig(pad_token_id=PAD)
    model.save_pretrained(tmp_path)
    read, _ = family.model_class.from_pretrained(tmp_path, vision_token_budget=5, output_loading_info=True)
    assert tokens(read, inputs, **LENGTH) == tokens(model, inputs, vision_token_budget=5, **LENGTH)
    read.config.vision_token_budget = 2
    assert tokens(read, inputs, **LENGTH) == tokens(model, inputs, vision_token_budget=2, **LENGTH)
    assert not hasattr(read.generation_config, "vision_token_budget")
