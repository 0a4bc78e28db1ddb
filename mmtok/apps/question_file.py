"""A file of questions about images, checked before a model is asked: JSON objects, one a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_questions(path: Path, image_token: str = "<image>") -> list[dict[str, Any]]:
    """The lines of a file.

    Args:
        path: of the file; the `image` of a line is a path relative to it.
        image_token: what stands for an image in the prompts of the model.

    Raises:
        ValueError: no text file, or an empty one; or names the first line that cannot be asked and says why.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}") from error
    # Not `splitlines`: it also splits at characters such as U+2028, which stand in JSON as they are.
    lines = text.removesuffix("\n").split("\n")
    if lines == [""]:
        raise ValueError(f"{path} is empty: give one question on each line.")
    questions = []
    for number, line in enumerate(lines, start=1):
        try:
            questions.append(_question(line, path.parent, image_token))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return questions


def _question(line: str, folder: Path, image_token: str) -> dict[str, Any]:
    """One line; a ValueError says why it cannot be asked."""
    try:
        question = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error}).") from error
    if not isinstance(question, dict) or not all(isinstance(question.get(name), str) for name in ("image", "question")):
        raise ValueError("give an object with the texts `image` and `question`.")
    try:
        json.dumps(question, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"it has half of a surrogate pair, which is no text ({error}).") from error
    if not question["question"].strip():
        raise ValueError("the question is empty: write one.")
    if image_token in question["question"]:
        raise ValueError(f"the question contains {image_token}, which stands for an image: leave it out.")
    if "\0" in question["image"] or not (folder / question["image"]).is_file():
        raise ValueError(f"the image {question['image']!r} is not there.")
    return question
