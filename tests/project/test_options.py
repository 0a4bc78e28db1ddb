"""An option is written in one place: what reads the fields of `PruningOptions` has it, and the tables name it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest

from configuration_mmtok import MMTokLlavaConfig, PruningOptions
from mmtok.cli.main import main
from mmtok.hub.options import call_options

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = fields(PruningOptions)
NEW = '    new_option: float = _option(1.0, WEIGHT, "what the new option does")\n'
USES_IT = """
import argparse
from configuration_mmtok import MMTokLlavaConfig, MMTokLlavaNextConfig, PruningOptions
from mmtok.cli.arguments import add_pruning_arguments, pruning_options_of
from mmtok.hub.options import call_options
from mmtok.hub.options import PAPER_OPTIONS

assert MMTokLlavaConfig(new_option=2).new_option == 2
assert MMTokLlavaNextConfig().to_dict()["new_option"] == 1.0
assert call_options({"new_option": 2}, MMTokLlavaConfig()).new_option == 2
assert PAPER_OPTIONS["new_option"] == 1.0
try:
    MMTokLlavaConfig(new_option=-3)
except ValueError as error:
    assert "new_option is -3: give 0, or a number" in str(error)
parser = argparse.ArgumentParser()
add_pruning_arguments(parser)
assert pruning_options_of(parser.parse_args(["--new-option", "3"]), "no model") == {"new_option": 3}
assert "what the new option does" in parser.format_help()
print("done")
"""


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_an_option_is_everywhere(option: Field[Any], capsys: pytest.CaptureFixture[str]) -> None:
    config = MMTokLlavaConfig(**{option.name: option.default})
    assert getattr(config, option.name) == option.default
    assert getattr(call_options({option.name: option.default}, config), option.name) == option.default
    with pytest.raises(SystemExit, match="0"):
        main(["stage", "--help"])
    name = "budget" if option.name.startswith("vision_token_") else option.name.replace("_", "-")
    assert f"--{name}" in capsys.readouterr().out
    [row] = re.findall(
        rf"^\| `{option.name}` \| (.+?) \| .+ \|$", (ROOT / "docs" / "options.md").read_text("utf-8"), re.MULTILINE
    )
    shown = f'"{option.default}"' if isinstance(option.default, str) else str(option.default)
    assert row.strip("`") == shown


def test_a_new_field_reaches_configuration_calls_and_command_line(tmp_path: Path) -> None:
    """The field alone, in a copy of the code: nothing else names the options one by one."""
    shutil.copytree(ROOT / "mmtok", tmp_path / "mmtok", ignore=shutil.ignore_patterns("checkpoint", "__pycache__"))
    for path in ROOT.glob("*_mmtok*.py"):
        shutil.copy(path, tmp_path)
    options = tmp_path / "mmtok" / "hub" / "options.py"
    before, mark, after = options.read_text("utf-8").partition("    covered_text:")
    options.write_text(before + NEW + mark + after, encoding="utf-8")
    run = subprocess.run([sys.executable, "-c", USES_IT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout == "done\n", run.stderr
