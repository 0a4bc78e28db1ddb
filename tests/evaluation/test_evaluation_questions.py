"""POPE's files, real and rendered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmtok.evaluation.questions import Question, read_image, read_questions, require_images, write_questions
from mmtok.evaluation.scene_sets import relation_question, write_scene_set
from mmtok.tiny.scenes import Scene, SceneObject, SceneSettings, sample_scene

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("kind", ["random", "popular", "adversarial"])
def test_the_real_pope_files_are_read(kind: str) -> None:
    path = DATA / f"coco_pope_{kind}.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside this checkout: https://github.com/AoiDragon/POPE has it")
    questions = read_questions(path)
    assert len(questions) == 3000
    assert len({question.image for question in questions}) == 500
    assert sum(question.label == "yes" for question in questions) == 1500
    assert {question.task for question in questions} == {f"coco_pope_{kind}"}


def test_questions_come_back_as_they_were_written(tmp_path: Path) -> None:
    asked = [Question("café", 1, "a.png", "Is there a “dog”?", "yes"), Question("café", 2, "a.png", "What?", "red")]
    write_questions(tmp_path / "café.json", asked)
    assert read_questions(tmp_path / "café.json") == asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no question"),
        ("[1, 2]\n", "Line 1 of .* is no question in POPE's format"),
        ('{"question_id": 1, "image": "a.png", "text": "Is it?"}\n', "Line 1 .*KeyError: 'label'"),
        ('{"question_id": 1, "image": "a", "text": "b", "label": "no"}\n' * 2, "Line 2 .* repeats question_id 1"),
        ("not json\n", "Line 1 .*JSONDecodeError"),
    ],
    ids=["empty", "list", "no label", "repeated", "no json"],
)
def test_files_in_another_format_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_questions(tmp_path / "q.json")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_bytes(b"\x89PNG")
    for name in ("q.json", "none.json"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as text"):
            read_questions(tmp_path / name)


def test_rendered_sets_hold_what_they_ask_for(tmp_path: Path) -> None:
    settings = SceneSettings(min_objects=2)
    rendered = write_scene_set(tmp_path, settings, scenes=12, seed=5)
    tasks = {path.stem: read_questions(path) for path in rendered.files}
    assert sorted(tasks) == ["adversarial", "color", "count", "popular", "random", "shape"]
    scenes = [sample_scene(settings, np.random.default_rng([5, number])) for number in range(12)]
    for kind in ("random", "popular", "adversarial"):
        assert [question.label for question in tasks[kind]] == ["yes", "no"] * 12
        for number, (present, absent) in enumerate(zip(tasks[kind][::2], tasks[kind][1::2], strict=True)):
            names = {item.name for item in scenes[number].objects}
            assert any(f" {name} " in present.text for name in names)
            assert not any(f" {name} " in absent.text for name in names)
    assert [question.text for question in tasks["random"][::2]] == [q.text for q in tasks["popular"][::2]]
    assert [question.label for question in tasks["count"]] == [str(len(scene.objects)) for scene in scenes]
    require_images([question for asked in tasks.values() for question in asked], rendered.images)
    assert np.array_equal(np.asarray(read_image(rendered.images, "scene-0003.png")), scenes[3].pixels())


def test_adversarial_negatives_borrow_colour_and_shape_from_two_objects(tmp_path: Path) -> None:
    rendered = write_scene_set(tmp_path, SceneSettings(min_objects=4), scenes=20, seed=6)
    path = next(path for path in rendered.files if path.stem == "adversarial")
    for number, question in enumerate(read_questions(path)[1::2]):
        scene = sample_scene(SceneSettings(min_objects=4), np.random.default_rng([6, number]))
        color, shape = question.text.split()[3:5]
        assert color in {item.color for item in scene.objects}
        assert shape in {item.shape for item in scene.objects}


def test_sets_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    one, other = (write_scene_set(tmp_path / name, SceneSettings(), scenes=3, seed=1) for name in "ab")
    assert [path.read_bytes() for path in one.files] == [path.read_bytes() for path in other.files]


def test_relations_ask_for_the_direction_in_which_two_objects_are_farthest_apart() -> None:
    objects = (SceneObject("red", "circle", 10, 10, 4), SceneObject("blue", "star", 15, 80, 4))
    scene = Scene(SceneSettings(), objects, texture_seed=0)
    asked = {
        holds: {relation_question(scene, np.random.default_rng(seed), holds=holds).text for seed in range(8)}
        for holds in (True, False)
    }
    assert asked[True] == {"Is the red circle above the blue star?", "Is the blue star below the red circle?"}
    assert asked[False] == {"Is the red circle below the blue star?", "Is the blue star above the red circle?"}
    with pytest.raises(ValueError, match="A scene of 1 objects"):
        relation_question(Scene(SceneSettings(), objects[:1], 0), np.random.default_rng(0), holds=True)


def test_questions_of_a_set_are_plain_pope_lines(tmp_path: Path) -> None:
    rendered = write_scene_set(tmp_path, SceneSettings(), scenes=2, seed=1)
    line = json.loads(rendered.files[0].read_text().splitlines()[0])
    assert sorted(line) == ["image", "label", "question_id", "text"]
