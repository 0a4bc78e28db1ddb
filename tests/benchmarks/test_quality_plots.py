"""The figures of results are drawn and come out the same for the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality.plots import gallery, heat_map, retention_figure, tokens_figure


def cell(method: str, budget: int | None, kept: float) -> dict[str, Any]:
    mean = {"estimate": kept, "low": kept - 0.02, "high": kept + 0.01}
    return {"method": method, "budget": budget, "vision_tokens": budget or 144, "retention": {"mean": mean}}


RESULTS = {"cells": [cell(method, budget, budget / 100) for method in ("MMTok", "random") for budget in (64, 16, 4)]}


@pytest.mark.parametrize("kind", ["retention", "heat", "tokens", "gallery"])
def test_a_figure_shows_something_and_is_the_same_again(tmp_path: Path, kind: str) -> None:
    def draw(path: Path) -> None:
        if kind == "retention":
            retention_figure(RESULTS, ["MMTok", "random"], path, "title")
        elif kind == "heat":
            values = np.array([[0.5, 0.9], [0.7, 0.8]])
            heat_map(values, ["a", "b"], ["c", "d"], path, row_name="rows", column_name="columns", title="title")
        elif kind == "tokens":
            points = [{"vision_tokens": 4.0, "estimate": 0.5, "low": 0.4, "high": 0.6}] * 2
            tokens_figure({"fixed": points}, path, "title")
        else:
            image = Image.new("RGB", (8, 8), (200, 0, 0))
            gallery([[("one", image), ("two", image)], [("three", image)]], path, "title")

    first, second = tmp_path / "new" / "1.png", tmp_path / "new" / "2.png"
    draw(first)
    draw(second)
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 5
