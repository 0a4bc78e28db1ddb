"""docs/quality.md: every figure is that of the result files, and its findings follow the results."""

from __future__ import annotations

from copy import deepcopy

import pytest

from benchmarks.quality import findings, report
from benchmarks.quality.tables import compared_at
from benchmarks.quality.trained import wall_seconds

STAGES = ("sight", "words", "language", "tuning")


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
    for rows in scenes["compared_at"].values():
        for row in rows:
            row["reference_lead"] = {"estimate": 0.02, "low": -0.01, "high": 0.05}
    least = compared_at(scenes, "CDPruner", "64")["reference_lead"]
    least["estimate"] = -0.02
    said = " ".join(findings.findings({**found, "scenes": scenes}).split())
    assert "At no budget from 64 to 2 tokens is another method ahead" in said
    assert "The least lead is that over CDPruner with 64 tokens: -2.0 [-1.0, +5.0] points." in said
    least["high"] = -0.01
    said = " ".join(findings.findings({**found, "scenes": scenes}).split())
    assert "MMTok is behind** on images of 2 to 5 objects, in points: against CDPruner with 64 tokens -2.0" in said


def test_findings_say_against_whom_no_lead_is_shown(found) -> None:
    changed = deepcopy(dict(found))
    for name in findings.NAMED:
        for row in changed[name]["compared"]:
            row["reference_lead"]["low"] = 0.01
    assert "above 0) against every method." in " ".join(findings.findings(changed).split())
    rows = {row["method"]: row for row in changed["crowded"]["compared"]}
    rows["VisionZip"]["reference_lead"]["low"] = -0.01
    assert "except against VisionZip on crowded images" in " ".join(findings.findings(changed).split())


def test_the_lead_of_sharing_is_not_that_of_equal_budgets(found) -> None:
    tiles = deepcopy(found["tiles"])
    for budget in tiles["compared_at"]:
        compared_at(tiles, "shared budget", budget)["reference_lead"] = {"estimate": -0.03, "low": -0.05, "high": 0.01}
    said = " ".join(findings.findings({**found, "tiles": tiles}).split())
    assert "by tokens per crop: +3.0 [-1.0, +5.0] with 8, +3.0" in said


def test_the_stages_that_run_side_by_side_count_once() -> None:
    stages = [{"name": name, "seconds": seconds} for name, seconds in zip(STAGES, (50, 10, 30, 7), strict=True)]
    assert wall_seconds({"stages": stages}) == 57
    stages[0]["seconds"] = 35
    assert wall_seconds({"stages": stages}) == 47
