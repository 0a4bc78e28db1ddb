"""Records of a long run, kept on the disk as they come, so that an interrupted run goes on where it stopped.

    with RecordStore("answers.parts", fingerprint) as store:
        done = store.read()
        store.append([{"line": 7, "answer": "yes"}])

A store is a folder with `run.json`, which says what the run does, and for each process one file of JSON lines and one
lock. It survives a kill at any point: records are on the disk when `append` returns, a line that was cut short counts
as missing and is cut off before the next one is written, and `finish` can be repeated. `model_content` says what a
model is made of: answers of two models must never be mixed, whatever the two are called.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from mmtok.publish.hub import check_model_name

_RUN_FILE = "run.json"
_FINISHED_FILE = "finished.json"
# A file of a model of up to this many bytes is hashed whole, a larger one in samples that are spread over it.
_WHOLE = 2**25
_SAMPLES, _SAMPLE = 64, 2**16
_NOT_USED = (".md", ".png", ".lock")


class RecordStore:
    """The folder of one run, opened by one of its processes; close it, or use it in a `with` statement.

    Args:
        folder: created where it is missing.
        fingerprint: everything that decides the records, as JSON values; records are only added to those of a run with
            the same one.
        process: number of this process in a parallel run. Process 0 writes `run.json`, so it has to be opened first.
        may_grow: name of an entry of the fingerprint, a mapping that may get further entries from run to run.

    Raises:
        ValueError: the folder holds records of a run with another fingerprint, or a run that is going on uses it. The
            folder is as it was then.
    """

    def __init__(
        self, folder: str | Path, fingerprint: Mapping[str, Any], *, process: int = 0, may_grow: str = ""
    ) -> None:
        self.folder = Path(folder)
        made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / f"{process:05}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"Another run is writing to {self.folder}: wait for it, or name another output.") from None
        try:
            if process == 0:
                self._claim(json.loads(json.dumps(dict(fingerprint))), may_grow)
            self._file = (self.folder / f"{process:05}.jsonl").open("ab+")
        except BaseException:
            self._lock.release()
            if made:
                self.remove()
            raise
        # What stands behind the last line break was cut short.
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def read(self) -> list[dict[str, Any]]:
        """All whole records of all processes, in the order in which each process wrote them."""
        records = []
        for path in sorted(self.folder.glob("*.jsonl")):
            # Not `splitlines`: it also splits at characters such as U+2028, which stand in JSON as they are.
            for line in path.read_bytes().split(b"\n")[:-1]:
                try:
                    record = json.loads(line)
                except ValueError:  # a power cut can leave a block of zeros; such a record is missing
                    continue
                if isinstance(record, dict):
                    records.append(record)
        return records

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes records behind those of this process; they are on the disk when this returns."""
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        self._file.write(lines.encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets other runs use the folder."""
        self._file.close()
        self._lock.release()

    def finish(self, output: Path, lines: Iterable[str]) -> None:
        """Writes a run's result, all of it or nothing, and removes the store.

        Args:
            output: a file beside the folder.
            lines: of it, without line breaks.
        """
        text = "".join(f"{line}\n" for line in lines)
        # With this file, a run that is killed before the store is removed knows that the output is its own.
        write_whole(self.folder / _FINISHED_FILE, json.dumps({"sha256": _sha256(text.encode())}) + "\n")
        write_whole(output, text)
        self.close()
        self.remove()

    def is_finished(self, output: Path) -> bool:
        """Whether an earlier run was killed after `finish` had written `output` and before it had removed the store."""
        finished = self.folder / _FINISHED_FILE
        if not finished.is_file() or not output.is_file():
            return False
        return bool(_object_in(finished).get("sha256") == _sha256(output.read_bytes()))

    def remove(self) -> None:
        """Removes the files of the store, and the folder, if nothing else is in it."""
        for pattern in ("*.jsonl", "*.unfinished", _RUN_FILE, "*.lock", _FINISHED_FILE):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _claim(self, fingerprint: dict[str, Any], may_grow: str) -> None:
        """Writes `run.json`, or makes sure that the one that is there belongs to this run."""
        path = self.folder / _RUN_FILE
        if not path.is_file():
            if any(self.folder.glob("*.jsonl")):
                raise ValueError(f"{self.folder} has records, but no {_RUN_FILE}: remove it, or name another output.")
            write_whole(path, json.dumps(fingerprint, indent=2) + "\n")
            return
        before = _object_in(path)
        pairs = {name: (before.get(name), fingerprint.get(name)) for name in sorted({*before, *fingerprint})}
        known, own = before.get(may_grow), fingerprint.get(may_grow, {})
        if isinstance(known, dict):
            del pairs[may_grow]
            pairs |= {f"{may_grow} {name!r}": (known[name], own[name]) for name in known if name in own}
            fingerprint = {**fingerprint, may_grow: {**known, **own}}
        for name, (was, now) in pairs.items():
            if was != now:
                raise ValueError(
                    f"{self.folder} holds the answers of another run: {name} was {was!r} and is {now!r}. Remove it, or "
                    "name another output."
                )
        write_whole(path, json.dumps(fingerprint, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it has all of its text or is as it was, whatever happens meanwhile."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _object_in(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the store; a ValueError where it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object: remove {path.parent}, or name another output.")
    return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def model_content(model: str | Path, revision: str | None = None) -> str:
    """A hash of a model's files (weights, configuration, tokenizer, templates, code), or the commit of a repository.

    Args:
        model: folder or Hub id.
        revision: branch, tag or commit of a repository.

    Raises:
        ValueError: neither a folder with a model nor a Hub id.
        OSError: there is no such repository.
    """
    folder = Path(check_model_name(model))
    if not folder.is_dir():
        return f"commit {extract_commit_hash(cached_file(str(model), 'config.json', revision=revision), None)}"
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _NOT_USED:
            content.update(f"{path.name} {path.stat().st_size} {_file_hash(path)}\n".encode())
    return f"sha256 {content.hexdigest()}"


def _file_hash(path: Path) -> str:
    size = path.stat().st_size
    if size <= _WHOLE:
        return _sha256(path.read_bytes())
    content = hashlib.sha256()
    with path.open("rb") as file:
        for sample in range(_SAMPLES):
            file.seek((size - _SAMPLE) * sample // (_SAMPLES - 1))
            content.update(file.read(_SAMPLE))
    return content.hexdigest()
