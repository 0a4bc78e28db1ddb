"""`mmtok.prune`: a loaded model that prunes equals the model class, and the given one stays stock."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import IMAGE_SIZE, Family
from small_checkpoints import make_llava_checkpoint
from transformers import AutoProcessor, LlavaForConditionalGeneration
from transformers.utils import logging

import mmtok
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.hub.handler import EndpointHandler
from mmtok.hub.options import is_meaningful
from mmtok.hub.tokenizer_source import TokenizerSource
from mmtok.publish import stage
from modeling_mmtok_llava import MMTokLlavaForConditionalGeneration

SIZE = (IMAGE_SIZE, IMAGE_SIZE)
ROWS = [[3, SIZE, 4], [SIZE, 2]]
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "beams": {**GREEDY, "num_beams": 3, "num_return_sequences": 2},
    "full budget": {**GREEDY, "vision_token_budget": 10_000},
    "no pruning": {**GREEDY, "vision_token_budget": None},
    "static cache": {**GREEDY, "cache_implementation": "static"},
}
PLACES = {"model.language_model": "disk", "lm_head": "cpu"}


@pytest.fixture
def models(family: Family) -> tuple[Any, Any]:
    """A model of the MMTok class, and a stock one of equal weights with a configuration of its own class."""
    return family.models_of_own_classes(vision_token_budget=3)


@pytest.fixture
def stock_folder(models: tuple[Any, Any], tmp_path: Path) -> Path:
    models[1].save_pretrained(tmp_path / "stock")
    return tmp_path / "stock"


def run(model: Any, inputs: dict[str, Any], **settings: Any) -> torch.Tensor:
    return model.generate(**inputs, **{**GREEDY, **settings})


@pytest.mark.parametrize("way", WAYS)
def test_it_equals_the_model_class_and_the_original_stays(family: Family, models: Any, way: str) -> None:
    expected, stock = models
    inputs = family.inputs(ROWS, expected)
    before, state, config = run(stock, inputs), set(vars(stock)), stock.config.to_dict()
    pruned = mmtok.prune(stock, vision_token_budget=3)
    assert type(pruned) is family.model_class
    assert torch.equal(pruned.generate(**inputs, **WAYS[way]), expected.generate(**inputs, **WAYS[way]))
    assert pruned.unpruned() is stock
    assert type(stock) is family.stock_class
    assert set(vars(stock)) - {"_compiled_call", "_last_compile_config"} == state
    assert stock.config.to_dict() == config
    assert torch.equal(run(stock, inputs), before)
    if "budget" in way or way == "no pruning":
        own = {name: value for name, value in WAYS[way].items() if name != "vision_token_budget"}
        assert torch.equal(pruned.generate(**inputs, **WAYS[way]), stock.generate(**inputs, **own))


def test_forward_and_selection_are_those_of_the_model_class(family: Family, models: Any) -> None:
    expected, stock = models
    pruned, inputs = mmtok.prune(stock, vision_token_budget=3), family.inputs(ROWS, expected)
    assert torch.equal(pruned(**inputs).logits, expected(**inputs).logits)
    kept = pruned.select_vision_tokens(**inputs).kept_mask
    assert torch.equal(kept, expected.select_vision_tokens(**inputs).kept_mask)


def test_modules_are_shared_and_settings_are_not(family: Family, models: Any) -> None:
    _, stock = models
    pruned = mmtok.prune(stock)
    weights = dict(stock.named_parameters())
    assert {name: id(each) for name, each in pruned.named_parameters()} == {n: id(w) for n, w in weights.items()}
    pruned.generation_config.max_new_tokens = 1
    assert stock.generation_config.max_new_tokens is None
    pruned.lm_head = torch.nn.Identity()
    assert isinstance(stock.lm_head, torch.nn.Linear)
    # As an attribute it is that of the text in Qwen2.5-VL's configuration on 4.57, of stock too.
    assert pruned.config.to_dict()["model_type"] == family.config_class.model_type
    assert pruned.config.vision_token_budget == family.config_class().vision_token_budget


def test_a_pruned_model_is_saved_and_loaded_as_its_class(family: Family, models: Any, tmp_path: Path) -> None:
    expected, stock = models
    mmtok.prune(stock, vision_token_budget=3).save_pretrained(tmp_path)
    loaded, inputs = family.model_class.from_pretrained(tmp_path), family.inputs(ROWS, expected)
    assert torch.equal(run(loaded, inputs), run(expected, inputs))


def test_an_mmtok_model_becomes_another_with_other_options(family: Family, models: Any) -> None:
    expected, stock = models
    fewer = mmtok.prune(expected, vision_token_budget=1)
    inputs = family.inputs(ROWS, expected)
    assert torch.equal(run(fewer, inputs), run(expected, inputs, vision_token_budget=1))
    assert expected.config.vision_token_budget == 3
    assert fewer.config.vision_coverage_weight == expected.config.vision_coverage_weight
    assert torch.equal(run(fewer.unpruned(), inputs), run(stock, inputs))
    assert type(fewer.unpruned()) is family.stock_class
    assert not hasattr(fewer.unpruned().config, "vision_token_budget")


def test_threads_share_the_weights_with_stock(family: Family, models: Any) -> None:
    expected, stock = models
    if not family.encodes_images_apart(stock):
        pytest.skip("stock itself fails on calls that run together on this release")
    inputs = family.inputs(ROWS, expected)
    alone = [run(expected, inputs, vision_token_budget=budget) for budget in (1, 5)]
    shared = [mmtok.prune(stock, vision_token_budget=budget) for budget in (1, 5)]
    if family.tells_calls_apart(stock):
        alone, shared = [run(stock, inputs), *alone], [stock, *shared]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda model: run(model, inputs), shared * 3))
    assert all(torch.equal(found, wanted) for found, wanted in zip(together, alone * 3, strict=True))


def test_a_model_on_several_devices(family: Family, models: Any, stock_folder: Path, tmp_path: Path) -> None:
    places = {**PLACES, **family.places}
    stock = family.stock_class.from_pretrained(stock_folder, device_map=places, offload_folder=str(tmp_path / "off"))
    pruned, inputs = mmtok.prune(stock, vision_token_budget=3), family.inputs(ROWS, models[0])
    if not family.offloads_images(stock):
        pytest.skip("The stock vision tower of this release reads its weights before they are loaded.")
    assert torch.equal(run(pruned, inputs), run(models[0], inputs))
    assert torch.equal(run(stock, inputs), run(models[1], inputs))
    torch.testing.assert_close(pruned(**inputs).logits, models[0](**inputs).logits, atol=family.rounding, rtol=0)
    with pytest.raises(RuntimeError, match="You can't move a model that has some modules offloaded"):
        pruned.to("cpu")


def test_a_quantised_model(family: Family, models: Any, stock_folder: Path) -> None:
    quanto = pytest.importorskip("optimum.quanto")
    from transformers import QuantoConfig

    stock = family.stock_class.from_pretrained(stock_folder, quantization_config=QuantoConfig(weights="int8"))
    pruned, inputs = mmtok.prune(stock, vision_token_budget=3), family.inputs(ROWS, models[0])
    assert isinstance(pruned.model.language_model.layers[-1].self_attn.q_proj, quanto.QLinear)
    before = run(stock, inputs)
    assert torch.equal(run(pruned, inputs, vision_token_budget=None), before)
    assert pruned(**inputs).kept_mask.sum() < inputs["attention_mask"].sum()
    assert torch.isfinite(pruned(**inputs).logits).all()
    assert torch.equal(run(stock, inputs), before)


# PEFT's own use of transformers.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
def test_an_adapter_works_in_the_pruned_model(family: Family, models: Any) -> None:
    peft = pytest.importorskip("peft")
    expected, stock = models
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)", init_lora_weights=False)
    adapted = peft.get_peft_model(stock, settings).eval()
    pruned, inputs = mmtok.prune(adapted, vision_token_budget=3), family.inputs(ROWS, expected)
    assert pruned.unpruned() is adapted
    learned = pruned(**inputs).logits
    assert not torch.equal(learned, expected(**inputs).logits)
    merged = adapted.merge_and_unload()
    expected.load_state_dict(merged.state_dict())
    torch.testing.assert_close(learned, expected(**inputs).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
def test_what_peft_does_outside_of_the_model_is_refused(models: Any) -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, target_modules=r".*language_model.*\.q_proj")
    with pytest.raises(ValueError, match="is a PeftMixedModel, which cannot be pruned"):
        mmtok.prune(peft.PeftMixedModel(models[1], lora))
    sizes = {"token_dim": models[1].lm_head.in_features, "num_layers": 2, "num_attention_heads": 2}
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, **sizes)
    with pytest.raises(ValueError, match="is a PromptTuningConfig, which adds to the prompt outside of the model"):
        mmtok.prune(peft.PeftModelForCausalLM(models[1], prompt))


class _Own(torch.nn.Module):
    pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: torch.compile(model), "is compiled"),
        (lambda model: model.compile() or model, "is compiled"),
        (lambda model: _Own(), "is a _Own, which cannot be pruned: give a LlavaForConditionalGeneration or a"),
        (lambda model: type("Mine", (type(model),), {})(model.config), "is a Mine, which cannot be pruned"),
        (lambda model: setattr(model, "forward", model.forward) or model, "forward of the .* was replaced"),
        (lambda model: setattr(model, "generate", model.generate) or model, "generate of the .* was replaced"),
    ],
)
def test_what_cannot_be_shared_is_refused(models: Any, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mmtok.prune(change(models[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision_token_budget": 0}, "vision_token_budget is 0"),
        ({"vision_tokens_budget": 4}, "did you mean vision_token_budget"),
        ({"colour": 4}, "colour is neither an input nor an option"),
    ],
)
def test_options_are_checked_before_anything_is_made(models: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mmtok.prune(models[1], **options)


def test_an_option_that_means_nothing_is_refused(models: Any) -> None:
    expected, stock = models
    for name, value in (("image_scale", 0.5), ("padding", "exclude"), ("padding", "include")):
        if is_meaningful(name, value, type(expected).own_options):
            assert getattr(mmtok.prune(stock, **{name: value}).config, name) == value
            continue
        with pytest.raises(ValueError, match=f"{name} is {value!r}, which means nothing for {type(expected).__name__}"):
            mmtok.prune(stock, **{name: value})


def test_a_sharded_model_is_to_be_pruned_first(family: Family) -> None:
    from torch.distributed.fsdp import FSDPModule

    _, stock = family.models_of_own_classes()
    # What fully_shard makes of the class.
    stock.__class__ = type(f"FSDP{type(stock).__name__}", (FSDPModule, type(stock)), {})
    with pytest.raises(ValueError, match="which fully_shard made: prune before sharding"):
        mmtok.prune(stock)


def test_the_same_words_through_every_door(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = make_llava_checkpoint(tmp_path / "base")
    stock, processor = LlavaForConditionalGeneration.from_pretrained(base), AutoProcessor.from_pretrained(base)
    staged = stage(base, tmp_path / "staged", check=False).path
    in_memory = LlavaForConditionalGeneration(deepcopy(stock.config))
    in_memory.config._name_or_path = ""
    prompt = "USER: <image>\nIs there a\nsnowboard? ASSISTANT:".replace("<image>", "<image>" * 16)
    inputs = processor.tokenizer(prompt, return_tensors="pt")
    inputs["pixel_values"] = torch.randn(1, 3, 24, 24)

    def words(model: Any) -> tuple[str, ...]:
        return model.select_vision_tokens(**inputs, vision_token_budget=4).images[0].words

    doors = {
        "beside the weights": mmtok.prune(stock),
        "the processor": mmtok.prune(in_memory, processor),
        "the tokenizer": mmtok.prune(in_memory, processor.tokenizer),
        "staged": MMTokLlavaForConditionalGeneration.from_pretrained(staged),
        "an evaluation of a base": Checkpoint.load(base).model,
        "an evaluation of a staged folder": Checkpoint.load(staged).model,
        "the handler of an endpoint": EndpointHandler(str(staged)).pipeline.model,
    }
    doors["saved"] = saved = MMTokLlavaForConditionalGeneration.from_pretrained(staged)
    saved.save_pretrained(tmp_path / "saved")
    doors["saved"] = MMTokLlavaForConditionalGeneration.from_pretrained(tmp_path / "saved")
    doors["copied"], doors["pickled"] = deepcopy(doors["the processor"]), pickle.loads(pickle.dumps(doors["staged"]))
    assert {name: words(model) for name, model in doors.items()} == dict.fromkeys(doors, ("there", "snowboard"))
    assert not caplog.messages
    logging.get_logger().warning_once.cache_clear()  # another test may have met it
    assert words(mmtok.prune(in_memory)) == ()
    assert [message.partition(":")[0] for message in caplog.messages] == ["There is no tokenizer.json beside the model"]
    with pytest.raises(ValueError, match="covered_text is 'dog', and there is no tokenizer to read it with"):
        mmtok.prune(in_memory).select_vision_tokens(**inputs, covered_text="dog")


def test_a_token_of_the_hub_is_not_pickled() -> None:
    source = TokenizerSource(name="org/model", hub_arguments={"token": "secret", "cache_dir": "there"})
    assert b"secret" not in pickle.dumps(source)
    assert b"there" in pickle.dumps(source)
