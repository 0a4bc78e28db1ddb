from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmtok.record_store import RecordStore

ROOT = Path(__file__).resolve().parents[2]
RUN = {"model": "a", "methods": {"mmtok": {}}}


def numbers(store: RecordStore) -> list[int]:
    return [record["line"] for record in store.read()]


def test_records_of_all_processes_come_back(tmp_path) -> None:
    with RecordStore(tmp_path / "run", RUN) as first, RecordStore(tmp_path / "run", RUN, process=1) as second:
        second.append([{"line": 1}])
        first.append([{"line": 0}, {"line": 2}])
        assert numbers(first) == numbers(second) == [0, 2, 1]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x1c", "\r"])
def test_an_answer_with_a_line_separator_is_one_record(tmp_path, separator) -> None:
    """`str.splitlines` splits at each of these, and JSON leaves most of them as they are."""
    record = {"line": 0, "answer": f"one{separator}two"}
    with RecordStore(tmp_path / "run", RUN) as store:
        store.append([record])
    with RecordStore(tmp_path / "run", RUN) as store:
        assert store.read() == [record]


@pytest.mark.parametrize("torn", ['{"line": 2, "answer": "é'.encode()[:-1], b"\0" * 100_000, b"x" * 70_000])
def test_a_torn_line_is_missing_and_is_cut_off(tmp_path, torn) -> None:
    """Also where it is longer than what is read at once in search of its beginning."""
    with RecordStore(tmp_path / "run", RUN) as store:
        store.append([{"line": 0}, {"line": 1}])
    file = tmp_path / "run" / "00000.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + torn)
    with RecordStore(tmp_path / "run", RUN) as store:
        assert file.read_bytes() == whole
        store.append([{"line": 2}])
        assert numbers(store) == [0, 1, 2]


def test_a_line_that_a_power_cut_has_spoilt_is_missing(tmp_path) -> None:
    with RecordStore(tmp_path / "run", RUN) as store:
        store.append([{"line": 0}])
        (tmp_path / "run" / "00001.jsonl").write_bytes(b'\0\0\0\n{"line": 1}\n')
        assert numbers(store) == [0, 1]


def test_appending_reads_nothing_again(tmp_path) -> None:
    """The file may grow to gigabytes: after it is open, its beginning is never read."""
    with RecordStore(tmp_path / "run", RUN) as store:
        store.append([{"line": number} for number in range(100)])
        read_before = _bytes_read()
        store.append([{"line": 100}])
        assert _bytes_read() - read_before < 200
        assert numbers(store) == list(range(101))


def _bytes_read() -> int:
    """Bytes that this process has read from files so far (Linux)."""
    counters = Path("/proc/self/io")
    if not counters.is_file():
        pytest.skip("the system does not count what a process reads")
    return int(dict(line.split(": ") for line in counters.read_text().splitlines())["rchar"])


def test_a_run_with_another_fingerprint_is_refused(tmp_path) -> None:
    with RecordStore(tmp_path / "run", RUN) as store:
        store.append([{"line": 0}])
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match="the answers of another run: model was 'a' and is 'b'"):
        RecordStore(tmp_path / "run", {**RUN, "model": "b"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_an_entry_may_grow_but_not_change(tmp_path) -> None:
    folder = tmp_path / "run"
    RecordStore(folder, RUN, may_grow="methods").close()
    RecordStore(folder, {**RUN, "methods": {"uniform": {"seed": 1}}}, may_grow="methods").close()
    assert json.loads((folder / "run.json").read_text())["methods"] == {"mmtok": {}, "uniform": {"seed": 1}}
    with pytest.raises(ValueError, match=r"methods 'uniform' was {'seed': 1} and is {'seed': 2}"):
        RecordStore(folder, {**RUN, "methods": {"uniform": {"seed": 2}}}, may_grow="methods")


def test_records_without_a_run_are_not_adopted(tmp_path) -> None:
    with RecordStore(tmp_path / "run", RUN) as store:
        store.append([{"line": 0}])
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(ValueError, match=r"has records, but no run\.json: remove it"):
        RecordStore(tmp_path / "run", RUN)


def test_two_runs_refuse_each_other(tmp_path) -> None:
    """A run in another program; when that is killed, its lock is gone, and so is nothing that it wrote."""
    program = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from mmtok.record_store import RecordStore
store = RecordStore({str(tmp_path / "run")!r}, {RUN!r})
store.append([{{"line": 0}}])
print("open", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ValueError, match=r"Another run is writing to .*run: wait for it, or name another output"):
            RecordStore(tmp_path / "run", RUN)
        os.kill(other.pid, signal.SIGKILL)
    with RecordStore(tmp_path / "run", RUN) as store:
        assert numbers(store) == [0]


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        RecordStore(tmp_path / "run", {"model": object()})
    assert not (tmp_path / "run").exists()


class Killed(BaseException):
    """Stands for a kill: nothing in the store may catch it."""


@pytest.mark.parametrize("step", range(12))
def test_a_kill_at_any_step_of_the_end_loses_nothing(tmp_path, monkeypatch, step) -> None:
    """`finish` is cut off before each of its file operations; the next run either finishes or knows that it is."""
    output, done = tmp_path / "out.jsonl", 0
    store = RecordStore(tmp_path / "run", RUN)
    store.append([{"line": 0}, {"line": 1}])

    def counted(operation):
        def run(*arguments, **named):
            nonlocal done
            if done == step:
                raise Killed
            done += 1
            return operation(*arguments, **named)

        return run

    with monkeypatch.context() as patched:
        for name in ("open", "replace", "unlink", "rmdir"):
            patched.setattr(Path, name, counted(getattr(Path, name)))
        try:
            store.finish(output, ["0", "1"])
        except Killed:
            store.close()
    if (tmp_path / "run").exists():
        with RecordStore(tmp_path / "run", RUN) as again:
            finished = again.is_finished(output)
            assert finished or not output.exists() or not (tmp_path / "run" / "00000.jsonl").stat().st_size
            if not output.exists():
                assert numbers(again) == [0, 1]
                again.finish(output, ["0", "1"])
    assert output.read_text() == "0\n1\n"


@pytest.mark.parametrize("content", ["", "garbage", "[1]", '"text"', "\x00\x00"])
def test_a_store_whose_run_file_is_garbage_is_named(tmp_path: Path, content: str) -> None:
    RecordStore(tmp_path / "parts", {"model": "a"}).close()
    (tmp_path / "parts" / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.json holds no JSON object: remove .*parts, or name another output"):
        RecordStore(tmp_path / "parts", {"model": "a"})


def test_records_that_are_no_objects_are_missing(tmp_path: Path) -> None:
    with RecordStore(tmp_path / "parts", {}) as store:
        store.append([{"line": 1}])
        (tmp_path / "parts" / "00001.jsonl").write_text('7\n[1]\n"x"\n{"line": 2}\n', encoding="utf-8")
        assert store.read() == [{"line": 1}, {"line": 2}]
