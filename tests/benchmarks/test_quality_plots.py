"""The figures of results come out the same for the same results."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.quality.plots import gallery, retention_figure


def cell(method: str, budget: int, kept: float) -> dict[str, object]:
    mean = {"estimate": kept, "low": kept - 0.02, "high": kept + 0.01}
    return {"method": method, "budget": budget, "retention": {"mean": mean}}


RESULTS = {"cells": [cell(method, budget, budget / 100) for method in ("MMTok", "random") for budget in (64, 16, 4)]}


@pytest.mark.parametrize("kind", ["retention", "gallery"])
def test_a_figure_shows_something_and_is_the_same_again(tmp_path: Path, kind: str) -> None:
    paths = [tmp_path / "new" / "1.png", tmp_path / "new" / "2.png"]
    for path in paths:
        if kind == "retention":
            retention_figure(RESULTS, path, "title")
        else:
            image = Image.new("RGB", (8, 8), (200, 0, 0))
            gallery([[("one", image), ("two", image)], [("three", image)]], path, "title")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 5
