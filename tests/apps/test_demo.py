from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_checkpoints import make_llava_checkpoint

from mmtok.apps import answering, demo
from mmtok.apps.answering import ask, counted, fewer, load_pipeline, stream_answer
from mmtok.apps.demo import SPEEDUPS, example
from mmtok.cli.main import main
from mmtok.image_cache import EncodedImageCache
from mmtok.publish import stage

ROOT = Path(__file__).resolve().parents[2]


TOKENS = 144


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> demo.Demo:
    return demo.run_demo(folder=tmp_path_factory.mktemp("demo") / "demo_staged", check=False, calls=1)


def test_three_questions_with_every_budget(shown) -> None:
    assert [len(row) for row in shown.answers] == [len(demo.BUDGETS)] * 3
    what, absent, count = shown.example.questions
    assert what.answer in shown.example.shown
    assert absent.name not in shown.example.shown
    assert (absent.answer, count.answer) == ("no", str(len(shown.example.shown)))
    for row in shown.answers:
        text = row[0].full_prompt_tokens - TOKENS
        assert [answer.vision_tokens for answer in row] == [TOKENS, 16, 4]
        assert [answer.prompt_tokens for answer in row] == [text + answer.vision_tokens for answer in row]
        coverage = [answer.coverage for answer in row]
        assert coverage[0] == pytest.approx(1.0)
        assert coverage == sorted(coverage, reverse=True)


ANSWERED_BY = """
import sys
from mmtok.apps.demo import run_demo
print(run_demo(folder=sys.argv[1], check=False, calls=1).model_class)
"""


def test_the_remote_code_of_the_staged_folder_answers(tmp_path: Path) -> None:
    # In a process of its own: here another test may have registered the classes of the package.
    command = [sys.executable, "-c", ANSWERED_BY, tmp_path / "demo_staged"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    answered_by = ended.stdout.splitlines()[-1]
    assert answered_by.startswith("transformers_modules.")
    assert answered_by.endswith("MMTokLlavaForConditionalGeneration")


def test_table_and_json_say_the_same(shown) -> None:
    table = demo.demo_table(shown)
    assert table.row_count == 9
    values = demo.as_json(shown)
    columns = [list(column.cells) for column in table.columns]
    flat = [answer for question in values["questions"] for answer in question["answers"]]
    assert columns[4] == [f"{answer['prompt_tokens']} of {answer['full_prompt_tokens']}" for answer in flat]
    assert json.loads(json.dumps(values)) == values


def test_figure_shows_every_answer(shown) -> None:
    told = [text.get_text() for text in shown.figure.texts]
    assert told.count("all 144 tokens") == told.count("budget 16: 16 of 144 tokens") == 3
    assert told.count("budget 4: 4 of 144 tokens") == 3
    assert len([axes for axes in shown.figure.axes if axes.images]) == 9


def test_the_picture_of_the_readme_is_what_the_demo_draws(shown, tmp_path) -> None:
    """`make picture` writes it. Compared as thumbnails: fonts and the last bits of colours differ between machines."""
    shown.figure.savefig(tmp_path / "demo.png", dpi=demo.DPI)
    drawn, kept = (
        np.asarray(Image.open(path).convert("RGB").resize((120, 160))).astype(int)
        for path in (tmp_path / "demo.png", ROOT / "docs" / "images" / "demo.png")
    )
    assert abs(drawn - kept).mean() < 2
    assert "docs/images/demo.png" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_embedded_model_breaks_at_a_budget_of_the_demo(shown) -> None:
    """What `mmtok demo` shows: questions for one thing survive, the count of all of them does not."""
    right = [
        [answer.answer == question.answer for answer in row]
        for question, row in zip(shown.example.questions, shown.answers, strict=True)
    ]
    assert all(row[0] for row in right), "with all vision tokens the demo has to be right"
    assert not all(row[-1] for row in right), "with four vision tokens the demo has to show where it ends"
    sentence = demo.where_it_breaks(shown)
    broken = [question.text for question, row in zip(shown.example.questions, right, strict=True) if not all(row)]
    assert re.findall("“(.*?)” breaks at", sentence) == broken
    assert re.search(r"breaks at \d+ vision tokens?, with a coverage of \d+\.\d%", sentence)


def test_nothing_is_said_to_break_where_nothing_does(shown) -> None:
    same = tuple(
        tuple(replace(answer, answer=question.answer) for answer in row)
        for question, row in zip(shown.example.questions, shown.answers, strict=True)
    )
    assert demo.where_it_breaks(replace(shown, answers=same)).startswith("No answer that is right")


def test_the_speedups_that_are_told_are_those_that_were_measured() -> None:
    results = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    measured = [
        case
        for name in ("prefill-cpu-full", "prefill-cpu-next")
        for case in json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["measured"]
    ]
    found = {case["model"]: round(case["mmtok_times_faster"]["1"], 1) for case in measured}
    assert {model: times for model, (_, _, times) in SPEEDUPS.items()} == found
    for case in measured:
        kept, total, _ = SPEEDUPS[case["model"]]
        assert case["prompt_tokens"]["stock"] - case["prompt_tokens"]["mmtok"] in (total - kept, total - kept + 48)


def test_an_answer_is_the_pipelines_and_an_image_is_encoded_once(tmp_path) -> None:
    staged = stage(make_llava_checkpoint(tmp_path / "base"), tmp_path / "once_staged", check=False)
    pipe = load_pipeline(staged.path)
    image, question = example(3).image, "Where is the dog?"
    chat = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
    expected = []
    for budget in (None, 4):
        given = {"vision_token_budget": budget, "max_new_tokens": 5, "do_sample": False}
        [record] = pipe([chat], return_full_text=False, generate_kwargs=given)
        expected.append((record[0] if isinstance(record, list) else record)["generated_text"].strip())
    inputs = answering.model_inputs(pipe, image, question)
    answers = answering.answer_inputs(pipe, inputs, question, (None, 4), max_new_tokens=5, calls=3)
    assert [answer.answer for answer in answers] == expected
    inputs = EncodedImageCache(pipe.model).inputs(inputs)
    pipe.model.model.vision_tower.register_forward_pre_hook(lambda *_: pytest.fail("the image was encoded again"))
    again = answering.answer_inputs(pipe, inputs, question, (None, 4), max_new_tokens=5)
    assert [answer.answer for answer in again] == expected
    assert expected == [list(stream_answer(pipe, inputs, budget, max_new_tokens=5))[-1].text for budget in (None, 4)]


def test_a_stock_checkpoint_answers_as_the_staged_one(tmp_path) -> None:
    base = make_llava_checkpoint(tmp_path / "stock_base")
    staged = stage(base, tmp_path / "stock_staged", check=False)
    image = example(3).image
    answers = [
        ask(load_pipeline(model), image, "Where is the dog?", 4, max_new_tokens=5) for model in (base, staged.path)
    ]
    assert answers[0].answer == answers[1].answer
    assert answers[0].selection.words == answers[1].selection.words == ("dog",)
    assert answers[0].selection.indices.tolist() == answers[1].selection.indices.tolist()


def test_answers_with_other_options(tmp_path) -> None:
    """An option given for one call reaches both the generation and the record of what was kept."""
    staged = stage(make_llava_checkpoint(tmp_path / "base"), tmp_path / "options_staged", check=False)
    pipe = load_pipeline(staged.path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    plain = ask(pipe, image, "Where is the dog?", 4, max_new_tokens=2)
    image_alone = ask(pipe, image, "Where is the dog?", 4, max_new_tokens=2, text_coverage_weight=0.0)
    assert float(plain.selection.text_gain.sum()) > 0
    assert float(image_alone.selection.text_gain.sum()) == 0
    assert plain.prompt_tokens == image_alone.prompt_tokens == plain.full_prompt_tokens - 12


def test_the_command_writes_its_drawing(tmp_path, capsys) -> None:
    output = tmp_path / "shown.png"
    given = ["--folder", str(tmp_path / "command_staged"), "--output", str(output), "--no-check"]
    assert main(["demo", *given, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert Path(values["image"]) == output
    assert Image.open(output).format == "PNG"


def test_another_model_is_for_the_page(capsys) -> None:
    assert main(["demo", "--model", "./llava-mmtok"]) == 1
    assert "--model ./llava-mmtok is for the page: give --web too" in capsys.readouterr().err


def test_one_of_a_noun_has_no_s() -> None:
    assert [counted(number, "line") for number in (0, 1, 2, 2880)] == ["0 lines", "1 line", "2 lines", "2,880 lines"]


@pytest.mark.parametrize(
    ("kept", "total", "text"),
    [
        (8, 144, "18x fewer"),
        (64, 144, "2.2x fewer"),
        (144, 144, "all of them"),
        (0, 144, "none of them"),
        (100, 1000, "10x fewer"),
        (101, 1000, "9.9x fewer"),
    ],
)
def test_how_many_times_fewer(kept, total, text) -> None:
    assert fewer(kept, total) == text
