"""How a command fails: one sentence, an exit code, and a traceback with `--traceback`."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mmtok.cli import main as command_line
from mmtok.cli.main import COMMANDS, EXTRAS, main
from mmtok.publish import CheckFailed, PublishError
from mmtok.tiny import checkpoint_path

ROOT = Path(__file__).resolve().parents[2]
# Distribution -> module, where the names differ.
MODULES = {"pillow": "PIL", "huggingface-hub": "huggingface_hub"}


def command_that(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Lets the work of `mmtok verify` raise `error`."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mmtok.publish.verify", fail)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("the value"), "mmtok verify: the value"),
        (OSError("the disk"), "mmtok verify: the disk"),
        (PublishError("the Hub"), "mmtok verify: the Hub"),
        (CheckFailed("the check"), "mmtok verify: the check"),
        (RuntimeError("of torch"), "mmtok verify: RuntimeError: of torch (--traceback shows where it comes from)"),
        (ImportError("no x"), "mmtok verify: ImportError: no x (--traceback shows where it comes from)"),
    ],
)
def test_a_failure_is_one_sentence_and_a_traceback_for_who_asks(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(monkeypatch, error)
    assert main(["verify", "folder"]) == 1
    assert capsys.readouterr().err == told + "\n"
    assert main(["verify", "folder", "--traceback"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith(told + "\n")


def test_a_torchvision_of_another_build_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What transformers raises there, chained as it does, names another module."""
    error = ModuleNotFoundError("Could not import module 'AutoProcessor'.")
    error.__cause__ = RuntimeError("operator torchvision::nms does not exist")
    command_that(monkeypatch, error)
    assert main(["verify", "folder"]) == 1
    told = (
        "mmtok verify: torchvision does not load beside the installed torch (operator torchvision::nms does not exist)"
    )
    assert capsys.readouterr().err.startswith(f"{told}: install both from one index")


def test_an_error_of_another_kind_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    command_that(monkeypatch, KeyError("a fault of ours"))
    with pytest.raises(KeyError, match="a fault of ours"):
        main(["verify", "folder"])


@pytest.mark.parametrize("moment", ["imports", "work"])
def test_an_interrupt_is_130_at_any_moment(
    moment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> types.ModuleType:
        raise KeyboardInterrupt

    if moment == "imports":
        monkeypatch.setattr(command_line, "import_module", interrupt)
    else:
        command_that(monkeypatch, KeyboardInterrupt())
    assert main(["verify", "folder"]) == 130
    assert capsys.readouterr().err == "mmtok verify: interrupted.\n"


def without(modules: list[str], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`mmtok` in a process in which `modules` cannot be imported."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({modules})); import mmtok.cli.main as m; sys.exit(m.main())"
    )
    own = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, env=own, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    ("missing", "arguments", "told"),
    [
        (
            "rich",
            ["ask", "a.png", "?"],
            "mmtok ask: rich is not installed: run pip install 'mmtok[demo] @ git+https://github.com/mmtok/mmtok'.",
        ),
        (
            "matplotlib",
            ["show", "--help"],
            "mmtok show: matplotlib is not installed: run pip install 'mmtok[demo] @ git+https://github.com/mmtok/mmtok'.",
        ),
        (
            "jinja2",
            ["push", "a", "b/c"],
            "mmtok push: jinja2 is not installed: run pip install 'mmtok[publish] @ git+https://github.com/mmtok/mmtok'.",
        ),
    ],
)
def test_a_missing_extra_is_one_sentence(missing: str, arguments: list[str], told: str, tmp_path: Path) -> None:
    ended = without([missing], *arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stderr, ended.stdout) == (1, told + "\n", "")


def test_two_missing_packages_are_named() -> None:
    ended = without(["rich", "matplotlib"], "ask", cwd=ROOT)
    assert (
        ended.stderr
        == "mmtok ask: matplotlib, rich are not installed: run pip install 'mmtok[demo] @ git+https://github.com/mmtok/mmtok'.\n"
    )


def test_publishing_needs_no_more_than_its_extra(tmp_path: Path) -> None:
    of_transformers = {"filelock"}
    others = sorted({*EXTRAS["demo"], "gradio", "pandas", "sentencepiece"} - set(EXTRAS["publish"]) - of_transformers)
    assert "rich" in others
    ended = without(others, "stage", "tiny", "staged", "--budget", "all", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "budget all" in ended.stdout
    assert "tensors and" in ended.stdout
    ended = without(others, "verify", "staged", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    for name in ("push", "verify"):
        assert without(others, name, "--help", cwd=tmp_path).returncode == 0
    assert checkpoint_path().is_dir()


def test_the_extras_are_those_of_the_package() -> None:
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg")
    for extra, modules in EXTRAS.items():
        wanted = package["options.extras_require"][extra].replace("%(publish)s", "")
        names = {re.split(r"[><=]", line)[0].strip() for line in wanted.splitlines() if line.strip()}
        found = {MODULES.get(name, name) for name in names}
        assert set(modules) == found | (set(EXTRAS["publish"]) if extra == "demo" else set())
    assert {command.extra for command in COMMANDS.values()} <= set(EXTRAS)
