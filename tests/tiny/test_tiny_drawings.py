"""The drawings that come with the package: every object has one, and every sheet's licence comes with it."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import numpy as np

from mmtok.tiny.catalogue import NAMES
from mmtok.tiny.scenes import Scene, SceneObject, SceneSettings, draw, sample_scene
from mmtok.tiny.sprites import DRAWINGS, packaged_sheets

ROOT = Path(__file__).resolve().parents[2]
LICENCES = {"noto": "Apache License 2.0", "fluent-flat": "MIT License"}
PRINTS = {"prints": "Bitstream Vera license"}


def test_every_object_has_a_drawing() -> None:
    sheets = packaged_sheets()
    assert set(sheets) == set(LICENCES)
    assert [name for name in NAMES if not any(sheet.sprites[name] for sheet in sheets.values())] == []


def test_the_notice_names_every_sheet_and_its_licence_and_is_packed() -> None:
    notice = (DRAWINGS / "NOTICE").read_text(encoding="utf-8")
    for style, licence in {**LICENCES, **PRINTS}.items():
        [part] = [part for part in re.split(r"\n(?=\S)", notice) if part.startswith(f"{style}.png")]
        assert licence in part
    assert {path.stem for path in DRAWINGS.glob("*.png")} == {*LICENCES, *PRINTS}
    assert "Permission is hereby granted, free of charge" in notice
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert "drawings/*" in setup["options.package_data"]["mmtok.tiny"]
    packed = [ROOT / line for line in setup["metadata"]["license_files"].split()]
    assert packed == [ROOT / "LICENSE", DRAWINGS / "NOTICE"]


def test_a_seed_draws_the_same_pixels_and_another_seed_others() -> None:
    def pixels(seed: int) -> np.ndarray:
        return np.asarray(sample_scene(SceneSettings(), np.random.default_rng(seed)).image())

    assert np.array_equal(pixels(3), pixels(3))
    assert not np.array_equal(pixels(3), pixels(4))


def test_an_object_is_drawn_where_the_truth_says() -> None:
    there = Scene("park", (SceneObject("dog", "noto", 0, x=60, y=72, size=48),), ("park", 0), seed=2)
    empty = Scene("park", (), ("park", 0), seed=2)
    drawn, background = draw(there), draw(empty)
    changed = np.abs(drawn.pixels.astype(int) - background.pixels).max(-1) > 40
    patches = changed.reshape(12, 12, 12, 12).mean((1, 3)).reshape(-1)
    shown = drawn.labels() == 0
    assert shown.sum() > 6
    assert patches[shown].mean() > 0.4
    assert patches[~shown].mean() < 0.01
