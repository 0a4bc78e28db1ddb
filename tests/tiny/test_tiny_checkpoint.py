"""The embedded model answers about scenes that training did not draw, with all vision tokens and with four."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.publish import stage
from mmtok.tiny import checkpoint_path
from mmtok.tiny.questions import Question, absent_question, is_there, present_question, what_question
from mmtok.tiny.scenes import HELD_OUT_BACKGROUNDS, Scene, SceneSettings, sample_scene

SETTINGS = SceneSettings(3, 3, 40.0, 60.0, backgrounds=HELD_OUT_BACKGROUNDS)
SEEDS = range(500, 508)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.load(stage(checkpoint_path(), tmp_path_factory.mktemp("tiny") / "staged", check=False).path)


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, Question]]:
    """Some twenty questions about eight scenes: what there is of a kind, and what is there and is not."""
    pairs = []
    for seed in SEEDS:
        scene, rng = sample_scene(SETTINGS, np.random.default_rng(seed)), np.random.default_rng(seed)
        for ask in (what_question, present_question, partial(absent_question, negative="adversarial")):
            question = ask(scene, rng)
            pairs += [(scene, question)] if question is not None else []
    return pairs


@pytest.mark.parametrize(("budget", "wrong"), [(None, 0), (4, 1)])
def test_questions_are_answered(
    model: Checkpoint, asked: list[tuple[Scene, Question]], budget: int | None, wrong: int
) -> None:
    inputs = model.inputs([question.text for _, question in asked], [scene.image() for scene, _ in asked])
    assert model.processor.tokenizer.unk_token_id not in inputs["input_ids"]
    given = model.model.generate(**inputs, vision_token_budget=budget, max_new_tokens=3, do_sample=False)
    answers = model.processor.batch_decode(given[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [answer.strip() == question.answer for answer, (_, question) in zip(answers, asked, strict=True)]
    assert len(right) >= 20
    assert right.count(False) <= wrong


def test_the_question_decides_what_is_kept(model: Checkpoint) -> None:
    scene = sample_scene(SETTINGS, np.random.default_rng(500))
    texts = [is_there(name) for name in scene.names]
    inputs = model.inputs(texts, [scene.image()] * len(texts))
    selection = model.model.select_vision_tokens(**inputs, vision_token_budget=4)
    places = {tuple(zip(one.row.tolist(), one.column.tolist(), strict=True)) for one in selection.images}
    assert len(places) == len(texts)


def test_the_checkpoint_is_small() -> None:
    files = [path for path in Path(checkpoint_path()).iterdir() if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in files) < 8_000_000
