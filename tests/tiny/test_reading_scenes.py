"""Scenes with print on them: what is drawn where, in which colour, and what is asked about it."""

from __future__ import annotations

import numpy as np
import pytest

from mmtok.tiny.prints import CHARACTERS, COLORS, FONTS, LETTERS, Print
from mmtok.tiny.reading import (
    KINDS,
    NAMES,
    Kind,
    ReadingSettings,
    kind_question,
    reading_questions,
    sample_reading_scene,
)
from mmtok.tiny.scenes import Scene, SceneObject, draw
from mmtok.tiny.sprites import packaged_sheets


def boxes(scene: Scene) -> list[tuple[float, float, float, float]]:
    """Top, left, bottom and right of the prints."""
    return [(line.y, line.x, line.y + line.height, line.x + line.width) for line in scene.prints]


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_of_every_kind_and_shape_hold_what_they_are_to(kind: Kind) -> None:
    for seed in range(15):
        rng = np.random.default_rng(seed)
        rows, columns = rng.integers(4, 20, 2).tolist()
        scene = sample_reading_scene(ReadingSettings(), rows, columns, rng, kind=kind)
        assert scene.image().size == (28 * columns, 28 * rows)
        assert len({line.color for line in scene.prints}) == len(scene.prints)
        assert len(set(scene.names)) == len(scene.names)
        assert not scene.prints or kind != "objects"
        assert not scene.objects or kind in ("objects", "mixed")
        for number, (top, left, bottom, right) in enumerate(boxes(scene)):
            assert min(top, left) >= 0
            assert bottom <= 28 * rows
            assert right <= 28 * columns
            assert all(bottom <= a or c <= top or right <= b or d <= left for a, b, c, d in boxes(scene)[number + 1 :])


def test_a_seed_draws_the_same_pixels() -> None:
    first, second = (sample_reading_scene(ReadingSettings(), 6, 9, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(draw(first).pixels, draw(second).pixels)


@pytest.mark.parametrize("font", range(FONTS))
def test_print_is_drawn_in_its_colour_where_its_edges_say(font: int) -> None:
    for color, ink in COLORS.items():
        line = Print("HEX4", color, font, 24.0, x=20.0, y=30.0)
        pixels = draw(Scene("park", (), ("", 0), 0, (84, 168), (line,))).pixels.astype(int)
        inked = np.abs(pixels - ink).max(-1) < 40
        columns, rows = np.flatnonzero(inked.any(0)), np.flatnonzero(inked.any(1))
        assert (rows[0], rows[-1]) == (30, 53)
        assert abs(columns[0] - 20) <= 1
        assert abs(columns[-1] + 1 - (20 + line.width)) <= 1
        for left, right in 20 + line.edges():
            assert inked[:, round(left) : round(right)].any()
        for left, right in zip(line.edges()[:-1, 1], line.edges()[1:, 0], strict=True):
            assert not inked[:, 20 + int(np.ceil(left)) + 1 : 20 + int(right) - 1].any()


def test_no_two_characters_look_alike() -> None:
    drawn = {
        (font, each): draw(Scene("park", (), ("", 0), 0, (56, 56), (Print(each, "black", font, 32.0, 8, 8),))).pixels
        for font in range(FONTS)
        for each in CHARACTERS
    }
    for font in range(FONTS):
        for each in LETTERS:
            for other in set(CHARACTERS) - {each}:
                apart = np.abs(drawn[font, each].astype(int) - drawn[font, other]).max(-1) > 60
                assert apart.sum() > 20, (font, each, other)


def test_an_object_covers_the_cells_that_it_is_drawn_in() -> None:
    item = SceneObject("dog", "noto", 0, x=98.0, y=42.0, size=40.0)
    scene = Scene("park", (item,), ("park", 0), 0, (84, 168))
    whole, shrunk = draw(scene, grid=(3, 6)).coverage, draw(scene, grid=(2, 4)).coverage
    assert whole.shape == (1, 18)
    assert whole[0].argmax() == 6 + 3
    assert shrunk.shape == (1, 8)
    assert shrunk.mean() == pytest.approx(whole.mean(), abs=1e-4)


def test_questions_have_one_answer() -> None:
    prints = (Print("ABC", "red", 0, 20.0), Print("123", "blue", 0, 20.0, y=40.0), Print("EFH", "green", 0, 20.0))
    rng = np.random.default_rng(0)
    for _ in range(10):
        question = kind_question(Scene("park", (), ("", 0), 0, prints=prints), rng)
        assert question is not None
        assert (question.text, question.answer) == ("What number is written in the image?", "123")
    assert kind_question(Scene("park", (), ("", 0), 0, prints=(prints[0], prints[2])), rng) is None
    answers = {line.color: line.text for line in prints}
    for seed in range(10):
        asked = reading_questions(Scene("park", (), ("", 0), 0, prints=prints), np.random.default_rng(seed))
        assert set(asked) == {"read"}
        assert asked["read"][0].answer == answers[asked["read"][0].text.split()[-1].removesuffix("?")]


def test_every_name_has_a_drawing() -> None:
    assert all(packaged_sheets()["noto"].sprites[name] for name in NAMES)
