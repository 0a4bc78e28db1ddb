"""The cells of each notebook, run one after another as a kernel would, print what the notebook shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Notebook -> its drawings. That about print reads with a stock processor of Qwen.
DRAWINGS = {"kept_patches.ipynb": 3, "printed_words.ipynb": 2}
RUN = ["kept_patches.ipynb", pytest.param("printed_words.ipynb", marks=pytest.mark.torchvision)]


def cells(notebook: str) -> list[dict[str, Any]]:
    every = json.loads((DOCS / notebook).read_text(encoding="utf-8"))["cells"]
    return [cell for cell in every if cell["cell_type"] == "code"]


def printed_text(cell: dict[str, Any]) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


@pytest.mark.parametrize("notebook", RUN)
def test_notebook_runs_and_prints_its_outputs(notebook: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for number, cell in enumerate(cells(notebook)):
        capsys.readouterr()
        exec(compile("".join(cell["source"]), f"{notebook}[{number}]", "exec"), names)
        assert capsys.readouterr().out == printed_text(cell)


@pytest.mark.parametrize("notebook", DRAWINGS)
def test_the_notebook_was_executed_and_is_small(notebook: str) -> None:
    assert [cell["execution_count"] for cell in cells(notebook)] == list(range(1, len(cells(notebook)) + 1))
    drawings = [
        output for cell in cells(notebook) for output in cell["outputs"] if "image/png" in output.get("data", {})
    ]
    assert len(drawings) == DRAWINGS[notebook]
    assert (DOCS / notebook).stat().st_size < 400_000


def test_every_notebook_is_run() -> None:
    assert {path.name for path in DOCS.glob("*.ipynb")} == set(DRAWINGS)
