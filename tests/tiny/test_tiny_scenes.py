"""Scenes of everyday objects: what is drawn, where it is, and what is asked about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtok.tiny.backgrounds import SIDE, background
from mmtok.tiny.catalogue import CATEGORIES, COMMON, NAMES, OBJECTS, PLACES, frequencies, of_place, with_article
from mmtok.tiny.questions import absent_question, category_question, count_question, what_question
from mmtok.tiny.scenes import GRID, PATCH, Scene, SceneObject, SceneSettings, draw, sample_scene
from mmtok.tiny.sprites import SpriteSheet, load_sheets


@pytest.fixture(scope="module")
def sheets() -> dict[str, SpriteSheet]:
    """A style in which every object is a black square, 30 pixels a side."""
    square = Image.new("RGBA", (30, 30), (0, 0, 0, 255))
    return {"squares": SpriteSheet("squares", dict.fromkeys(NAMES, (square,)))}


def scene_of(*names: str, place: str = "park", size: float = 36.0) -> Scene:
    """Objects in a row, whose boxes are those of whole patches."""
    objects = [SceneObject(name, "squares", 0, x=18 + 48 * index, y=18, size=size) for index, name in enumerate(names)]
    return Scene(place, tuple(objects), (place, 0), seed=1)


def test_the_catalogue_is_whole() -> None:
    assert len(NAMES) == 58
    assert {kind.category for kind in OBJECTS.values()} == {*CATEGORIES, ""}
    assert {place for kind in OBJECTS.values() for place in kind.places} == set(PLACES)
    assert all(of_place(place) for place in PLACES)
    assert sum(frequencies().values()) == pytest.approx(1)
    assert max(frequencies(), key=frequencies().__getitem__) == COMMON[0]
    assert [with_article(name) for name in ("apple", "dog")] == ["an apple", "a dog"]


@pytest.mark.parametrize("place", PLACES)
def test_backgrounds_are_seeded_and_differ(place: str) -> None:
    drawn = background(place, 3)
    assert drawn.shape == (SIDE, SIDE, 3)
    background.cache_clear()
    assert np.array_equal(background(place, 3), drawn)
    assert not np.array_equal(background(place, 4), drawn)


def test_coverage_is_the_share_of_a_patch_that_shows_an_object(sheets: dict[str, SpriteSheet]) -> None:
    drawing = draw(scene_of("dog", "kite"), sheets)
    expected = np.zeros((2, GRID, GRID))
    expected[0, :3, :3] = 1
    expected[1, :3, 4:7] = 1
    assert np.allclose(drawing.coverage, expected.reshape(2, -1))
    assert np.array_equal(drawing.labels().reshape(GRID, GRID)[0], [0, 0, 0, -1, 1, 1, 1, -1, -1, -1, -1, -1])
    assert drawing.pixels[: 3 * PATCH, : 3 * PATCH].max() < 40


def test_a_larger_drawing_shows_the_same(sheets: dict[str, SpriteSheet]) -> None:
    scene = scene_of("dog", "kite", size=30.0)
    small, large = draw(scene, sheets), draw(scene, sheets, scale=3)
    assert large.pixels.shape == (3 * SIDE, 3 * SIDE, 3)
    assert np.allclose(small.coverage, large.coverage, atol=0.05)


def test_what_stands_in_front_covers_what_is_behind(sheets: dict[str, SpriteSheet]) -> None:
    behind = SceneObject("dog", "squares", 0, x=18, y=18, size=36)
    front = SceneObject("kite", "squares", 0, x=30, y=18, size=36)
    coverage = draw(Scene("park", (behind, front), ("park", 0), 1), sheets).coverage.reshape(2, GRID, GRID)
    assert np.allclose(coverage[0, 0, :4], [1, 0, 0, 0])
    assert np.allclose(coverage[1, 0, :5], [0, 1, 1, 1, 0])


def test_a_thin_object_keeps_the_patch_that_it_covers_most(sheets: dict[str, SpriteSheet]) -> None:
    drawing = draw(scene_of("spoon", size=36.0), sheets)
    thin = type(drawing)(drawing.pixels, drawing.coverage * 0.05)
    assert (thin.labels() == 0).sum() == 1


def test_sampled_scenes_keep_their_settings(sheets: dict[str, SpriteSheet]) -> None:
    settings = SceneSettings(2, 5, 30.0, 40.0)
    for seed in range(30):
        scene = sample_scene(settings, np.random.default_rng(seed), sheets)
        assert scene == sample_scene(settings, np.random.default_rng(seed), sheets)
        assert 1 <= len(scene.objects) <= 5
        assert len(set(scene.names)) == len(scene.names)
        assert all(30 <= item.size <= 40 and item.style == "squares" for item in scene.objects)
        assert scene.backdrop[1] in settings.backgrounds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fewest": 3, "most": 2}, "objects from 3 to 2: the range has to lie in 1 to 58"),
        ({"smallest": 10.0}, "sizes from 10.0 to 62.0: the range has to lie in 24 to 144"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneSettings(**values)  # type: ignore[arg-type]


def test_sheets_come_back_as_they_were_written(tmp_path: Path) -> None:
    drawn = {
        "dog": [Image.new("RGBA", (8, 4), (200, 0, 0, 255)), Image.new("RGBA", (3, 8), (0, 200, 0, 90))],
        "kite": [Image.new("RGBA", (8, 8), (0, 0, 200, 255))],
        "zebra": [],
    }
    sheet = Image.new("RGBA", (24, 8))
    boxes = {"dog": [[0, 0, 8, 4], [8, 0, 11, 8]], "kite": [[16, 0, 24, 8]], "zebra": []}
    for name, found in drawn.items():
        for sprite, box in zip(found, boxes[name], strict=True):
            sheet.paste(sprite, tuple(box[:2]))
    sheet.save(tmp_path / "own.png")
    (tmp_path / "own.json").write_text(json.dumps(boxes), encoding="utf-8")
    sprites = load_sheets(tmp_path)["own"].sprites
    assert {name: [sprite.tobytes() for sprite in found] for name, found in drawn.items()} == {
        name: [sprite.tobytes() for sprite in found] for name, found in sprites.items()
    }
    with pytest.raises(FileNotFoundError, match="has no sprite sheet"):
        load_sheets(tmp_path / "nowhere")


def test_negatives_are_what_pope_says() -> None:
    scene, rng = scene_of("dog", "kite"), np.random.default_rng(0)
    for _ in range(40):
        popular, adversarial = (absent_question(scene, rng, kind).name for kind in ("popular", "adversarial"))
        assert popular in COMMON
        assert popular not in scene.names
        assert "park" in OBJECTS[adversarial].places or OBJECTS[adversarial].category == "animal"
        assert adversarial not in scene.names


def test_questions_have_one_answer_or_are_not_asked() -> None:
    rng = np.random.default_rng(0)
    animals = scene_of("dog", "cat", "kite")
    assert what_question(animals, rng) is None
    single = what_question(scene_of("hot dog", "kite"), rng)
    assert single is not None
    assert (single.text, single.answer) == ("What food is in the image?", "hot dog")
    assert category_question(scene_of("kite"), rng, present=True) is None
    asked = category_question(animals, rng, present=True)
    assert asked is not None
    assert (asked.text, asked.answer) == ("Is there an animal in the image?", "yes")
    counted = count_question(animals)
    assert counted is not None
    assert counted.answer == "3"
