from __future__ import annotations

import pytest

from mmtok.apps.wording import counted, fewer


def test_one_of_a_noun_has_no_s() -> None:
    assert [counted(number, "line") for number in (0, 1, 2, 2880)] == ["0 lines", "1 line", "2 lines", "2,880 lines"]


@pytest.mark.parametrize(
    ("kept", "text"),
    [(8, "18x fewer"), (1, "144x fewer"), (64, "2.2x fewer"), (144, "all of them"), (0, "none of them")],
)
def test_how_many_times_fewer_of_144(kept, text) -> None:
    assert fewer(kept, 144) == text


def test_a_ratio_that_rounds_to_ten_has_no_digit_behind_the_point() -> None:
    assert [fewer(kept, 1000) for kept in (100, 101, 110)] == ["10x fewer", "9.9x fewer", "9.1x fewer"]
