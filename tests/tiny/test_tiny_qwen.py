"""The embedded Qwen2.5-VL answers about images of any size, alone and in a batch, staged and through `mmtok.prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

import mmtok
from benchmarks.reading import drawing
from benchmarks.reading.evaluate import QwenImageProcessor, evaluate, held_out_scenes, load_qwen
from mmtok.apps.demo import run_demo
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.hub.options import SPREAD_OPTIONS
from mmtok.publish import stage
from mmtok.tiny import QWEN, checkpoint_path
from mmtok.tiny.reading import reading_questions
from mmtok.tiny.scenes import Scene

pytestmark = pytest.mark.torchvision

# Percent that are right at least; benchmarks/results/reading.json has the shares of many scenes.
LEAST = {"yes/no": 90, "name": 90}
CALL = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_qwen(stage(checkpoint_path(QWEN), tmp_path_factory.mktemp("qwen") / "staged", check=False).path)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return held_out_scenes(16, seed=11)


def inputs_of(model: Checkpoint, scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """A question about each scene."""
    asked = [reading_questions(scene, np.random.default_rng(0)) for scene in scenes]
    texts = [questions[min(questions)][0].text for questions in asked]
    return model.inputs(texts, [scene.image() for scene in scenes])


def answers(model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> list[list[int]]:
    """New tokens without what ends them."""
    given = model.generate(**inputs, **options, **CALL)[:, inputs["input_ids"].shape[1] :]
    ends = {model.generation_config.eos_token_id, model.generation_config.pad_token_id}
    return [[token for token in row if token not in ends] for row in given.tolist()]


@pytest.mark.parametrize("budget", [None, 0.25])
def test_questions_are_answered_about_images_of_every_size(
    model: Checkpoint, scenes: list[Scene], budget: float | None
) -> None:
    assert len({scene.size for scene in scenes}) > 10
    right = evaluate(model, scenes, {"vision_token_budget": budget})
    assert {kind: right[kind] for kind, least in LEAST.items() if right[kind].percent < least} == {}


@pytest.mark.parametrize("budget", [None, 12])
def test_a_batch_of_several_sizes_answers_as_each_alone(
    model: Checkpoint, scenes: list[Scene], budget: int | None
) -> None:
    together = answers(model.model, inputs_of(model, scenes[:5]), vision_token_budget=budget)
    alone = [answers(model.model, inputs_of(model, [scene]), vision_token_budget=budget)[0] for scene in scenes[:5]]
    assert together == alone
    assert len({tuple(answer) for answer in together}) > 1


def test_text_rows_by_their_spread_keep_print(model: Checkpoint, scenes: list[Scene]) -> None:
    paper, spread = (
        evaluate(model, scenes, {"vision_token_budget": 0.05, "text_temperature": 0.01, **options})
        for options in ({}, SPREAD_OPTIONS)
    )
    assert spread["letter"].percent > paper["letter"].percent + 10


def test_the_picture_of_what_is_kept_of_print(model: Checkpoint) -> None:
    image, question = drawing.chosen(model, "signs")
    read = {method: drawing.read(model, image, question.text, method) for method in drawing.METHODS}
    assert {shown.size for _, shown in read.values()} == {image.size}
    assert read["spread"][0] == question.answer != read["MMTok"][0]


def test_the_stock_model_prunes_as_the_staged_one(model: Checkpoint, scenes: list[Scene]) -> None:
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint_path(QWEN)).eval()
    pruning = mmtok.prune(stock, model.processor, vision_token_budget=10)
    inputs = inputs_of(model, scenes[:4])
    kept, staged = (
        one.select_vision_tokens(**inputs, vision_token_budget=10).kept_mask for one in (pruning, model.model)
    )
    assert torch.equal(kept, staged)
    assert answers(pruning, inputs) == answers(model.model, inputs, vision_token_budget=10)
    # Without pruning both are stock.
    expected = answers(stock, inputs)
    assert answers(pruning, inputs, vision_token_budget=None) == expected
    assert answers(model.model, inputs, vision_token_budget=None) == expected


def test_the_question_decides_what_is_kept(model: Checkpoint, scenes: list[Scene]) -> None:
    scene = next(scene for scene in scenes if len(scene.prints) > 1)
    texts = [f"What is written in {line.color}?" for line in scene.prints[:2]]
    inputs = model.inputs(texts, [scene.image()] * 2)
    first, second = model.model.select_vision_tokens(**inputs, vision_token_budget=4).images
    assert (first.row.tolist(), first.column.tolist()) != (second.row.tolist(), second.column.tolist())


def test_prompts_without_torchvision_are_those_of_stock(model: Checkpoint, scenes: list[Scene]) -> None:
    processors = AutoProcessor.from_pretrained(checkpoint_path(QWEN)), QwenImageProcessor(checkpoint_path(QWEN))
    stock, own = (inputs_of(Checkpoint(model.model, each), scenes[:3]) for each in processors)
    assert set(stock) == set(own)
    for name, values in stock.items():
        assert torch.allclose(own[name].float(), values.float(), atol=1e-4), name


def test_the_demo_asks_it_to_read(tmp_path: Path) -> None:
    shown = run_demo(QWEN, tmp_path / "staged", calls=1)
    assert shown.model_class.endswith("MMTokQwen2_5_VLForConditionalGeneration")
    assert [question.answer in shown.example.shown for question in shown.example.questions] == [True, True, False]
    for row in shown.answers:
        assert [answer.vision_tokens for answer in row] == [108, 16, 4]


def test_the_checkpoint_is_small() -> None:
    assert (checkpoint_path(QWEN) / "model.safetensors").stat().st_size < 8_000_000
