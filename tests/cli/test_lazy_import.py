"""`import mmtok` and the help need no torch; every public name is there when it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmtok
from mmtok.cli.main import COMMANDS
from mmtok.hub.families import class_of

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "numpy", "PIL", "huggingface_hub", "rich")


def heavy_modules_after(program: str) -> str:
    """Which of the heavy modules a new process has imported after `program`."""
    show = f"\nimport sys\nprint('imported:', [name for name in {HEAVY!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program + show], cwd=ROOT, capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "program",
    [
        "import mmtok; mmtok.__version__; dir(mmtok)",
        "import mmtok.cli.main as m\ntry: m.main(['--help'])\nexcept SystemExit: pass",
        "import mmtok.cli.main as m\ntry: m.main(['--version'])\nexcept SystemExit: pass",
        "import mmtok.cli.main as m\ntry: m.main(['no-such-command'])\nexcept SystemExit: pass",
        "import hub_upload as m\ntry: m.main(['--help'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported(program: str) -> None:
    assert heavy_modules_after(program) == "imported: []"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    asked = f"import mmtok.cli.main as m\ntry: m.main([{command!r}, '--help'])"
    program = f"{asked}\nexcept SystemExit as end: assert end.code == 0"
    assert heavy_modules_after(program) == "imported: []"


def test_the_check_sees_torch() -> None:
    assert "torch" in heavy_modules_after("import mmtok; mmtok.coverage_matrix")


def test_every_public_name_is_there_and_is_known_to_type_checkers() -> None:
    for name in mmtok.__all__:
        found = class_of(name)
        if found is None or found[1].is_available():
            assert getattr(mmtok, name) is not None
        else:  # on an old release
            with pytest.raises((ImportError, AttributeError), match="install a newer release"):
                getattr(mmtok, name)
    assert dir(mmtok) == sorted(mmtok.__all__)
    tree = ast.parse(Path(mmtok.__file__).read_text(encoding="utf-8"))
    [checking] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.asname for node in checking.body for alias in node.names}
    assert imported == set(mmtok._MODULES)
    assert set(mmtok.__all__) == {*imported, *mmtok._CLASSES, "__version__"}


def test_the_names_are_the_modules_own() -> None:
    from mmtok import MMTokLlavaForConditionalGeneration, MMTokLlavaNextConfig, coverage_matrix
    from mmtok.hub import objective

    assert coverage_matrix is objective.coverage_matrix
    assert MMTokLlavaForConditionalGeneration.__module__ == "modeling_mmtok_llava"
    assert MMTokLlavaNextConfig.model_type == "mmtok_llava_next"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mmtok' has no attribute 'prune_all'"):
        mmtok.prune_all  # noqa: B018
