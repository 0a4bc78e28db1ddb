"""The published checkpoints: their names and shapes fit the classes, and their example cards are current."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.core_model_loading import revert_weight_conversion

from benchmarks.checkpoint_shapes import CARDS, NAMES, Member, check_member, example_card, main
from mmtok.publish import CheckFailed
from mmtok.publish.base import TensorHeader

FOLDER = Path(__file__).parents[2] / "docs" / "cards"


def canonical_name(name: str) -> str:
    """One name for a tensor in the llava-hf layout, in that of transformers since 4.52 and in that of 5.x."""
    name = name.removeprefix("model.").replace("vision_tower.vision_model.", "vision_tower.")
    if name.startswith(("layers.", "embed_tokens.", "norm.")):  # Qwen2.5-VL's language model has no prefix
        return "language_model." + name
    if name.startswith("language_model."):
        inner = name.removeprefix("language_model.").removeprefix("model.")
        return inner if inner.startswith("lm_head.") else "language_model." + inner
    return name


def shallow(name: str) -> Member:
    """A member with two layers of each kind."""
    member = Member.read(name)
    config = copy.deepcopy(member.config)
    for part in ("text_config", "vision_config"):
        config[part]["depth" if "depth" in config[part] else "num_hidden_layers"] = 2
    return replace(member, config=config)


@pytest.mark.parametrize("name", NAMES)
def test_the_key_layout_has_the_names_and_shapes_of_the_stock_class(name: str) -> None:
    member = Member.read(name)
    config = AutoConfig.for_model(**member.config)
    with torch.device("meta"):
        stock = AutoModelForImageTextToText.from_config(config)
    tensors, state = member.tensors(), stock.state_dict()
    if any(".experts.0." in key for key in tensors):  # the class has them in one tensor; the way back is transformers'
        state = revert_weight_conversion(stock, state)
    if config.model_type == "qwen3_vl_moe":  # transformers transposes the experts of these files when it loads them
        state = {key: tensor.mT if ".experts." in key else tensor for key, tensor in state.items()}
    theirs = {canonical_name(key): tuple(tensor.shape) for key, tensor in state.items()}
    # Tied, there is no tensor of its own in the files; config.json of Gemma 3 leaves out what is its class's default.
    if member.config.get("tie_word_embeddings", member.layout == "gemma3"):
        del theirs["lm_head.weight"]
    assert {canonical_name(key): header.shape for key, header in tensors.items()} == theirs


def test_layout_and_sizes_of_the_first_member_by_hand() -> None:
    tensors = Member.read("llava-1.5-7b-hf").tensors()
    assert tensors["language_model.model.layers.31.mlp.down_proj.weight"] == TensorHeader("F16", (4096, 11008))
    assert tensors["vision_tower.vision_model.embeddings.position_embedding.weight"].shape == (577, 1024)
    assert tensors["multi_modal_projector.linear_1.weight"].shape == (4096, 1024)
    assert "image_newline" not in tensors
    tensors = Member.read("llava-v1.6-mistral-7b-hf").tensors()
    assert tensors["language_model.model.layers.0.self_attn.k_proj.weight"].shape == (1024, 4096)
    assert tensors["image_newline"].shape == (4096,)


@pytest.mark.parametrize(
    ("name", "family"),
    [("llava-v1.6-mistral-7b-hf", "LlavaNext"), ("qwen3-vl-30b-a3b-instruct", "Qwen3VLMoe"), ("glm-4.5v", "Glm4vMoe")],
)
def test_the_real_loader_takes_the_published_layout(name: str, family: str) -> None:
    member = shallow(name)
    fit = check_member(member)
    assert fit.model_class == f"MMTok{family}ForConditionalGeneration"
    assert fit.tensors == len(member.tensors())


def test_the_real_loader_finds_a_tensor_of_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    member = shallow("llava-1.5-7b-hf")
    tensors = member.tensors()
    tensors["language_model.head.weight"] = tensors.pop("language_model.lm_head.weight")
    monkeypatch.setattr(Member, "tensors", lambda self: tensors)
    with pytest.raises(CheckFailed, match=r"do not fit .* 1 missing keys, lm_head\.weight; 1 unexpected keys"):
        check_member(member)


@pytest.mark.parametrize("name", CARDS)
def test_the_example_cards_are_what_the_template_writes(name: str) -> None:
    committed = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert committed == example_card(Member.read(name)), "run python -m benchmarks.checkpoint_shapes --cards docs/cards"


def test_unknown_names_are_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["llava-2"])
    assert "there is no llava-2: choose from gemma-4-31b-it" in capsys.readouterr().err
