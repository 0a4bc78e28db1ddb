"""Agreement with the answers of all tokens: hand-worked cases, and `mmtok compare` from images to drawings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_checkpoints import make_llava_checkpoint

from mmtok.cli.main import main
from mmtok.evaluation import FULL, RunResult
from mmtok.evaluation.metrics import Interval, letter_of, metric_reason, token_f1
from mmtok.evaluation.questions import Question
from mmtok.evaluation.runner import RecordedAnswer
from mmtok.evaluation.summary import Agreement, agreements, smallest_budget
from mmtok.publish import stage


@pytest.mark.parametrize(
    ("one", "other", "f1"),
    [("A red bus.", "the red big bus", 0.8), ("no", "yes", 0), ("", "", 1), ("", "yes", 0), ("yes yes", "yes", 2 / 3)],
)
def test_f1_of_words(one: str, other: str, f1: float) -> None:
    assert token_f1(one, other) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), ("(b)", "B"), ("B. a dog", "B"), ("A dog.", "B"), ("C", ""), ("a dog or a cat", ""), ("", "")],
)
def test_the_letter_of_a_choice(answer: str, letter: str) -> None:
    assert letter_of(answer, ["a cat", "a dog"]) == letter


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["yes", "no"], 'F1 of "yes", as all labels are yes or no'),
        (["yes", "red", "no"], "accuracy, the share of .*, as 1 of 3 labels are neither yes nor no, such as 'red'"),
        (["no", "no"], "accuracy, the share of answers that are the label, as no label is yes"),
        (["red", "blue"], "as the labels are neither yes nor no, such as 'blue'"),
    ],
)
def test_the_metric_is_named_with_its_reason(labels: list[str], reason: str) -> None:
    assert re.search(reason, metric_reason(labels))


def answered(budget: int | None, texts: list[str]) -> list[RecordedAnswer]:
    method, tokens = (FULL, 16) if budget is None else ("model", budget)
    return [RecordedAnswer(method, budget, "q", number, text, tokens) for number, text in enumerate(texts)]


def test_agreement_of_a_hand_worked_run() -> None:
    questions = [Question("q", number, f"{number // 2}.png", "?") for number in range(4)]
    answers = answered(None, ["a red bus", "no", "3", "yes"])
    answers += answered(4, ["red bus", "no", "3", "yes"]) + answered(8, ["a red big bus", "no", "4", "yes"])
    eight, four = agreements(RunResult(questions, answers), "model", resamples=200)
    assert (eight.budget, four.budget) == (8, 4)
    assert eight.exact.estimate == 0.5
    assert eight.f1.estimate == pytest.approx((0.8 + 1 + 0 + 1) / 4)
    assert eight.changed == (questions[0], questions[2])
    # Of two images with one changed answer each, every draw has half of the answers.
    assert (eight.exact.low, eight.exact.high) == (0.5, 0.5)
    assert (four.exact, four.changed) == (Interval(1.0, 0.0, 1.0), ()), "the rule of three, of two images"


def test_the_smallest_budget_keeps_it_as_all_larger_ones_do() -> None:
    def at(budget: int, share: float) -> Agreement:
        return Agreement(budget, budget, Interval(share, share, share), Interval(1, 1, 1), ())

    found = [at(64, 0.97), at(32, 0.96), at(16, 0.9), at(8, 0.96)]
    kept = smallest_budget(found, 0.95)
    assert kept is not None
    assert kept.budget == 32
    assert smallest_budget(found, 0.98) is None
    assert smallest_budget(found, 0.98, "f1") == found[-1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    return stage(make_llava_checkpoint(folder / "base"), folder / "compared_staged", check=False).path


@pytest.fixture
def compare(model: Path, tmp_path: Path) -> list[str]:
    """The command line for four images of noise, with the answers of words that a random model repeats."""
    (tmp_path / "photos").mkdir()
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{seed}.png")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    given = ["--model", str(model), "--output", str(tmp_path / "out"), "--max-new-tokens", "4"]
    return ["compare", str(tmp_path / "photos"), *given]


def test_images_without_questions_or_labels_are_compared(compare: list[str], tmp_path: Path, capsys: Any) -> None:
    arguments = [*compare, "--budget", "0.5", "1", "--drawings", "2", "--agreement", "0.01"]
    assert main([*arguments, "--json"]) == 0
    told = capsys.readouterr()
    results = json.loads(told.out)
    assert results["resized"] == []
    assert "resized: a crop of LLaVA-1.5 has as many tokens whatever the size of the image" in told.err
    assert json.loads((tmp_path / "out" / "results.json").read_text())["budgets"] == results["budgets"]
    assert (results["images"], results["questions"]) == (4, 12)
    assert [(each["budget"], each["vision_tokens"]) for each in results["budgets"]] == [(0.5, 8), (1, 1)]
    texts = {}
    [path] = (tmp_path / "out").glob("answers-*/00000.jsonl")
    for line in path.read_text().splitlines():
        record = json.loads(line)
        texts[record["budget"], record["question_id"]] = record["text"]
    for each in results["budgets"]:
        changed = sum(texts[each["budget"], number] != texts[None, number] for number in range(1, 13))
        assert len(each["changed"]) == changed
        assert each["exact"]["estimate"] == pytest.approx(1 - changed / 12)
    changed_images = {each["image"] for budget in results["budgets"] for each in budget["changed"]}
    assert len(results["drawings"]) == min(2, len(changed_images)) > 0
    assert [Image.open(path).format for path in results["drawings"]] == ["PNG"] * len(results["drawings"])
    assert [timing["prompt_tokens"] for timing in results["timings"]][1:] == [
        results["timings"][0]["prompt_tokens"] - dropped for dropped in (8, 15)
    ]
    assert main([*arguments, "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.splitlines()[-1].startswith("Smallest budget that keeps 1% (answers that are the same): ")
    assert main([*arguments[:-1], "1", "--quiet"]) == 0
    first, then = capsys.readouterr().out.splitlines()[-2:]
    share, changed = (results["budgets"][0][name] for name in ("exact", "changed"))
    largest = f"the largest, 0.5, keeps {share['estimate']:.1%}."
    assert first == f"No budget here keeps 100% (answers that are the same): {largest}"
    assert then.startswith(f"With it {len(changed)} answers of 12 changed, ")
    assert then.endswith(f"or give --agreement {int(100 * share['estimate']) / 100:g}.")


def test_a_run_that_was_killed_goes_on(compare: list[str], tmp_path: Path, capsys: Any) -> None:
    arguments = [*compare, "--budget", "2", "--batch-size", "2", "--drawings", "0", "--json"]
    assert main(arguments) == 0
    whole = json.loads(capsys.readouterr().out)["budgets"]
    [path] = (tmp_path / "out").glob("answers-*/00000.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:8]) + lines[8][:20])
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["budgets"] == whole
    assert path.read_text().splitlines(keepends=True)[:8] == lines[:8]
    Image.new("RGB", (24, 24)).save(tmp_path / "photos" / "new.png")
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 5, "other images are another run in the same folder"


def test_questions_of_ones_own(compare: list[str], tmp_path: Path, capsys: Any) -> None:
    asked = tmp_path / "asked.csv"
    asked.write_text("image,question\n0.png,Is there a dog?\n3.png,What is it?\n")
    assert main([*compare, "--questions", str(asked), "--budget", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 2
    asked.write_text("video,question\n0.png,Is there a dog?\n")
    assert main([*compare, "--questions", str(asked), "--output", str(tmp_path / "other")]) == 1
    assert "is a LLaVA-1.5, whose videos are not pruned" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--model", "MODEL"], "FOLDER is not a folder: give the one that holds your images."),
        (["compare", "no/such", "--model", "MODEL"], "no/such is not a folder"),
        (["compare", "EMPTY", "--model", "MODEL"], "holds no images: give the folder that holds them."),
    ],
)
def test_what_cannot_be_compared_is_refused(
    arguments: list[str], message: str, model: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"MODEL": str(model), "EMPTY": str(tmp_path / "empty")}
    given = [places.get(argument, argument) for argument in arguments]
    assert main([*given, "--output", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
