"""The embedded checkpoint: stock LLaVA in the llava-hf layout, and it sees."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration, pipeline

from benchmarks.embedded_model.architecture import build_model
from benchmarks.embedded_model.export import llava_hf_key
from benchmarks.embedded_model.held_out import HELD_OUT, HELD_OUT_SEED, evaluate, write_held_out
from benchmarks.embedded_model.stages import STAGES
from benchmarks.quality.evidence import kept_evidence
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.questions import read_questions, require_images
from mmtok.evaluation.selectors import METHODS
from mmtok.images import read_image
from mmtok.tiny import checkpoint_path
from mmtok.tiny.scenes import sample_scene

LLAVA_HF_PREFIXES = (
    "language_model.model.",
    "language_model.lm_head.weight",
    "vision_tower.vision_model.",
    "multi_modal_projector.",
)


@pytest.fixture(scope="module")
def scores():
    """400 held-out questions answered with all tokens and with four, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield evaluate(checkpoint_path(), 400, budgets=(4,))
    torch.set_num_threads(threads)


def test_half_of_the_held_out_questions_are_true(tmp_path):
    questions = read_questions(write_held_out(tmp_path, 200))
    assert [question.label for question in questions] == ["yes", "no"] * 100
    require_images(questions, tmp_path)
    assert len({(tmp_path / question.image).read_bytes() for question in questions}) == 200
    for number, question in enumerate(questions):
        scene = sample_scene(HELD_OUT, np.random.default_rng([HELD_OUT_SEED, number]))
        asked = " ".join(question.text.split()[3:5])
        assert (asked in {item.name for item in scene.objects}) == (question.label == "yes")


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


def test_it_answers_through_the_pipeline(tmp_path):
    ask = pipeline("image-text-to-text", model=str(checkpoint_path()))

    def answer(image, question):
        content = [{"type": "image", "image": read_image(tmp_path / image)}, {"type": "text", "text": question}]
        reply = ask(text=[{"role": "user", "content": content}], max_new_tokens=40, return_full_text=False)
        return reply[0]["generated_text"].strip()

    questions = read_questions(write_held_out(tmp_path, 4))
    assert [answer(question.image, question.text) for question in questions] == ["yes", "no", "yes", "no"]
    assert re.fullmatch(r"an? \w+ \w+( and an? \w+ \w+)*", answer(questions[0].image, "Describe the image."))


def test_it_sees_with_all_tokens(scores):
    assert scores["all tokens"]["all"].accuracy >= 0.97


def test_it_sees_with_four_tokens_that_mmtok_chose(scores):
    assert scores["MMTok"]["4"].accuracy >= 0.95
    for name in ("vision rows", "uniform", "random"):
        assert scores["MMTok"]["4"].accuracy > scores[name]["4"].accuracy + 0.02


def test_four_tokens_show_the_object_that_is_asked_for():
    scenes = [sample_scene(HELD_OUT, np.random.default_rng([HELD_OUT_SEED, number])) for number in range(60)]
    evidence = kept_evidence(Checkpoint.load(checkpoint_path()), scenes, [METHODS["MMTok"]], [4], progress=False)
    assert len(evidence.scenes) > 150
    assert evidence.shown["MMTok", 4].mean() >= 0.9


def test_the_report_is_of_this_checkpoint(scores):
    report = json.loads((checkpoint_path() / "training_report.json").read_text(encoding="utf-8"))
    assert report["held_out"]["questions"] >= 1000
    assert [stage["name"] for stage in report["stages"]] == [stage.name for stage in STAGES]
    assert [stage["steps"] for stage in report["stages"]] == [stage.steps for stage in STAGES]
    reported = report["held_out"]["scores"]["MMTok"]["4"]["accuracy"]
    assert scores["MMTok"]["4"].accuracy == pytest.approx(reported, abs=0.03)
