"""Redrawn sprites."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.objects.sight import hue_rotation, restyle


def test_hue_rotation_keeps_greys_and_lengths() -> None:
    for angle in (0.0, 0.4, 2.0):
        rotation = hue_rotation(angle)
        assert np.allclose(rotation @ np.ones(3), 1, atol=1e-6)
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.allclose(hue_rotation(2 * np.pi / 3) @ [1, 0, 0], [0, 1, 0], atol=1e-6)


def test_restyled_sprites_stay_drawings() -> None:
    sprite = Image.new("RGBA", (20, 30), (200, 30, 30, 255))
    for seed in range(20):
        changed = restyle(sprite, np.random.default_rng(seed))
        assert changed.mode == "RGBA"
        assert changed.getchannel("A").getextrema()[1] == 255
