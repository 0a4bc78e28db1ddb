"""The counts of the project's size: they are taken, and the committed ones of an earlier state have the same names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.counts import RESULTS, counts, lines


def test_the_project_is_counted_beside_its_earlier_states(capsys: pytest.CaptureFixture[str]) -> None:
    found, known = counts(), json.loads(RESULTS.read_text(encoding="utf-8"))
    for earlier in known.values():
        assert earlier.keys() == found.keys()
    assert all(count > 0 for count in found.values())
    assert found["published lines"] < found["product lines"]
    with capsys.disabled():
        for name, count in found.items():
            print(f"\n{name}: {count:,}", *(f"({state}: {each[name]:,})" for state, each in known.items()), end="")


def test_lines_of_files_are_added_up(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one\n\nthree\n", encoding="utf-8")
    (tmp_path / "b.py").write_text("one", encoding="utf-8")
    assert lines(tmp_path.glob("*.py")) == 4
