"""What selections keep of the object asked for, counted on cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.crops import CLUTTERED, SCALE
from benchmarks.quality.evidence import Evidence, where_they_lie
from benchmarks.quality.runs import drawn
from mmtok.tiny.backgrounds import SIDE


def test_shares_and_leads_of_two_methods() -> None:
    evidence = Evidence(
        ["0", "0", "1", "1"],
        {
            ("MMTok", 4): np.array([True, True, True, True]),
            ("MMTok", 2): np.array([True, True, True, False]),
            ("random", 4): np.array([True, False, False, False]),
            ("random", 2): np.array([False, False, False, False]),
        },
        {(method, budget): (0.5, 0.75) for method in ("MMTok", "random") for budget in (4, 2)},
    )
    cells = evidence.cells(resamples=20)
    assert [cell["shown"]["estimate"] for cell in cells] == [1, 0.75, 0.25, 0]
    assert {(cell["on_asked"], cell["on_objects"]) for cell in cells} == {(0.5, 0.75)}
    compared = {row["method"]: row for row in evidence.compared([4, 2], resamples=20)}
    assert compared["MMTok"]["shown"]["estimate"] == pytest.approx(0.875)
    assert compared["random"]["reference_lead"]["estimate"] == pytest.approx(0.75)
    assert compared["MMTok"]["reference_lead"] == {"estimate": 0, "low": 0, "high": 0}


def test_where_kept_tokens_lie() -> None:
    kept = np.array([0, 0, 1, -1])
    assert where_they_lie(kept, 0) == (True, 0.5, 0.75)
    assert where_they_lie(kept, 2) == (False, 0.0, 0.75)


def test_tokens_of_five_crops_are_labelled_in_the_order_of_the_prompt() -> None:
    [item] = drawn(CLUTTERED, 1, seed=5, scale=SCALE)
    assert item.image.size == (SCALE * SIDE, SCALE * SIDE)
    assert len(item.labels) == 144 + 24 * 25
    whole, tiles = item.labels[:144].reshape(12, 12), item.labels[144:].reshape(24, 25)
    assert (tiles[:, 24] == -2).all()
    for index, placed in enumerate(item.scene.objects):
        for grid, side in ((whole, SIDE), (tiles[:, :24], SIDE)):
            centre = np.argwhere(grid == index).mean(0) * side / len(grid)
            assert np.abs(centre - (placed.y, placed.x)).max() < placed.size
