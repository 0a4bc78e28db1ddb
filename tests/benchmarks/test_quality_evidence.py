"""What selections keep of the object asked for, counted on cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.crops_reader import CLUTTERED, token_labels
from benchmarks.quality.evidence import Evidence
from mmtok.tiny.scenes import Scene, SceneObject


def test_shares_and_leads_of_two_methods() -> None:
    evidence = Evidence(
        ["0", "0", "1", "1"],
        {
            ("MMTok", 4): np.array([True, True, True, True]),
            ("MMTok", 2): np.array([True, True, True, False]),
            ("random", 4): np.array([True, False, False, False]),
            ("random", 2): np.array([False, False, False, False]),
        },
    )
    assert [cell["shown"]["estimate"] for cell in evidence.cells(resamples=20)] == [1, 0.75, 0.25, 0]
    compared = {row["method"]: row for row in evidence.compared([4, 2], resamples=20)}
    assert compared["MMTok"]["shown"]["estimate"] == pytest.approx(0.875)
    assert compared["random"]["reference_lead"]["estimate"] == pytest.approx(0.75)
    assert compared["MMTok"]["reference_lead"] == {"estimate": 0, "low": 0, "high": 0}


def test_tokens_of_five_crops_are_labelled_in_the_order_of_the_prompt() -> None:
    # One object of 24 x 24 pixels in the corner: patches 0 and 1 of rows 0 and 1 at half size, 0 to 2 at full size.
    scene = Scene(CLUTTERED, (SceneObject("red", "square", 12.0, 12.0, 12.0),), texture_seed=0)
    labels = token_labels(scene)
    assert len(labels) == 144 + 24 * 25
    assert np.flatnonzero(labels[:144] == 0).tolist() == [0, 1, 12, 13]
    tiles = labels[144:].reshape(24, 25)
    assert (tiles[:, 24] == -2).all()
    assert np.argwhere(tiles == 0).tolist() == [[row, column] for row in range(3) for column in range(3)]
