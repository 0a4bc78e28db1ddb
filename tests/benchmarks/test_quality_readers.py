"""The embedded model in the layout of LLaVA-NeXT, and the mean lead over several runs."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from benchmarks.objects.held_out import held_out_scene, training_sheets
from benchmarks.quality import crops as crops_module
from benchmarks.quality.crops import CLUTTERED, SCALE, make_crops_checkpoint
from benchmarks.training.loop import Stage
from mmtok.evaluation import RunResult, lead
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.questions import Question
from mmtok.evaluation.runner import RecordedAnswer
from mmtok.tiny import checkpoint_path
from mmtok.tiny.questions import is_there
from mmtok.tiny.scenes import draw


def test_a_reader_of_crops_has_the_weights_of_the_embedded_model(tmp_path) -> None:
    crops = Checkpoint.load(make_crops_checkpoint(checkpoint_path(), tmp_path / "reader"))
    plain = Checkpoint.load(checkpoint_path())
    weights = crops.model.state_dict()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(weights.pop(name), value), name
    [separator] = weights
    assert separator == "model.image_newline"
    scene = held_out_scene(CLUTTERED, 0, 5, training_sheets())
    image = Image.fromarray(draw(scene, training_sheets(), scale=SCALE).pixels)
    inputs = crops.inputs([is_there(scene.names[0])], [image])
    assert int((inputs["input_ids"] == crops.model.config.image_token_index).sum()) == 744
    assert inputs["pixel_values"].shape[1] == 5
    kept = crops.model.select_vision_tokens(**inputs, vision_token_budget=4).kept_mask
    answer = crops.model.generate(**inputs, vision_token_budget=4, max_new_tokens=1)
    assert int(kept.sum()) == inputs["input_ids"].shape[1] - 744 + 5 * 4
    assert crops.processor.batch_decode(answer[:, inputs["input_ids"].shape[1] :])[0].strip() in ("yes", "no")


def test_crops_are_written_with_the_objects_that_they_show(tmp_path) -> None:
    reader = make_crops_checkpoint(checkpoint_path(), tmp_path / "reader")
    written = crops_module.write_crops(reader, training_sheets(), 2, seed=0)
    for item in written:
        assert item.patches.shape == (744, 128)
        assert len(item.labels) == len(item.empty) == len(item.owners) == 744
        separators = np.arange(144 + 24, 744, 25)
        assert torch.equal(item.patches[separators], item.patches[separators[:1]].expand(24, -1))
        assert (item.labels[separators] == -1).all()
        assert not item.empty[separators].any()
        for part in (item.labels[:144], item.labels[144:]):
            assert set(part[part >= 0]) == set(range(len(item.scene.objects)))


def test_training_for_crops_changes_the_language_model_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(crops_module, "CROPS", Stage("crops", 4, 2, rate=1e-3, matrix_rate=1e-3))
    monkeypatch.setattr(crops_module, "SCENES", crops_module.BATCH)
    trained = crops_module.train_crops_checkpoint(checkpoint_path(), tmp_path / "reader")
    before = Checkpoint.load(make_crops_checkpoint(checkpoint_path(), tmp_path / "base")).model.state_dict()
    after = Checkpoint.load(trained).model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all("language_model.layers" in name or "norm" in name or "lm_head" in name for name in changed)


def test_a_finished_training_for_crops_is_not_repeated(tmp_path, monkeypatch) -> None:
    trained = []
    monkeypatch.setattr(crops_module, "SCENES", crops_module.BATCH)
    monkeypatch.setattr(crops_module, "train_stage", lambda run, *_: trained.append(run.seed))
    for seed in (0, 0, 1, 0):
        crops_module.train_crops_checkpoint(checkpoint_path(), tmp_path / "reader", seed)
    assert trained == [0, 1, 0]


def test_the_lead_is_a_mean_over_the_tasks_of_all_runs() -> None:
    def result(task: str, right: dict[str, str]) -> RunResult:
        questions = [Question(task, 1, "a.png", "What animal is in the image?", "dog")]
        given = [RecordedAnswer("all", None, task, 1, "dog", 9)]
        return RunResult(questions, given + [RecordedAnswer(name, 2, task, 1, text, 2) for name, text in right.items()])

    better, same = result("what", {"one": "dog", "other": "cat"}), result("count", {"one": "dog", "other": "dog"})
    assert lead([(better, [2])], "one", "other", resamples=10) == {"estimate": 1, "low": 1, "high": 1}
    assert lead([(better, [2]), (same, [2])], "one", "other", resamples=10)["estimate"] == 0.5
