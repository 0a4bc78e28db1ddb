"""Teaching relations: what is to be found on the way, worked by hand, and a reader after one step of each stage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.embedded_model.architecture import PLAIN
from benchmarks.quality.crops_reader import RELATION_WORDS, ExtendedEncoder, write_processor
from benchmarks.quality.place_probe import place_kept, places
from benchmarks.quality.relations_reader import make_related_checkpoint
from benchmarks.quality.relations_samples import conversation, searched
from mmtok.evaluation import RunResult, lead
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.questions import Question
from mmtok.evaluation.recorded_answers import RecordedAnswer
from mmtok.tiny import checkpoint_path
from mmtok.tiny.questions import SceneQuestion
from mmtok.tiny.scenes import Scene, SceneObject

SCENE = Scene(PLAIN, (SceneObject("red", "circle", 24.0, 48.0, 8.0), SceneObject("blue", "star", 72.0, 12.0, 8.0)), 0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> ExtendedEncoder:
    folder = tmp_path_factory.mktemp("words") / "processor"
    write_processor(checkpoint_path(), folder)
    return ExtendedEncoder(folder)


def test_places_and_distances_stand_where_they_are_asked_for(encoder) -> None:
    turns = [
        SceneQuestion("What color is the circle?", "red"),
        SceneQuestion("Is the red circle left of the blue star?", "yes"),
        SceneQuestion("Is the blue star below the red circle?", "no"),
    ]
    ids, labels = (torch.tensor([values]) for values in encoder.encode(turns, 4))
    names, asked = searched([SCENE], [turns], ids, labels, encoder)
    last_words = encoder.tokenizer.convert_ids_to_tokens(ids[0][names[:, 1].long()])
    assert last_words == ["circle", "star", "star", "circle"]
    red, blue = [-0.5, 0.0], [0.5, -0.75]
    assert names[:, 2:].tolist() == [red, blue, blue, red]
    assert encoder.tokenizer.convert_ids_to_tokens(ids[0][asked[:, 1].long() + 1]) == ["yes", "no"]
    expected = [[-1, 0.75, np.tanh(3)], [1, -0.75, np.tanh(-2.25)]]
    torch.testing.assert_close(asked[:, 2:], torch.tensor(expected, dtype=torch.float32))


def test_a_conversation_holds_the_share_of_relations_it_is_given() -> None:
    rng = np.random.default_rng(0)
    texts = [question.text for _ in range(100) for question in conversation(SCENE, 0.5, rng)]
    related = [any(word in text.split() for word in RELATION_WORDS) for text in texts]
    assert 0.4 < np.mean(related) < 0.6
    assert not any("left" in q.text or "above" in q.text for _ in range(20) for q in conversation(SCENE, 0.0, rng))


def test_places_run_from_the_top_left_corner() -> None:
    found = places()
    assert found[0].tolist() == [-1, -1]
    assert found[PLAIN.grid - 1].tolist() == [1, -1]
    assert found[-1].tolist() == [1, 1]


def test_a_taught_reader_answers_and_its_tower_keeps_places(tmp_path) -> None:
    found = make_related_checkpoint(checkpoint_path(), tmp_path / "reader", steps=(1, 1, 1), progress=False)
    assert found["steps"] == 3
    checkpoint = Checkpoint.load(tmp_path / "reader")
    inputs = checkpoint.inputs(["Is the red circle left of the blue star?"], [SCENE.image()])
    assert checkpoint.processor.tokenizer.unk_token_id not in inputs["input_ids"]
    assert len(checkpoint.model.generate(**inputs, vision_token_budget=4, max_new_tokens=1)) == 1
    before = place_kept(checkpoint_path(), seed=5, scenes=45)
    after = place_kept(tmp_path / "reader", seed=5, scenes=45)
    assert before["tower"] < 0.3 < 0.7 < after["tower"]


def test_the_lead_is_a_mean_over_the_tasks_of_all_runs() -> None:
    def result(task: str, right: dict[str, str]) -> RunResult:
        questions = [Question(task, 1, "a.png", "What color is the circle?", "red")]
        given = [RecordedAnswer("all", None, task, 1, "red", 9)]
        return RunResult(questions, given + [RecordedAnswer(name, 2, task, 1, text, 2) for name, text in right.items()])

    better, same = result("color", {"one": "red", "other": "blue"}), result("shape", {"one": "red", "other": "red"})
    assert lead([(better, [2])], "one", "other", resamples=10) == {"estimate": 1, "low": 1, "high": 1}
    assert lead([(better, [2]), (same, [2])], "one", "other", resamples=10)["estimate"] == 0.5
