"""Question files about rendered scenes: what they ask is true of the scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.scene_sets import relation_question, write_scene_set
from mmtok.evaluation.questions import read_questions, require_images
from mmtok.images import read_image
from mmtok.tiny.scenes import Scene, SceneObject, SceneSettings, sample_scene


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
    assert np.array_equal(np.asarray(read_image(rendered.images / "scene-0003.png")), scenes[3].pixels())


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
