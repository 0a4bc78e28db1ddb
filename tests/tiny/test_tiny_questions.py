"""The questions: their answers are true of the scene."""

from __future__ import annotations

import numpy as np
import pytest

from mmtok.tiny import questions as ask
from mmtok.tiny.scenes import Scene, SceneObject, SceneSettings, sample_scene

SETTINGS = SceneSettings()


@pytest.fixture
def scene() -> Scene:
    """Two circles and an orange star: the star is topmost, the blue circle is a little above the red one."""
    objects = (
        SceneObject("blue", "circle", x=70.0, y=50.0, radius=8.0),
        SceneObject("red", "circle", x=20.0, y=55.0, radius=8.0),
        SceneObject("orange", "star", x=60.0, y=20.0, radius=8.0),
    )
    return Scene(SETTINGS, objects, texture_seed=0)


def sampled(count: int):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        yield sample_scene(SETTINGS, rng), rng


def test_hard_negatives_are_absent_and_share_an_attribute():
    for scene, rng in sampled(200):
        question = ask.existence_question(scene, rng, present=False)
        assert question.answer == "no"
        assert all((item.color, item.shape) != (question.color, question.shape) for item in scene.objects)
        assert any(item.color == question.color or item.shape == question.shape for item in scene.objects)


def test_random_negatives_are_absent_and_need_share_nothing():
    unrelated = 0
    for scene, rng in sampled(200):
        question = ask.existence_question(scene, rng, present=False, negative="random")
        assert all((item.color, item.shape) != (question.color, question.shape) for item in scene.objects)
        unrelated += all(item.color != question.color and item.shape != question.shape for item in scene.objects)
    assert unrelated > 20


def test_questions_have_pope_s_form(scene):
    texts = {ask.existence_question(scene, np.random.default_rng(seed), present=True).text for seed in range(30)}
    assert texts == {
        "Is there a blue circle in the image?",
        "Is there a red circle in the image?",
        "Is there an orange star in the image?",
    }


def test_attribute_questions_are_true():
    for scene, rng in sampled(200):
        present = bool(rng.integers(2))
        question = ask.attribute_question(scene, rng, present=present)
        assert question is not None
        found = any(question.color in (None, o.color) and question.shape in (None, o.shape) for o in scene.objects)
        assert found == present == (question.answer == "yes")


def test_colour_and_shape_are_asked_of_what_occurs_once(scene):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert ask.color_question(scene, rng) == ask.SceneQuestion("What color is the star?", "orange", shape="star")
        question = ask.shape_question(scene, rng)
        assert question is not None
        assert question.answer == {"blue": "circle", "red": "circle", "orange": "star"}[str(question.color)]


def test_nothing_is_asked_where_no_shape_occurs_once(scene):
    circles = Scene(SETTINGS, scene.objects[:2], texture_seed=0)
    assert ask.color_question(circles, np.random.default_rng(0)) is None


def test_count_and_description(scene):
    assert ask.count_question(scene).answer == "3"
    assert ask.description(scene).answer == "an orange star and a blue circle and a red circle"


def test_a_description_follows_the_patches_that_are_seen(scene):
    seen = np.array([-1, 1, 1, 2, 1, 0])
    assert ask.description(scene, seen).answer == "a red circle and an orange star and a blue circle"
    assert ask.description(scene, seen[:3]).answer == "a red circle and a blue circle and an orange star"
