"""The pages of docs/reports are their templates with the committed figures, and what their prose claims holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from jinja2 import UndefinedError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import report  # noqa: E402

from mmtok.evaluation.selectors import METHODS  # noqa: E402

QUALITY = {name: report.load(f"quality-{name}") for name in ("scenes", "crowded", "unseen", "tiles")}
OWN = ("MMTok", "text rows", "vision rows", "shared budget")


@pytest.mark.parametrize("name", sorted(path.stem for path in report.TEMPLATES.glob("*.md")))
def test_a_page_shows_the_results(name: str) -> None:
    page = (report.PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert report.rendered(name) == page, f"run `python benchmarks/report.py {name}`"


def test_tables_have_every_method_that_is_measured() -> None:
    assert tuple(METHODS) == report.METHODS


def test_every_report_has_a_template() -> None:
    by_hand = {"budgets.md", "errors.md", "faults.md"}
    templates = {path.name for path in report.TEMPLATES.glob("*.md")}
    assert {path.name for path in report.PAGES.glob("*.md")} == templates | by_hand


def test_a_figure_that_is_not_there_is_an_error() -> None:
    template = report.environment().from_string("{{ load('fidelity').no_such_figure }}")
    with pytest.raises(UndefinedError, match="no attribute 'no_such_figure'"):
        template.render()


def test_shares_by_budget_with_the_largest_in_bold() -> None:
    lines = report.with_best(
        "kept", {"a": {2: 0.5, 8: 0.91}, "b": {2: 0.25, 8: 0.9104}}, {"more": ["x", ""]}
    ).splitlines()
    assert lines[0] == "| kept | 8 | 2 | more |"
    assert lines[2:] == ["| a | **91.0** | **50.0** | x |", "| b | **91.0** | 25.0 |  |"]


def test_intervals_are_in_percent_and_points() -> None:
    lead = {"estimate": -0.02, "low": -0.05, "high": 0.01}
    assert report.interval(lead) == "-2.0 [-5.0, 1.0]"
    assert report.points(report.behind(lead)) == "+2.0 [-1.0, +5.0]"


@pytest.mark.parametrize("name", ["scenes", "crowded", "unseen"])
def test_with_few_tokens_no_method_keeps_as_much(name: str) -> None:
    rows = [row for row in QUALITY[name]["compared"] if row["method"] in report.METHODS and row["method"] not in OWN]
    assert len(rows) == 6
    assert all(row["reference_lead"]["low"] > 0 for row in rows)
    assert max(rows, key=lambda row: row["retention"]["estimate"])["method"] == "CDPruner"


def behind(name: str) -> set[tuple[str, str]]:
    """Against which method and with which budget MMTok is behind with an interval that says so."""
    return {
        (row["method"], budget)
        for budget, rows in QUALITY[name]["compared_at"].items()
        for row in rows
        if row["method"] in report.METHODS and row["reference_lead"]["high"] < 0
    }


def test_where_mmtok_is_behind() -> None:
    assert behind("scenes") == {("CDPruner", "64")}
    assert behind("tiles") == {("DivPrune", "8"), ("vision rows", "8"), ("vision rows", "4")}


def test_no_setting_is_ahead_of_the_paper_s_by_more_than_a_tenth_of_a_point() -> None:
    leads = report.load("quality-settings")["lead"].values()
    assert max(lead["estimate"] for lead in leads) < 0.001


def test_no_request_to_the_plugin_differs() -> None:
    lines = [line for found in report.releases.load("vllm_parity").values() for line in found["lines"]]
    assert lines
    assert [line for line in lines if line["differences"]] == []


def test_the_releases_on_the_page_are_those_that_cards_name() -> None:
    tested = json.loads(report.releases.TESTED.read_text(encoding="utf-8"))
    assert tested == report.releases.passing_releases(report.releases.load("results"))
