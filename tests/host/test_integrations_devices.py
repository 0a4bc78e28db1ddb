"""Weights elsewhere than in one piece: offload to CPU and disk, eight-bit weights, a compiled step, two threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import IMAGE_SIZE, Family
from transformers import CompileConfig

SIZE = (IMAGE_SIZE, IMAGE_SIZE)
ROWS = [[3, SIZE, 4], [SIZE, 2]]
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture
def model(family: Family) -> Any:
    return family.models(vision_token_budget=3)[0]


@pytest.fixture
def saved(model: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


PLACES = {
    "disk": {"model.language_model": "disk", "lm_head": "cpu"},
    "all on disk": {"model": "disk", "lm_head": "disk"},
    "language model on disk": {"model.language_model": "disk", "lm_head": "disk"},
}


def require_offloaded_images(family: Family, offloaded: Any) -> None:
    if not family.offloads_images(offloaded.unpruned()):
        pytest.skip("The stock vision tower of this release reads its weights before they are loaded.")


def offloads_embeddings(stock: Any, embeds: torch.Tensor) -> bool:
    """Whether an offloaded stock model continues embeddings."""
    try:
        stock.generate(inputs_embeds=embeds, **GREEDY)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("place", PLACES)
def test_offload_to_disk(family: Family, model: Any, saved: Path, tmp_path: Path, place: str) -> None:
    places = dict(PLACES[place])
    if place != "all on disk":
        places |= family.places if place == "disk" else dict.fromkeys(family.places, "cpu")
    settings: dict[str, Any] = {"device_map": places, "offload_folder": str(tmp_path / "offload")}
    offloaded = family.model_class.from_pretrained(saved, **settings)
    if not hasattr(offloaded, "hf_device_map"):
        family.models_of_own_classes()[1].save_pretrained(tmp_path / "stock")
        stock = family.stock_class.from_pretrained(tmp_path / "stock", **settings)
        assert not hasattr(stock, "hf_device_map")
        pytest.skip("Stock never reads the weights of a model that is all in one place, on this release.")
    assert "disk" in set(offloaded.hf_device_map.values())
    require_offloaded_images(family, offloaded)
    inputs = family.inputs(ROWS, model)
    assert torch.equal(offloaded.generate(**inputs, **GREEDY), model.generate(**inputs, **GREEDY))
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    # Stock on 4.57 makes the new tokens where its first weight is, and so cannot where that is on disk.
    if family.takes_embeddings and offloads_embeddings(offloaded.unpruned(), embeds):
        assert torch.equal(
            offloaded.generate(**inputs, inputs_embeds=embeds, **GREEDY),
            model.generate(**inputs, inputs_embeds=embeds, **GREEDY),
        )


def test_offload_by_accelerate(family: Family, model: Any, saved: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    inputs = family.inputs(ROWS, model)
    expected = model.generate(**inputs, **GREEDY)
    offloaded = accelerate.cpu_offload(family.model_class.from_pretrained(saved), execution_device="cpu")
    assert offloaded.lm_head.weight.is_meta
    require_offloaded_images(family, offloaded)
    assert torch.equal(offloaded.generate(**inputs, **GREEDY), expected)


def test_eight_bit_weights(family: Family, model: Any, saved: Path) -> None:
    quanto = pytest.importorskip("optimum.quanto")
    from transformers import QuantoConfig

    small = family.model_class.from_pretrained(saved, quantization_config=QuantoConfig(weights="int8"))
    assert isinstance(small.model.language_model.layers[-1].self_attn.q_proj, quanto.QLinear)
    inputs = family.inputs(ROWS, model)
    with torch.no_grad():
        pruned = small(**inputs)
        full = small(**inputs, vision_token_budget=None)
    assert pruned.kept_mask.sum() < inputs["attention_mask"].sum()
    assert torch.isfinite(pruned.logits).all()
    assert full.logits.shape == pruned.logits.shape
    assert small.generate(**inputs, **GREEDY).shape[1] == inputs["input_ids"].shape[1] + GREEDY["max_new_tokens"]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
def test_a_decoding_step_compiles_in_one_graph(family: Family, model: Any) -> None:
    settings = CompileConfig(fullgraph=True, dynamic=False, backend="eager")
    settings._compile_all_devices = True
    inputs = family.inputs(ROWS, model)
    expected = model.generate(**inputs, **GREEDY)
    compiled = model.generate(**inputs, **GREEDY, cache_implementation="static", compile_config=settings)
    assert hasattr(model, "_compiled_call")
    assert torch.equal(compiled, expected)


def test_threads_with_their_own_budgets_share_one_model(family: Family, model: Any) -> None:
    if not family.encodes_images_apart(model.unpruned()):
        pytest.skip("stock itself fails on calls that run together on this release")
    inputs = family.inputs(ROWS, model)
    whole = None if family.tells_calls_apart(model.unpruned()) else 9
    budgets = [1, 2, 5, whole, 3, 7] * 2
    alone = {budget: model.generate(**inputs, **GREEDY, vision_token_budget=budget) for budget in set(budgets)}
    with ThreadPoolExecutor(2) as threads:
        together = threads.map(lambda budget: model.generate(**inputs, **GREEDY, vision_token_budget=budget), budgets)
    for budget, tokens in zip(budgets, together, strict=True):
        assert torch.equal(tokens, alone[budget])
