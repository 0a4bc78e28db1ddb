"""The renderer: the same scene for the same seed, and ground truth that agrees with the pixels."""

from __future__ import annotations

import numpy as np
import pytest

from mmtok.tiny.scenes import COLORS, SHAPES, Scene, SceneObject, SceneSettings, sample_scene

SETTINGS = SceneSettings()


def painted_pixels(scene: Scene) -> np.ndarray:
    """The texture does not depend on the objects: what differs from the empty scene has been painted."""
    empty = Scene(scene.settings, (), scene.texture_seed)
    return (scene.pixels() != empty.pixels()).any(-1)


def test_a_seed_determines_the_scene():
    first, again, other = (sample_scene(SETTINGS, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again
    assert np.array_equal(first.pixels(), again.pixels())
    assert first != other
    assert not np.array_equal(first.pixels(), other.pixels())


def test_a_square_paints_the_pixels_within_its_half_width():
    scene = Scene(SETTINGS, (SceneObject("red", "square", x=20.0, y=40.0, radius=10.0),), texture_seed=0)
    expected = np.zeros((96, 96), dtype=bool)
    expected[40 - 8 : 40 + 9, 20 - 8 : 20 + 9] = True  # half width 0.85 * 10
    assert np.array_equal(painted_pixels(scene), expected)
    assert np.abs(scene.pixels()[expected].mean(0) - COLORS["red"]).max() < 2


@pytest.mark.parametrize("shape", SHAPES)
def test_patch_labels_agree_with_the_pixels(shape):
    rng = np.random.default_rng(len(shape))
    for seed in range(20):
        x, y, radius = rng.uniform(12, 84), rng.uniform(12, 84), rng.uniform(7, 12)
        scene = Scene(SETTINGS, (SceneObject("blue", shape, x, y, radius),), texture_seed=seed)
        counts = painted_pixels(scene).reshape(12, 8, 12, 8).sum((1, 3))
        labels = scene.patch_labels().reshape(12, 12)
        assert (labels == 0).any()
        assert np.array_equal(labels == 0, counts >= 8)  # an eighth of a patch's 64 pixels


def test_every_object_of_a_crowded_scene_has_a_patch_of_its_own():
    settings = SceneSettings(size=192, min_objects=8, max_objects=15, min_radius=6, max_radius=9)
    for seed in range(20):
        scene = sample_scene(settings, np.random.default_rng(seed))
        names = [item.name for item in scene.objects]
        assert 8 <= len(names) == len(set(names)) <= 15
        assert set(scene.patch_labels()) == {-1, *range(len(names))}
        assert scene.pixels().shape == (192, 192, 3)


def test_objects_keep_their_distance():
    for seed in range(50):
        objects = sample_scene(SETTINGS, np.random.default_rng(seed)).objects
        for index, one in enumerate(objects):
            for other in objects[:index]:
                distance = np.hypot(one.x - other.x, one.y - other.y)
                assert distance >= one.radius + other.radius + SETTINGS.gap


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 100}, "size 100 has to be a positive multiple of patch_size 8"),
        ({"min_objects": 6}, "objects from 6 to 5"),
        ({"max_radius": 60.0}, "radii from 7.0 to 60.0"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SceneSettings(**values)
