"""Stages that end too early, at every step and by every signal, two at once, into what fills up: old or new, whole."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_checkpoints import make_llava_checkpoint

from mmtok.publish import Recipe, stage, stage_generate
from mmtok.publish import stage as publish_stage_function

# The package exports the function of the same name as the module.
staging = sys.modules[publish_stage_function.__module__]
SPACE = ".mmtok-stage-out"
STEPS = ("open", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "shutil.rmtree")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava_checkpoint(tmp_path_factory.mktemp("base") / "llava")


@pytest.fixture(scope="module")
def processes() -> Any:
    """Starts processes as forks of one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmtok.publish.stage"])
    return context


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stage_model(base: Path, out: Path, version: int) -> None:
    stage(base, out, Recipe({"vision_token_budget": version}), overwrite=True, check=False)


def make_generate(base: Path, out: Path, version: int) -> None:
    """The code of two releases, as it were."""
    from mmtok.publish import repository

    repository.REQUIREMENTS = f"transformers>={version}"
    stage_generate(out, overwrite=True, check=False)


def stage_in_a_process(
    make: Callable[[Path, Path, int], None],
    base: Path,
    out: Path,
    number: int,
    sent: int,
    version: int,
    exchange: bool,
    counted: Path,
) -> None:
    """Stages over `out`, and gets a signal at the step of a number, counted below the folder of `out`."""
    from mmtok.cli.publish import tidy_end

    steps = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        if event not in STEPS or str(out.parent) not in str(arguments[:2]):
            return
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) == 0:
            return
        steps += 1
        if steps == number:
            os.kill(os.getpid(), sent)

    if not exchange:
        staging._exchanged = lambda one, other: False
    sys.addaudithook(count)
    with tidy_end():
        make(base, out, version)
    counted.write_text(str(steps))
    sys.exit(7)


# Each takes up to a minute: `make test-heavy` has all.
OFTEN = [
    (stage_model, True, signal.SIGTERM),
    (stage_model, False, signal.SIGKILL),
    (make_generate, True, signal.SIGINT),
]


@pytest.mark.parametrize(
    ("make", "exchange", "sent"),
    [
        pytest.param(make, exchange, sent, marks=[] if (make, exchange, sent) in OFTEN else [pytest.mark.heavy])
        for make, exchange in ((stage_model, True), (stage_model, False), (make_generate, True))
        for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    ],
)
def test_a_stage_that_ends_at_any_step_leaves_old_or_new(
    make: Callable[[Path, Path, int], None],
    base: Path,
    processes: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sent: signal.Signals,
    exchange: bool,
) -> None:
    monkeypatch.setattr("mmtok.publish.repository.REQUIREMENTS", "")  # what `make_generate` changes comes back
    out = tmp_path / "out"
    contents = []
    for version in (1, 2):
        make(base, out, version)
        contents.append(content(out))
    counted = tmp_path.parent / f"{tmp_path.name} steps"

    def run(number: int) -> int:
        given = (make, base, out, number, sent, 1 + number % 2, exchange, counted)
        child = processes.Process(target=stage_in_a_process, args=given)
        child.start()
        child.join(120)
        return int(child.exitcode)

    assert run(10**6) == 7
    last = int(counted.read_text())
    # Every step of putting the folder into place, and some of those before.
    for number in (1, 2, 3, *range(4, last - 12, 15), *range(last - 12, last + 1)):
        run(number)
        if not out.exists():  # between the two renames where there is no exchange; the next run puts it back
            assert not exchange
            assert sent == signal.SIGKILL
            assert content(tmp_path / SPACE / "replaced") in contents
        else:
            assert content(out) in contents, f"half written at step {number}"
        if sent != signal.SIGKILL and (tmp_path / SPACE).exists():  # it came while the lock was taken
            assert {path.name for path in (tmp_path / SPACE).iterdir()} <= {"lock"}
    make(base, out, 1)
    assert content(out) == contents[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_second_stage_to_the_same_folder_is_refused_at_once(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staging.target_workspace(out), pytest.raises(ValueError, match=r"Another run is making .*out: wait for it"):
        stage(base, out, check=False)
    assert not out.exists()


def test_of_two_stages_at_once_one_writes_the_folder(base: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def run() -> None:
        try:
            stage(base, tmp_path / "out", check=False)
            said.append("staged")
        except ValueError as error:
            said.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.count("staged") == 1, said
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_fills_meanwhile_stays_as_it_is(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    out = tmp_path / "out"
    if overwrite:
        stage(base, out, check=False)
    place = staging.place_weights

    def fills(*arguments: Any, **named: Any) -> bool:
        out.mkdir(exist_ok=True)
        (out / "thesis.tex").write_text("mine")
        return bool(place(*arguments, **named))

    monkeypatch.setattr(staging, "place_weights", fills)
    with pytest.raises(ValueError, match="holds thesis.tex, which no stage wrote" if overwrite else "was filled mean"):
        stage(base, out, overwrite=overwrite, check=False)
    assert (out / "thesis.tex").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_added_in_the_last_moment_is_put_back(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = stage(base, tmp_path / "out", check=False).path
    exchange = staging._exchanged
    if not exchange(out, Path(shutil.copytree(out, tmp_path / "copy"))):
        pytest.skip("the file system cannot exchange two folders")
    shutil.rmtree(tmp_path / "copy")

    def late(one: Path, other: Path) -> bool:
        (out / "thesis.tex").write_text("mine")
        return bool(exchange(one, other))

    monkeypatch.setattr(staging, "_exchanged", late)
    with pytest.raises(ValueError, match=r"out holds thesis.tex, which no stage wrote"):
        stage(base, out, Recipe({"vision_token_budget": 1}), overwrite=True, check=False)
    assert (out / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("limit", [2_000, 30_000, 200_000])
def test_a_disk_that_is_full_leaves_what_was_there(base: Path, processes: Any, tmp_path: Path, limit: int) -> None:
    out = stage(base, tmp_path / "out", check=False).path
    before = content(out)
    child = processes.Process(target=stage_with_limit, args=(base, out, limit))
    child.start()
    child.join(120)
    assert child.exitcode == 9
    assert content(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def stage_with_limit(base: Path, out: Path, limit: int) -> None:
    """Stages where no file can have more than `limit` bytes; ends with 9 where that is an OSError."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        stage(base, out, overwrite=True, check=False, link_weights=False)
    except OSError as error:
        sys.exit(9 if error.errno == errno.EFBIG else 1)


def test_a_child_ends_with_its_parent(processes: Any, tmp_path: Path) -> None:
    """The clean process of a stage that is killed does not go on."""
    child = processes.Process(target=check_forever, args=(tmp_path,))
    child.start()
    wait_for(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    running = int((tmp_path / "pid").read_text())
    wait_for(
        lambda: not Path(f"/proc/{running}").exists() or "State:\tZ" in Path(f"/proc/{running}/status").read_text()
    )


def check_forever(folder: Path) -> None:
    from mmtok.publish.clean_process import _BOOT, run_clean

    program = folder / "program.py"
    program.write_text(f"import os, time\nopen({str(folder / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    run_clean(["-c", _BOOT.format(hidden=[]), str(program)])


def wait_for(reached: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(1200):
        if reached():
            return
        waited.wait(0.1)
    pytest.fail("it did not happen in two minutes")
