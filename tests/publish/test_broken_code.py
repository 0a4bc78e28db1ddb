"""A published file that does not load says so, also where a sound mmtok is installed beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_checkpoints import make_llava_checkpoint

from mmtok.publish import stage
from mmtok.publish.clean_process import run_clean

ROOT = Path(__file__).resolve().parents[2]
LOAD = """
import sys
sys.path[:0] = {paths!r}
from transformers import AutoModelForImageTextToText
AutoModelForImageTextToText.from_pretrained({folder!r}, trust_remote_code=True)
"""


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("broken")
    folder = stage(make_llava_checkpoint(root / "base"), root / "staged", check=False).path
    code = folder / "coverage.py"
    code.write_text(code.read_text(encoding="utf-8").replace("def greedy_coverage(", "def gredy_coverage("))
    return folder


@pytest.mark.parametrize("installed", [False, True], ids=["alone", "beside an installed mmtok"])
def test_the_name_that_is_missing_is_the_one_in_the_error(staged: Path, tmp_path: Path, installed: bool) -> None:
    program = tmp_path / "load.py"
    program.write_text(LOAD.format(paths=[str(ROOT)] if installed else [], folder=str(staged)), encoding="utf-8")
    ended = run_clean([str(program)], environment={"HF_HOME": str(tmp_path / "home")}, timeout=300)
    assert ended.returncode != 0, "the installed package ran in place of the published code"
    assert "cannot import name 'greedy_coverage'" in ended.stderr
    assert "No module named" not in ended.stderr
