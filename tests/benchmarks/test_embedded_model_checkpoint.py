"""The embedded checkpoint: stock LLaVA in the llava-hf layout, and it sees."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration, pipeline

from benchmarks.embedded_model.architecture import build_model
from benchmarks.embedded_model.export import llava_hf_key
from benchmarks.embedded_model.held_out import SELECTORS, Examiner, held_out_items
from benchmarks.embedded_model.stages import STAGES
from mmtok.tiny import checkpoint_path

LLAVA_HF_PREFIXES = (
    "language_model.model.",
    "language_model.lm_head.weight",
    "vision_tower.vision_model.",
    "multi_modal_projector.",
)


@pytest.fixture(scope="module")
def examiner():
    """The checkpoint and 400 held-out questions, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Examiner(checkpoint_path(), held_out_items(400))
    torch.set_num_threads(threads)


def test_half_of_the_held_out_questions_are_true():
    items = held_out_items(200)
    assert sum(item.question.answer == "yes" for item in items) == 100
    assert all((item.target >= 0) == (item.question.answer == "yes") for item in items)
    assert len({item.scene for item in items}) == 200


def test_weights_are_in_the_llava_hf_layout():
    path = checkpoint_path() / "model.safetensors"
    assert path.stat().st_size < 8e6
    with safe_open(path, "pt") as weights:
        keys = set(weights.keys())
        assert {weights.get_tensor(key).dtype for key in keys} == {torch.float32}
    assert all(key.startswith(LLAVA_HF_PREFIXES) for key in keys)
    assert keys == {llava_hf_key(key) for key in build_model(seed=0).state_dict()}


def test_a_parameter_without_a_name_in_that_layout_is_refused():
    with pytest.raises(ValueError, match=r"Parameter 'model\.adapter\.weight' has no name in the llava-hf layout"):
        llava_hf_key("model.adapter.weight")


def test_stock_transformers_loads_every_tensor():
    model, info = AutoModelForImageTextToText.from_pretrained(checkpoint_path(), output_loading_info=True)
    assert type(model) is LlavaForConditionalGeneration
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = model.state_dict()
    with safe_open(checkpoint_path() / "model.safetensors", "pt") as weights:
        for key, value in state.items():
            assert torch.equal(value, weights.get_tensor(llava_hf_key(key))), key


def test_it_answers_through_the_pipeline():
    ask = pipeline("image-text-to-text", model=str(checkpoint_path()))

    def answer(item, question):
        content = [{"type": "image", "image": item.scene.image()}, {"type": "text", "text": question}]
        reply = ask(text=[{"role": "user", "content": content}], max_new_tokens=40, return_full_text=False)
        return reply[0]["generated_text"].strip()

    items = held_out_items(4)
    assert [answer(item, item.question.text) for item in items] == ["yes", "no", "yes", "no"]
    assert re.fullmatch(r"an? \w+ \w+( and an? \w+ \w+)*", answer(items[0], "Describe the image."))


def test_it_sees_with_all_tokens(examiner):
    assert examiner.score().accuracy >= 0.97


def test_it_sees_with_four_tokens_that_mmtok_chose(examiner):
    scores = {name: examiner.score(selector, 4) for name, selector in SELECTORS.items()}
    assert scores["mmtok"].accuracy >= 0.95
    assert scores["mmtok"].kept_target >= 0.9
    for name in ("vision", "uniform", "random"):
        assert scores["mmtok"].accuracy > scores[name].accuracy + 0.02


def test_the_report_is_of_this_checkpoint(examiner):
    report = json.loads((checkpoint_path() / "training_report.json").read_text(encoding="utf-8"))
    assert report["held_out"]["questions"] >= 1000
    assert [stage["name"] for stage in report["stages"]] == [stage.name for stage in STAGES]
    assert [stage["steps"] for stage in report["stages"]] == [stage.steps for stage in STAGES]
    reported = report["held_out"]["scores"]["mmtok"]["4"]["accuracy"]
    assert examiner.score(SELECTORS["mmtok"], 4).accuracy == pytest.approx(reported, abs=0.03)
