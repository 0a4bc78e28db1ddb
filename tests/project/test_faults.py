"""The reports on faults and on new users: every number has a row, and the tests and scripts that it names exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reports" / "faults.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
HELD = [(row[0], row[-1]) for row in ROWS if row[-1] != "Held by"]
NEWCOMERS = (ROOT / "docs" / "reports" / "newcomers.md").read_text(encoding="utf-8").partition("| Friction |")[2]
FRICTIONS = re.findall(r"^\| (\d+) \| .* \| ([^|]*) \|$", NEWCOMERS, re.MULTILINE)
NUMBERS = [
    f"{area}{number}" for area, last in (("A", 13), ("B", 11), ("C", 9), ("D", 1)) for number in range(1, last + 1)
]


def test_every_number_has_a_row() -> None:
    assert [row[0] for row in ROWS if re.fullmatch(r"[A-D]\d+", row[0])] == NUMBERS
    assert {len(row) for row in ROWS} == {4}
    assert [int(number) for number, _ in FRICTIONS] == list(range(1, 17))


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("name", "held"), HELD + FRICTIONS, ids=[name[:40] for name, _ in HELD + FRICTIONS])
def test_what_holds_a_row_exists(name: str, held: str) -> None:
    path = ""
    named = re.findall(r"`([^` ]+)`", held)
    assert named, f"{name}: nothing holds it"
    for each in named:
        file, _, test = each.partition("::")
        path = file or path
        assert (ROOT / path).is_file(), path
        assert test in names_in(path) if test else path.startswith("benchmarks/"), each


def test_nothing_is_installed_by_a_name_that_is_not_ours() -> None:
    """The name on the package index is nobody's yet."""
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "mmtok").rglob("*.*")]
    for page in pages:
        if page.suffix in (".md", ".py"):
            text = page.read_text(encoding="utf-8")
            assert not re.search(r"pip install (-\w+ )?['\"]?mmtok(?!\[[\w,]+\] @ git\+| @ git\+|\[\{)", text), page


def test_what_cannot_be_mended_here_is_said() -> None:
    serving, tuning = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("serving.md", "fine-tuning.md"))
    assert "A misspelt option within `generation_config` is ignored" in serving
    assert "Code that calls the part inside it, `model.model(**inputs)`" in tuning
