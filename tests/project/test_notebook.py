"""The notebook's cells, run one after another as a kernel would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmtok.tiny import checkpoint_path

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "kept_patches.ipynb"


@pytest.mark.skipif(not (checkpoint_path() / "model.safetensors").is_file(), reason="no embedded checkpoint yet")
def test_notebook_runs(capsys) -> None:
    names: dict[str, object] = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in cells)
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}[{number}]", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.count("tokens in the prompt") == 4
    assert "pick 1: row" in printed
