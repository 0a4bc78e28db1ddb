"""Files of questions about images and videos: JSON lines, a JSON array, or CSV with a heading."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtok.visuals import is_address

from .metrics import letter_of

FORMAT = '{"image": "1.jpg", "question": "Is there a dog?"}'
_MOST_REASONS = 20


@dataclass(frozen=True)
class Question:
    """A question about an image or a video.

    Attributes:
        task: what it is scored with: the name of its file without the ending.
        question_id: unique within the task.
        image: name of the image's or the video's file, relative to a folder.
        text: the question.
        label: the answer, "yes" and "no" in POPE's tasks, the letter of a choice; "" where it is not known.
        choices: what is to be chosen from; empty for a question without.
        is_video: whether `image` names a video.
        fields: the line of the file.
    """

    task: str
    question_id: int | str
    image: str
    text: str
    label: str = ""
    choices: tuple[str, ...] = ()
    is_video: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def prompt(self) -> str:
        """The question, with each choice on a line of its own behind a letter."""
        return "\n".join([self.text, *(f"{chr(65 + n)}. {each}" for n, each in enumerate(self.choices))])


def read_questions(
    path: str | Path,
    folder: str | Path | None = None,
    *,
    labelled: bool = True,
    limit: int | None = None,
    image_token: str = "<image>",
) -> list[Question]:
    """Reads a file of questions.

    Each has `image` or `video`, the name of a file, and `question` (in POPE's files `text`); with `labelled` also
    `answer` (`label`). `choices` makes it multiple choice, whose answer is a letter or the choice itself; in CSV they
    are separated by "|". `question_id` is the number in the file, or with `labelled` what the file says.

    Args:
        path: of the file: CSV where it ends in .csv, else JSON.
        folder: where the images are; None does not look for them.
        labelled: whether answers are needed.
        limit: only the first questions.
        image_token: what stands for an image in the prompts of the model.

    Raises:
        ValueError: the file cannot be read as text or has no question; or names every line that cannot be asked and
            says why.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}") from error
    questions: list[Question] = []
    wrong: dict[int, str] = {}
    seen: dict[int | str, int] = {}
    noun, records = _records(path, text)
    for number, record in records:
        if len(questions) + len(wrong) == limit:
            break
        try:
            question = _question(path.stem, number, record, labelled, image_token)
            if folder is not None:
                _require_file(Path(folder), question)
            first = seen.setdefault(question.question_id, number)
            if first != number:
                raise ValueError(f"it repeats the question_id {question.question_id} of {first}: number them apart.")
            questions.append(question)
        except ValueError as error:
            wrong[number] = str(error)
    if wrong:
        raise ValueError(_refusal(f"{path}, {noun}", wrong))
    if not questions:
        raise ValueError(f"{path} is empty: give one question a line, such as {FORMAT}.")
    return questions


def _records(path: Path, text: str) -> tuple[str, Iterable[tuple[int, Any]]]:
    """What the questions are called in messages, and each with its number, from 1."""
    if path.suffix.lower() == ".csv":
        return "question", enumerate(csv.DictReader(io.StringIO(text, newline="")), 1)
    if text.lstrip().startswith("["):
        try:
            return "question", enumerate(json.loads(text), 1)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} begins as a JSON array and is not one: {error}.") from error
    # Not `splitlines`: it also splits at characters such as U+2028, which stand in JSON as they are.
    return "line", ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _question(task: str, number: int, record: Any, labelled: bool, image_token: str) -> Question:
    """One question, of an object or of a line of JSON; a ValueError says why it cannot be asked."""
    if isinstance(record, str):
        try:
            record = json.loads(record)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is not JSON ({error.msg}, column {error.colno}).") from error
    if not isinstance(record, dict):
        raise ValueError(f"it is not an object such as {FORMAT}.")
    is_video = not record.get("image") and bool(record.get("video"))
    image = record.get("video" if is_video else "image")
    text = record.get("question", record.get("text"))
    if None in record:
        raise ValueError("it has more values than the heading names.")
    if not isinstance(image, str) or not isinstance(text, str):
        raise ValueError(f"give the texts `image` (or `video`) and `question`, as in {FORMAT}.")
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"it has half of a surrogate pair, which is not text ({error}).") from error
    if not text.strip():
        raise ValueError("the question is empty: write one.")
    if image_token in text:
        raise ValueError(f"the question contains {image_token}, which stands for an image: leave it out.")
    choices = record.get("choices") or ()
    choices = tuple(choices.split("|")) if isinstance(choices, str) else choices
    if not isinstance(choices, (list, tuple)) or len(choices) == 1 or not all(isinstance(c, str) for c in choices):
        raise ValueError(f"`choices` is {choices!r}: give a list of texts, at least two.")
    own = record.get("question_id", number) if labelled else number
    own = int(own) if isinstance(own, str) and own.isdigit() else own
    if not isinstance(own, (int, str)):
        raise ValueError(f"`question_id` is {own!r}: give a number or a text.")
    label = _label(record, tuple(choices)) if labelled else ""
    return Question(task, own, image, text, label, tuple(choices), is_video, record)


def _label(record: Mapping[str, Any], choices: tuple[str, ...]) -> str:
    found = record.get("answer", record.get("label"))
    if isinstance(found, bool) or not isinstance(found, (str, int, float)) or not str(found).strip():
        raise ValueError("it has no `answer` to compare with.")
    label = str(found).strip()
    if not choices:
        return label.lower() if label.lower() in ("yes", "no") else label
    letter = letter_of(label, choices)
    if not letter:
        raise ValueError(f"the answer {label!r} is not one of the {len(choices)} choices, nor the letter of one.")
    return letter


def _require_file(folder: Path, question: Question) -> None:
    kind = "video" if question.is_video else "image"
    if is_address(question.image):
        raise ValueError(f"the {kind} {question.image} is an address: download it, and name the file.")
    path = folder / question.image
    if "\0" in question.image or not (path.exists() if question.is_video else path.is_file()):
        raise ValueError(f"the {kind} {question.image!r} is not in {folder}.")


def _refusal(where: str, wrong: Mapping[int, str]) -> str:
    """All of the wrong lines: each with its reason, and of many the rest by number."""
    shown = [f"{where} {number}: {reason}" for number, reason in list(wrong.items())[:_MOST_REASONS]]
    rest = list(wrong)[_MOST_REASONS:]
    if rest:
        shown.append(f"and {len(rest)} more that cannot be asked: {_ranges(rest)}.")
    return "\n".join(shown)


def _ranges(numbers: Iterable[int]) -> str:
    """3, 4, 5 and 9 are "3-5, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def batches(questions: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    """Batches of the questions about images, and then those about videos, one by one."""
    images = [question for question in questions if not question.is_video]
    yield from (images[start : start + size] for start in range(0, len(images), size))
    yield from ([question] for question in questions if question.is_video)


def write_questions(path: str | Path, questions: Iterable[Question]) -> None:
    """Writes questions of one task in POPE's format, one JSON object a line."""
    names = ("question_id", "image", "text", "label")
    fields = ({name: getattr(question, name) for name in names} for question in questions)
    lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in fields)
    Path(path).write_text("".join(lines), encoding="utf-8")
