"""POPE's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmtok.evaluation.questions import Question, read_questions, write_questions

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("kind", ["random", "popular", "adversarial"])
def test_the_real_pope_files_are_read(kind: str) -> None:
    path = DATA / f"coco_pope_{kind}.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside this checkout: https://github.com/AoiDragon/POPE has it")
    questions = read_questions(path)
    assert len(questions) == 3000
    assert len({question.image for question in questions}) == 500
    assert sum(question.label == "yes" for question in questions) == 1500
    assert {question.task for question in questions} == {f"coco_pope_{kind}"}


def test_questions_come_back_as_they_were_written(tmp_path: Path) -> None:
    asked = [
        Question("café", 1, "a.png", "Is there a “dog”?", "yes"),
        Question("café", 2, "a.png", "Which\u2028line?", "red"),
    ]
    write_questions(tmp_path / "café.json", asked)
    assert read_questions(tmp_path / "café.json") == asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no question"),
        ("[1, 2]\n", "Line 1 of .* is no question in POPE's format"),
        ('{"question_id": 1, "image": "a.png", "text": "Is it?"}\n', "Line 1 .*KeyError: 'label'"),
        ('{"question_id": 1, "image": "a", "text": "b", "label": "no"}\n' * 2, "Line 2 .* repeats question_id 1"),
        ("not json\n", "Line 1 .*JSONDecodeError"),
    ],
    ids=["empty", "list", "no label", "repeated", "no json"],
)
def test_files_in_another_format_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_questions(tmp_path / "q.json")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_bytes(b"\x89PNG")
    for name in ("q.json", "none.json"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as text"):
            read_questions(tmp_path / name)
