"""Questions in POPE's file format, one JSON object a line, and the images they are about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
        task: what it is scored with: the name of its file without the ending.
        question_id: unique within the task.
        image: file name, relative to the image folder.
        text: the question.
        label: the answer; "yes" and "no" in POPE's tasks.
    """

    task: str
    question_id: int
    image: str
    text: str
    label: str


def read_questions(path: str | Path) -> list[Question]:
    """Reads a file in POPE's format.

    Raises:
        ValueError: the file cannot be read or is empty, or a line is no question; the message names the line.
    """
    path = Path(path)
    try:
        # Not `splitlines`: it also splits at characters such as U+2028, which stand in JSON as they are.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}") from error
    questions, seen = [], set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            question = Question(
                path.stem, int(fields["question_id"]), str(fields["image"]), fields["text"], str(fields["label"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Line {number} of {path} is no question in POPE's format, which has question_id, image, text and "
                f"label: {line[:80]!r} ({type(error).__name__}: {error})."
            ) from error
        if question.question_id in seen:
            raise ValueError(f"Line {number} of {path} repeats question_id {question.question_id}: number them apart.")
        seen.add(question.question_id)
        questions.append(question)
    if not questions:
        raise ValueError(f"{path} holds no question: give a file in POPE's format, one JSON object a line.")
    return questions


def write_questions(path: str | Path, questions: Iterable[Question]) -> None:
    """Writes questions of one task in POPE's format."""
    lines = []
    for question in questions:
        fields = asdict(question)
        del fields["task"]
        lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
    Path(path).write_text("".join(lines), encoding="utf-8")


def require_images(questions: Sequence[Question], folder: str | Path) -> None:
    """Checks before a run of hours that every image is there.

    Raises:
        ValueError: the message counts the missing files and names the first.
    """
    folder = Path(folder)
    names = sorted({question.image for question in questions})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} images are not in {folder}, the first is {missing[0]}: give the folder "
            "that holds the images of these questions (for POPE, COCO's val2014)."
        )
