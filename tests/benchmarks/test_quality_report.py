"""docs/quality.md: every figure is that of the result files, and its findings follow the results."""

from __future__ import annotations

from copy import deepcopy

import pytest

from benchmarks.quality import findings, report
from benchmarks.quality.tables import cell_of


@pytest.fixture(scope="module")
def found():
    return report.results()


def test_the_page_shows_the_results(found) -> None:
    page = report.rendered(report.TEXT.read_text(encoding="utf-8"), report.blocks(found))
    assert (report.DOCS / "quality.md").read_text(encoding="utf-8") == page, "run `python -m benchmarks.quality.report`"


def test_a_mark_and_a_text_need_each_other() -> None:
    assert report.rendered("a {{one}} b", {"one": "1"}) == "a 1 b"
    with pytest.raises(ValueError, match=r"page\.md has no place for \{\{two\}\}"):
        report.rendered("a {{one}} b", {"one": "1", "two": "2"})
    with pytest.raises(ValueError, match=r"page\.md has a place that nothing fills: '\{\{one\}\} b'"):
        report.rendered("a {{one}} b", {})


def test_findings_say_where_another_method_is_ahead(found) -> None:
    scenes = deepcopy(found["scenes"])
    for method, share in (("MMTok", 0.95), ("CDPruner", 0.94), ("uniform", 0.93)):
        for budget in (64, 32, 16, 8, 4, 2):
            cell_of(scenes, method, budget)["retention"]["mean"]["estimate"] = share
    for cell in scenes["cells"]:
        if cell["method"] not in ("MMTok", "CDPruner", "uniform", "all"):
            cell["retention"]["mean"]["estimate"] = 0.5
    assert "No other method is ahead at any budget" in findings.findings({**found, "scenes": scenes})
    cell_of(scenes, "uniform", 8)["retention"]["mean"]["estimate"] = 0.96
    said = " ".join(findings.findings({**found, "scenes": scenes}).split())
    assert "not always the best:** at 8 tokens uniform keeps 96.0 % and MMTok 95.0 %" in said


def test_findings_say_against_whom_no_lead_is_shown(found) -> None:
    changed = deepcopy(dict(found))
    for name in findings.NAMED:
        for row in changed[name]["compared"]:
            row["reference_lead"]["low"] = 0.01
    assert "above 0) against every method." in " ".join(findings.findings(changed).split())
    rows = {row["method"]: row for row in changed["crowded"]["compared"]}
    rows["VisionZip"]["reference_lead"]["low"] = -0.01
    assert "except against VisionZip on crowded images" in " ".join(findings.findings(changed).split())
