"""README and docs: their Python runs and prints what they say, their commands and links exist."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from mmtok.publish import stage
from mmtok.tiny import checkpoint_path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
NOT_HERE = ("<!-- needs real weights -->", "<!-- needs a running server -->")
# A Python block with what stands before it, and the text block that may follow it.
BLOCKS = re.compile(r"(?P<before>[^\n]*)\n+```python\n(?P<code>.*?)```(?:\n+```text\n(?P<output>.*?)```)?", re.DOTALL)


def python_blocks(page: Path) -> list[re.Match[str]]:
    return list(BLOCKS.finditer(page.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `make demo` leaves it."""
    place = tmp_path_factory.mktemp("docs")
    stage(checkpoint_path(), place / "demo-model", check=False)
    return place


# PEFT's own use of transformers, on the page about fine-tuning.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.name)
def test_python_of_the_docs_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "docs"}
    for block in python_blocks(page):
        program = compile(block["code"], page.name, "exec")
        if block["before"] in NOT_HERE:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(program, names)
        if block["output"] is not None:
            assert printed.getvalue() == block["output"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [f"docs/{path.name}" for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb")]
    assert not [page for page in pages if f"]({page})" not in readme]


def test_make_targets_of_the_docs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {name for page in PAGES for name in re.findall(r"`?make ([a-z-]+)`?", page.read_text(encoding="utf-8"))}
    prose = {"it", "a", "them", "the", "sure", "no", "up", "of", "every", "small", "that", "all"}
    assert {"demo", "test"} <= named
    assert not [name for name in named - prose if not re.search(rf"^{name}:", makefile, re.MULTILINE)]


def test_commands_of_the_readme_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    import hub_upload

    commands = re.findall(
        r"^python hub_upload\.py (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert commands
    for command in commands:
        words = shlex.split(command)
        with pytest.raises(SystemExit) as ended:
            hub_upload.main([words[0], "--help"])
        assert ended.value.code == 0
        usage = capsys.readouterr().out
        assert all(word in usage for word in words if word.startswith("--"))


def test_figures_of_the_embedded_model_are_those_of_its_report() -> None:
    scores = json.loads((checkpoint_path() / "training_report.json").read_text())["held_out"]["scores"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    columns = ("mmtok", "text", "vision", "uniform", "random")
    for budget in scores["mmtok"]:
        row = " | ".join(f"{100 * scores[name][budget]['accuracy']:.1f}" for name in columns)
        assert f"| {budget} | {row} |" in readme
    assert f"all 144 tokens: {100 * scores['all tokens']['all']['accuracy']:.1f}" in readme


def test_figures_of_the_comparison_are_those_of_its_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    heading = next(line for line in readme.splitlines() if line.startswith("| pictures |"))
    methods = [name.strip() for name in heading.strip("|").split("|")][1:]
    assert methods[0] == "MMTok"
    for case in ("scenes", "crowded", "tiles"):
        results = json.loads((ROOT / "benchmarks" / "results" / f"quality-{case}.json").read_text())
        kept = {row["method"]: row["retention"]["estimate"] for row in results["compared"]}
        assert " | " + " | ".join(f"{100 * kept[name]:.1f}" for name in methods) + " |" in readme
