"""The answers of a run, kept on disk as they come, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

Budget: TypeAlias = int | None
Key: TypeAlias = tuple[str, Budget, str, int]


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        method: name of the pruning method; "all" for the full prompt.
        budget: tokens kept per crop; None for the full prompt.
        task, question_id: the question.
        text: the answer.
        vision_tokens: how many vision tokens the language model read.
    """

    method: str
    budget: Budget
    task: str
    question_id: int
    text: str
    vision_tokens: int

    @property
    def key(self) -> Key:
        return self.method, self.budget, self.task, self.question_id


class AnswerLog:
    """A folder with `run.json`, what was asked of which model, and one file of answers for every process."""

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], *, process: int = 0) -> None:
        """Opens or creates a log.

        Args:
            folder: created where it is missing.
            settings: everything that an answer depends on besides its key. "methods", a mapping of names to settings,
                may grow from run to run; all else has to stay.
            process: number of this process in a parallel run.

        Raises:
            ValueError: the folder belongs to a run with other settings.
        """
        self.folder = Path(folder)
        self._path = self.folder / f"answers-{process}.jsonl"
        written = json.loads(json.dumps(dict(settings)))
        before = self._settings()
        if before is not None:
            _require_same(before, written, self.folder)
            written["methods"] = {**before.get("methods", {}), **written.get("methods", {})}
        self.folder.mkdir(parents=True, exist_ok=True)
        if process == 0:
            unfinished = self.folder / "run.unfinished"
            unfinished.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(self.folder / "run.json")

    def read(self) -> list[Answer]:
        """All answers of all processes, each key once; a line that an interruption cut short is left out."""
        found: dict[Key, Answer] = {}
        for path in sorted(self.folder.glob("answers-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n") and line.strip():
                    answer = Answer(**json.loads(line))
                    found.setdefault(answer.key, answer)
        return list(found.values())

    def append(self, answers: Iterable[Answer]) -> None:
        """Writes answers of this process behind those it has."""
        lines = "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        with self._path.open("r+b" if self._path.exists() else "w+b") as file:
            # A line that was cut short would spoil the one behind it.
            file.seek(file.read().rfind(b"\n") + 1)
            file.truncate()
            file.write(lines.encode())

    def _settings(self) -> dict[str, Any] | None:
        path = self.folder / "run.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    differing = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted({*before, *now} - {"methods"})
        if before.get(name) != now.get(name)
    ]
    known = before.get("methods", {})
    differing += [
        f"the method {name!r} was {known[name]!r} and is {settings!r}"
        for name, settings in now.get("methods", {}).items()
        if name in known and known[name] != settings
    ]
    if differing:
        raise ValueError(f"{folder} holds answers of another run: {differing[0]}. Name another folder or delete it.")
