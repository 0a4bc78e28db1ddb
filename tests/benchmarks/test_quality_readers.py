"""The embedded model in the layout of LLaVA-NeXT, and the mean lead over several runs."""

from __future__ import annotations

import torch

from benchmarks.quality.crops_reader import CLUTTERED, SCALE, make_crops_checkpoint
from benchmarks.quality.runs import drawn
from mmtok.evaluation import RunResult, lead
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.questions import Question
from mmtok.evaluation.recorded_answers import RecordedAnswer
from mmtok.tiny import checkpoint_path
from mmtok.tiny.questions import is_there


def test_a_reader_of_crops_has_the_weights_of_the_embedded_model(tmp_path) -> None:
    crops = Checkpoint.load(make_crops_checkpoint(checkpoint_path(), tmp_path / "reader"))
    plain = Checkpoint.load(checkpoint_path())
    weights = crops.model.state_dict()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(weights.pop(name), value), name
    [separator] = weights
    assert separator == "model.image_newline"
    [item] = drawn(CLUTTERED, 1, seed=5, scale=SCALE)
    inputs = crops.inputs([is_there(item.scene.names[0])], [item.image])
    assert int((inputs["input_ids"] == crops.model.config.image_token_index).sum()) == len(item.labels)
    assert inputs["pixel_values"].shape[1] == 5
    kept = crops.model.select_vision_tokens(**inputs, vision_token_budget=4).kept_mask
    answer = crops.model.generate(**inputs, vision_token_budget=4, max_new_tokens=1)
    assert int(kept.sum()) == inputs["input_ids"].shape[1] - len(item.labels) + 5 * 4
    assert crops.processor.batch_decode(answer[:, inputs["input_ids"].shape[1] :])[0].strip() in ("yes", "no")


def test_the_lead_is_a_mean_over_the_tasks_of_all_runs() -> None:
    def result(task: str, right: dict[str, str]) -> RunResult:
        questions = [Question(task, 1, "a.png", "What animal is in the image?", "dog")]
        given = [RecordedAnswer("all", None, task, 1, "dog", 9)]
        return RunResult(questions, given + [RecordedAnswer(name, 2, task, 1, text, 2) for name, text in right.items()])

    better, same = result("what", {"one": "dog", "other": "cat"}), result("count", {"one": "dog", "other": "dog"})
    assert lead([(better, [2])], "one", "other", resamples=10) == {"estimate": 1, "low": 1, "high": 1}
    assert lead([(better, [2]), (same, [2])], "one", "other", resamples=10)["estimate"] == 0.5
