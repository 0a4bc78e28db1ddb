"""Held-out sets of images that are cut above and below."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.objects.held_out import held_out_scene, training_sheets, write_held_out
from benchmarks.quality.cases import CUT, WIDE
from benchmarks.quality.crops import SCALE
from mmtok.tiny.scenes import SIDE, draw


def test_what_is_cut_off_shows_no_part_of_an_object(tmp_path) -> None:
    sheets, height = training_sheets(), SCALE * SIDE
    written = write_held_out(tmp_path, WIDE, 2, seed=1, sheets=sheets, scale=SCALE, cut=CUT)
    middles, number = [np.asarray(Image.open(path)) for path in sorted(written.images.glob("*.png"))], 0
    assert [middle.shape for middle in middles] == [(height - 2 * CUT, height, 3)] * 2
    while middles:
        drawn = held_out_scene(WIDE, number, seed=1, sheets=sheets, scale=SCALE)
        bands = draw(drawn.scene, sheets, scale=SCALE, grid=height // CUT).coverage.reshape(-1, 8, 8)[:, [0, -1]]
        if np.array_equal(np.asarray(drawn.image)[CUT:-CUT], middles[0]):
            assert not bands.any()
            middles.pop(0)
        number += 1
        assert number < 100
