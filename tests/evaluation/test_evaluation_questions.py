"""Files of questions: POPE's, and the three forms of our own."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

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


ASKED = [
    {"image": "a.png", "question": "Is there a dog?", "answer": "Yes"},
    {"video": "clips/a.mp4", "question": "Who wins?", "choices": ["red", "blue"], "answer": "blue", "id": "é"},
]


def csv_of(records: list[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["id", "image", "video", "question", "choices", "answer"])
    writer.writeheader()
    writer.writerows({**each, "choices": "|".join(each.get("choices", []))} for each in records)
    return file.getvalue()


WRITTEN = {
    "q.jsonl": "".join(json.dumps(each) + "\n\n" for each in ASKED),
    "q.json": json.dumps(ASKED, indent=1),
    "q.CSV": csv_of(ASKED),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_one_format_in_three_forms(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\ufeff" + WRITTEN[name], encoding="utf-8")
    one, two = read_questions(tmp_path / name)
    assert (one.task, one.image, one.text, one.label, one.prompt) == (
        "q",
        "a.png",
        *["Is there a dog?", "yes"],
        one.text,
    )
    assert (two.is_video, two.label, two.fields["id"]) == (True, "B", "é")
    assert two.prompt == "Who wins?\nA. red\nB. blue"
    assert [question.label for question in read_questions(tmp_path / name, labelled=False)] == ["", ""]
    assert read_questions(tmp_path / name, limit=1) == [one]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "it is not JSON (Expecting value, column 1)."),
        ("3", "it is not an object such as"),
        ({"question": "Is it?"}, "give the texts `image` (or `video`) and `question`"),
        ({"image": "a.png", "question": " "}, "the question is empty: write one."),
        ({"image": "a.png", "question": "<image> Is it?"}, "the question contains <image>"),
        ({"image": "b.png", "question": "?", "answer": "no"}, "the image 'b.png' is not in "),
        (
            {"image": "http://a.b/c.png", "question": "?", "answer": "no"},
            "is an address: download it, and name the file.",
        ),
        ({"image": "a.png", "question": "Is it?"}, "it has no `answer` to compare with."),
        ({"image": "a.png", "question": "Is it?", "choices": ["x"]}, "`choices` is ['x']: give a list of texts"),
        ({"image": "a.png", "text": "?", "choices": ["x", "y"], "label": "C"}, "the answer 'C' is not one of the 2"),
        ({"image": "a.png", "question": "\ud800?", "answer": "no"}, "it has half of a surrogate pair"),
        ({"image": "a.png", "question": "?", "answer": "no", "question_id": 1}, "it repeats the question_id 1 of 1"),
        ({"image": "a.png", "question": "?", "answer": "no", "question_id": [1]}, "`question_id` is [1]: give"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_every_line_that_cannot_be_asked_is_named(tmp_path: Path, line: Any, reason: str) -> None:
    (tmp_path / "a.png").touch()
    good = json.dumps({"image": "a.png", "question": "Is it?", "answer": "no"})
    bad = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / "q.jsonl").write_text("\n".join([good, bad, good, bad]))
    with pytest.raises(ValueError, match=r"q\.jsonl, line 2: ") as raised:
        read_questions(tmp_path / "q.jsonl", tmp_path)
    assert [text.partition(": ")[0].rpartition(" ")[2] for text in str(raised.value).splitlines()] == ["2", "4"]
    assert reason in str(raised.value)


def test_of_many_bad_lines_all_are_named(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("x\n" * 40 + "\n" + "x\n")
    with pytest.raises(ValueError, match=r"line 20: .*\nand 21 more that cannot be asked: 21-40, 42\.$"):
        read_questions(tmp_path / "q.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.json", "", "q.json is empty: give one question a line"),
        ("q.json", "[]", "q.json is empty"),
        ("q.json", "[{", "q.json begins as a JSON array and is not one"),
        ("q.csv", "image,question,answer\na.png,Is it?,no,what\n", "question 1: it has more values than the heading"),
    ],
)
def test_files_in_another_format_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_questions(tmp_path / name)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_bytes(b"\x89PNG")
    for name in ("q.json", "none.json"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as text"):
            read_questions(tmp_path / name)
