"""README and docs: their Python runs and prints what they say, their commands and links exist."""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import mmtok
from mmtok.cli.main import main
from mmtok.hub.families import FAMILIES
from mmtok.hub.options import PruningOptions
from mmtok.hub.releases import OLDEST_TESTED
from mmtok.publish import stage, stage_generate
from mmtok.tiny import checkpoint_path
from mmtok.vllm.models import MODULES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "reports").glob("*.md"),
    ]
)
# A Python block behind one of these marks is compiled and not run.
NEEDS_A_SERVER = "<!-- needs a running server -->"
NOT_HERE = ("<!-- needs real weights -->", NEEDS_A_SERVER, "<!-- the research code -->")
# Names in the pages, and what stands for them in the tests.
STAND_INS = {
    "org/mmtok": "code_repository",
    "org/llava-mmtok": "demo-model",
    "./llava-mmtok": "demo-model",
    "llava-hf/llava-1.5-7b-hf": str(checkpoint_path()),
}
# Command -> the folder that it makes, which each page gets as one of its own.
MAKES = {"stage": "demo-model", "stage-generate": "./mmtok_generate"}
# Commands of which the options are read.
NEED_THE_HUB = ("push", "verify", "push-generate")
SETTING_UP = ("make ", "git clone ", "python3 -m venv ", "/tmp/heavy/bin/")
# Command lines that another test runs, with a word that it has to have.
RUN_ELSEWHERE = {
    "transformers serve ": ("test_serving.py", "--trust-remote-code"),
    "vllm serve ": ("test_server.py", "--trust-request-mm-kwargs"),
    "lmms-eval ": ("test_lmms_eval.py", "mmtok_llava"),
    "accelerate launch --num_machines ": ("test_integrations_distributed.py", "--main_process_ip"),
}
# A word of a Python block that asks a server -> the test that asks a running one with it.
ASKS_A_SERVER = {
    "mm_processor_kwargs": "test_server.py",
    "generation_config": "test_serving.py",
    "image_url": "test_serving.py",
}
BASH = re.compile(r"```bash\n(.*?)```", re.DOTALL)
# A Python block with the line before it, and the text block that may follow it.
BLOCKS = re.compile(r"(?P<before>[^\n]*)\n+```python\n(?P<code>.*?)```(?:\n+```text\n(?P<output>.*?)```)?", re.DOTALL)


def with_stand_ins(text: str) -> str:
    for name, here in STAND_INS.items():
        text = text.replace(name, here)
    return text


def commands(page: Path) -> list[str]:
    """The lines of the page's shell blocks, continued lines as one, comments left out."""
    blocks = BASH.findall(page.read_text(encoding="utf-8"))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := line.split(" #")[0].strip())]


def python_blocks(page: Path) -> list[re.Match[str]]:
    return list(BLOCKS.finditer(page.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `make demo` leaves it."""
    place = tmp_path_factory.mktemp("docs")
    stage(checkpoint_path(), place / "demo-model", check=False)
    stage_generate(place / "code_repository", check=False)
    Image.new("RGB", (96, 96), "red").save(place / "photo.jpg")
    (place / "questions.jsonl").write_text('{"image": "photo.jpg", "question": "Is there a dog?"}\n')
    (place / "photos").mkdir()
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", (96, 96), "red").save(place / "photos" / name)
    asked = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "no"}
    (place / "pope.json").write_text(json.dumps(asked) + "\n")
    return place


# PEFT's own use of transformers, on the page about fine-tuning.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.name)
def test_python_of_the_docs_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "docs"}
    for block in python_blocks(page):
        program = compile(with_stand_ins(block["code"]), page.name, "exec")
        if block["before"] == NEEDS_A_SERVER:
            word, test = next((word, test) for word, test in ASKS_A_SERVER.items() if word in block["code"])
            assert word in next((ROOT / "tests").rglob(test)).read_text(encoding="utf-8")
        if block["before"] in NOT_HERE:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(program, names)
        if block["output"] is not None:
            assert printed.getvalue() == block["output"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
    missing = [target for target, _ in links if not (page.parent / target).exists()]
    assert not missing
    for target, part in links:
        if part:
            text = (page.parent / target if target else page).read_text(encoding="utf-8")
            titles = [re.sub(r"[^\w -]", "", title).lower() for title in re.findall(r"^#+ (.+)", text, re.MULTILINE)]
            assert part in [title.replace(" ", "-") for title in titles], f"{target} has no {part}"


def test_the_start_page_leads_to_every_page() -> None:
    docs = ROOT / "docs"
    start = (docs / "README.md").read_text(encoding="utf-8")
    found = [path for folder in (docs, docs / "reports") for path in folder.iterdir()]
    pages = [str(path.relative_to(docs)) for path in found if path.suffix in (".md", ".ipynb")]
    assert not [page for page in pages if page != "README.md" and f"]({page})" not in start]
    assert "](docs/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1100


def test_make_targets_of_the_docs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {name for page in PAGES for name in re.findall(r"`?make ([a-z-]+)`?", page.read_text(encoding="utf-8"))}
    prose = {"it", "a", "an", "them", "the", "sure", "no", "up", "of", "every", "small", "that", "all", "and"}
    assert {"demo", "test"} <= named
    assert not [name for name in named - prose if not re.search(rf"^{name}:", makefile, re.MULTILINE)]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_of_the_docs_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Those of this project, on the small model; of what publishes, the options are read."""
    monkeypatch.chdir(folder)
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    for command in commands(page):
        words = shlex.split(with_stand_ins(command))
        if words[0] == "mmtok" or ("mmtok" in words and words[:2] == ["accelerate", "launch"] and "..." not in words):
            given = words[words.index("mmtok") + 1 :]
            if given[0] in NEED_THE_HUB:
                with pytest.raises(SystemExit, match="0"):
                    main([given[0], "--help"])
                usage = capsys.readouterr().out
                assert all(word in usage for word in words if word.startswith("--"))
                continue
            place = folder / f"{page.stem}-staged"
            made = MAKES.get(given[0])
            assert main([f"{place}-{made.strip('./')}" if word == made else word for word in given]) == 0
        elif words[:2] == ["pip", "install"]:
            if "--index-url" in words:
                continue
            # Of the checkout or of the repository: the name on the package index is not ours.
            source = re.escape(mmtok.CODE_REPOSITORY)
            named = re.fullmatch(rf"(?:\.|mmtok)(?:\[([a-z,]+)\])?( @ git\+{source})?", words[2])
            assert named is not None, command
            assert words[2].startswith(".") != bool(named[2]), command
            assert set((named[1] or "demo").split(",")) <= set(extras["options.extras_require"])
        elif not command.startswith(SETTING_UP):
            [(test, word)] = [found for start, found in RUN_ELSEWHERE.items() if command.startswith(start)]
            assert word in next((ROOT / "tests").rglob(test)).read_text(encoding="utf-8")


def test_the_figures_of_the_readme_are_measured() -> None:
    """The paper's, those of the embedded model, and those of speed, in one table."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    results = ROOT / "benchmarks" / "results"
    facts = json.loads((ROOT / "mmtok" / "publish" / "facts" / "paper_results.json").read_text(encoding="utf-8"))
    tables = facts["models"]["llava-hf/llava-1.5-7b-hf"]
    paper = {str(row[0]): row[table["columns"].index("POPE") + 1] for table in tables for row in table["rows"]}
    assert f"| {paper['all']} with 576 | {paper['64']} with 64 |" in readme
    cells = json.loads((results / "quality-scenes.json").read_text(encoding="utf-8"))["cells"]
    right = {}
    for cell in cells:
        tasks = [cell["metrics"][task]["accuracy"] for task in ("random", "popular", "adversarial")]
        right[cell["method"], cell["budget"]] = f"{100 * sum(tasks) / 3:.1f}"
    assert f"| {right['all', None]} with 144 | {right['MMTok', 16]} with 16 |" in readme
    [case] = json.loads((results / "prefill-cpu-full.json").read_text(encoding="utf-8"))["measured"]
    assert (case["model"], case["budget_per_crop"]) == ("LLaVA-1.5-7B", 64)
    assert f"| 1 | {case['mmtok_times_faster']['1']:.1f} x with 64 |" in readme


def test_the_page_on_families_is_the_table() -> None:
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    expected = []
    for model_type, family in FAMILIES.items():
        since = ".".join(map(str, family.since)) if any(family.since) else OLDEST_TESTED
        budget = str(family.defaults.get("vision_token_budget", PruningOptions().vision_token_budget))
        served = "yes" if family.model_class in MODULES else "no"
        expected.append([family.title, f"`{model_type}`", since, budget, served])
    assert [[*row[:4], row[5]] for row in rows] == expected
