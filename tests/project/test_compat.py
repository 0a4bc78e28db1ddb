"""The compatibility run: which releases it covers, what it calls a problem, and the page of its last results."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from model_cases import FAMILIES
from small_checkpoints import make_llava_checkpoint
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from compat import results, upstream
from compat.results import HOST, failures, load, numbers, passing_releases, problems, read
from mmtok.hub.releases import NEWEST_TESTED, OLDEST_TESTED
from mmtok.publish import stage

ROOT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT))
import noxfile  # noqa: E402

PAGE = ROOT / "docs" / "reports" / "compat.md"
FOLDER = "llava, new layout"


def test_every_supported_release_has_its_sessions() -> None:
    assert (noxfile.RELEASES[0], noxfile.RELEASES[-1]) == (OLDEST_TESTED, NEWEST_TESTED)
    assert list(noxfile.RELEASES) == sorted(noxfile.RELEASES, key=numbers)
    names = [str(each) for each in noxfile.PAIRS]
    assert len(set(names)) == len(names)
    ran = {row["transformers"] for row in load("results").values()}
    assert set(noxfile.RELEASES) <= ran
    assert {noxfile.TORCH, *noxfile.TORCHES} <= {row["torch"].partition("+")[0] for row in load("results").values()}
    tests = itertools.chain(*noxfile.GROUPS.values())
    for path, _, function in (name.partition("::") for name in tests):
        assert (ROOT / path).is_dir() or f"def {function}" in (ROOT / path).read_text(encoding="utf-8")


def test_what_counts_as_a_problem() -> None:
    good = {
        "loading": {},
        "loading_again": {},
        "our_deprecations": [],
        "kept": [[1]],
        "tokens": [[2]],
        **dict.fromkeys(("same_again", "pipeline", "full_budget_is_stock", "refused_without_trust"), True),
    }
    newest = {"transformers": "5.23.0", "folders": {FOLDER: good}}
    rows = {"new": newest}
    assert problems(newest, rows) == []
    for change, said in (
        ({"kept": [[3]]}, "other kept than the newest"),
        ({"loading": {"missing_keys": 2}}, "missing_keys 2"),
        ({"pipeline": False}, "pipeline is not so"),
        ({"our_deprecations": ["x is deprecated"]}, "x is deprecated"),
    ):
        older = {"transformers": "5.1.0", "folders": {FOLDER: {**good, **change}}}
        assert [said in found for found in problems(older, rows)] == [True]
    rows["new"] = {**newest, "folders": {FOLDER: {**good, "tokens of stock": [[4]]}}}
    for of_stock, found in (([[4]], [f"{FOLDER}: other tokens than the newest"]), ([[5]], [])):
        changed = {**good, "tokens": [[3]], "tokens of stock": of_stock}
        assert problems({"transformers": "5.5.0", "folders": {FOLDER: changed}}, rows) == found


REPORT = """<testsuites><testsuite>
<testcase name="test_a[llava]"/><testcase name="test_b"><failure message="1 == 2&#10;more"/></testcase>
<testcase name="test_c"><skipped message="no fork"/></testcase>
</testsuite></testsuites>"""


def test_a_report_of_the_tests_of_a_row(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(REPORT, encoding="utf-8")
    seen = read(report)
    assert seen == {"passed": 1, "failed": ["test_b: 1 == 2"], "skipped": ["test_c: no fork"]}
    assert failures({"publishing": seen}) == ["publishing: test_b: 1 == 2", "publishing: test_c: no fork"]
    assert failures({HOST: seen}) == [f"{HOST}: test_b: 1 == 2"]
    limit = {"passed": 1, "failed": [], "skipped": ["test_d[{'a': 3}]: stock itself fails on chunks"]}
    assert failures({"publishing": limit}) == []
    assert failures({"publishing": {"passed": 0, "failed": [], "skipped": []}}) == ["publishing: no test ran"]


def test_a_row_keeps_what_another_session_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "HERE", tmp_path)
    (tmp_path / "suite.json").write_text("{}", encoding="utf-8")
    results.add("suite", "row", {"publishing": 1})
    results.add("suite", "row", {HOST: 2})
    assert load("suite") == {"row": {"publishing": 1, HOST: 2}}


def test_no_commit_is_named_where_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "compat").mkdir()
    (tmp_path / "code.py").write_text("1", encoding="utf-8")
    own = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*own, *words], cwd=tmp_path, check=True)
    (tmp_path / "compat" / "suite.json").write_text("{}", encoding="utf-8")
    head = subprocess.run([*own, "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert head.startswith(results.commit())
    (tmp_path / "code.py").write_text("2", encoding="utf-8")
    with pytest.raises(ValueError, match=r"commit these files first\.\n ?M code\.py"):
        results.commit()


def test_upstreams_tests_are_compared_one_by_one(tmp_path: Path) -> None:
    def ran(case: str, name: str, ended: str = "") -> str:
        return f'<testcase classname="upstream_cases.{case}" name="{name}">{ended}</testcase>'

    skipped, failed = '<skipped message="no GPU"/>', '<failure message="1 == 2"/>'
    report = tmp_path / "report.xml"
    rows = [
        *(ran(f"{kind}_llava", "test_equal", skipped) for kind in ("Stock", "Pruned")),
        # A failed part of a test, and the test itself, which goes on.
        *(ran("Stock_llava", "test_parts", ended) for ended in (failed, "")),
        ran("Pruned_llava", "test_parts"),
        ran("Stock_llava", "test_left_out"),
        ran("Stock_llava", "test_outside"),
        *(ran(f"{kind}_llava", "test_outside", failed) for kind in ("Subclass", "Pruned")),
        *(ran(f"Generation{kind}_llava", "test_beams") for kind in ("Stock", "Pruned")),
    ]
    report.write_text(f"<testsuites><testsuite>{''.join(rows)}</testsuite></testsuites>", encoding="utf-8")
    assert upstream.read(report) == {
        "passed": 3,
        "failed": [
            "llava: test_left_out: passed with stock, absent with pruning off",
            "llava: test_parts: failed+passed with stock, passed with pruning off",
        ],
        "skipped": [],
        "of stock": {"failed": 1, "failed+passed": 1, "passed": 2, "skipped": 1},
    }


def test_every_row_passed() -> None:
    staged, counts = load("results"), {}
    assert not [problem for row in staged.values() for problem in problems(row, staged)]
    rows = load("suite")
    for row in rows.values():
        assert failures(row) == []
        assert re.fullmatch("[0-9a-f]{10}", row.get(HOST, {"commit": "0" * 10})["commit"])
        for group, seen in row.items():
            counts.setdefault(group, set()).add(seen["passed"] + len(seen["skipped"]))
    # Every release ran the same tests of ours; its own tests are others in each.
    assert all(len(counts[group]) == 1 for group in noxfile.GROUPS if group != HOST)
    assert set(noxfile.RELEASES) <= {name.split(", ")[0].split(" ")[1] for name in rows}


def test_every_page_names_the_same_tested_releases() -> None:
    pages = [ROOT / "README.md", ROOT / "space" / "README.md", PAGE, *(ROOT / "docs" / "cards").glob("*.md")]
    for path in pages:
        text = " ".join(path.read_text(encoding="utf-8").split())
        said = re.findall(r"Tested with transformers (\S+) to (\S+); on another release run `mmtok doctor`", text)
        assert said == [(OLDEST_TESTED, NEWEST_TESTED)], path
    assert passing_releases(load("results")) == {
        "oldest": OLDEST_TESTED,
        "newest": NEWEST_TESTED,
    }
    required = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert f"transformers>={OLDEST_TESTED},<={NEWEST_TESTED}" in required
    assert f"transformers>={OLDEST_TESTED}" in (ROOT / "setup.cfg").read_text(encoding="utf-8").split()


def test_the_staged_tokenizer_gives_what_generate_takes(tmp_path: Path) -> None:
    base = make_llava_checkpoint(tmp_path / "base")
    config = base / "tokenizer_config.json"
    # What transformers 4.57 reads of a tokenizer without a class of its own.
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), **names}), encoding="utf-8")
    staged = stage(base, tmp_path / "staged", check=False)
    settings = json.loads((staged.path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("base", ["llava", "llava_next"])
def test_key_conversions_are_found_by_class_and_by_model_type(base: str) -> None:
    # transformers 5.5 looks them up by model type alone.
    model_class = FAMILIES[base].model_class
    wanted = get_checkpoint_conversion_mapping(base)
    assert wanted
    for name in (model_class.__name__, model_class.config_class.model_type):
        assert str(get_checkpoint_conversion_mapping(name)) == str(wanted)


def test_a_release_with_a_problem_is_not_named_as_tested() -> None:
    rows = load("results")
    newest = max(rows, key=lambda name: results.release(rows[name]))
    broken = {**rows[newest], "folders": {FOLDER: {"error": "ImportError: no"}}}
    assert passing_releases({**rows, newest: broken})["newest"] != rows[newest]["transformers"]


def test_the_page_of_the_plugin_counts_the_tests_that_passed() -> None:
    page_of_plugin = (ROOT / "docs" / "reports" / "vllm-plugin.md").read_text(encoding="utf-8")
    rows = load("vllm")
    assert {release.partition("+")[0] for release in rows} == {"0.31.0", "0.32.0", "0.33.0"}
    for release, row in rows.items():
        told = []
        for runner in ("runner 1", "runner 2"):
            assert row[runner]["failed"] == row[runner]["skipped"] == []
            told.append(f"{row[runner]['passed']} passed")
        version = row["machine"]["versions"]["transformers"]
        assert f"| {release.partition('+')[0]} | {version} | {' | '.join(told)} |" in page_of_plugin
