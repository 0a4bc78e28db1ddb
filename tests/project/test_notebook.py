"""The notebook's cells, run one after another as a kernel would, print what the notebook shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "kept_patches.ipynb"


def cells() -> list[dict[str, Any]]:
    every = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in every if cell["cell_type"] == "code"]


def printed_text(cell: dict[str, Any]) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def test_notebook_runs_and_prints_its_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for number, cell in enumerate(cells()):
        capsys.readouterr()
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}[{number}]", "exec"), names)
        assert capsys.readouterr().out == printed_text(cell)


def test_the_notebook_was_executed_and_is_small() -> None:
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    drawings = [output for cell in cells() for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(drawings) == 3
    assert NOTEBOOK.stat().st_size < 400_000
