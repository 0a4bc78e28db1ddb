from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image
from question_files import write_questions
from small_checkpoints import make_llava_checkpoint

from mmtok.apps import batch_generate
from mmtok.apps.answering import ask, load_pipeline
from mmtok.apps.batch_generate import BatchSettings, generate_file, open_part, read_parts, read_questions
from mmtok.publish import stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("batch")
    return str(stage(make_llava_checkpoint(folder / "base"), folder / "batch_staged", check=False).path)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def settings(model, tmp_path) -> BatchSettings:
    questions = write_questions(tmp_path, 7)
    return BatchSettings(model, questions, tmp_path / "answers.jsonl", budget=4, batch_size=3, max_new_tokens=3)


def test_answers_in_order_equal_those_of_single_questions(settings) -> None:
    result = generate_file(settings)
    assert (result.lines, result.resumed, result.errors) == (7, 0, 0)
    pipe = load_pipeline(settings.model)
    for question, line in zip(read_questions(settings.input), read_lines(settings.output), strict=True):
        picture = Image.open(settings.input.parent / question["image"])
        alone = ask(pipe, picture, question["question"], 4, max_new_tokens=3)
        assert line == {**question, "answer": alone.answer}
    assert not settings.parts.exists()


def test_goes_on_where_it_was_cut_off(settings, monkeypatch) -> None:
    """Cut off in the second batch, with a torn line on the disk: the lines that are there are not asked again."""
    asked = []

    def cut_off(pipe, settings, batch):
        if asked:
            raise KeyboardInterrupt
        asked.extend(number for number, _ in batch)
        return answer(pipe, settings, batch)

    answer = batch_generate.answer_lines
    with monkeypatch.context() as patched:
        patched.setattr(batch_generate, "answer_lines", cut_off)
        with pytest.raises(KeyboardInterrupt):
            generate_file(settings)
    assert asked == [0, 1, 2]
    assert not settings.output.exists()
    [part] = settings.parts.glob("*.jsonl")
    with part.open("a", encoding="utf-8") as file:
        file.write('{"line": 3, "answer": "half a li')

    def remembered(pipe, settings, batch):
        asked.extend(number for number, _ in batch)
        return answer(pipe, settings, batch)

    monkeypatch.setattr(batch_generate, "answer_lines", remembered)
    assert generate_file(settings).resumed == 3
    assert asked == list(range(7))
    assert [line["id"] for line in read_lines(settings.output)] == [f"é{number}" for number in range(7)]


def test_unfinished_work_of_other_settings_is_refused(settings) -> None:
    settings.parts.mkdir()
    (settings.parts / "run.json").write_text(json.dumps(replace(settings, budget=2).fingerprint()))
    with pytest.raises(ValueError, match="unfinished work with another vision_token_budget: remove it"):
        generate_file(settings)
    assert [path.name for path in settings.parts.iterdir()] == ["run.json"]


def test_unfinished_work_of_other_knobs_is_refused(settings) -> None:
    """Both ways round: a knob that is new, and one that is no longer given."""
    warmer = replace(settings, knobs={"text_temperature": 0.5})
    for before, now in ((settings, warmer), (warmer, settings)):
        settings.parts.mkdir(exist_ok=True)
        (settings.parts / "run.json").write_text(json.dumps(before.fingerprint()))
        with pytest.raises(ValueError, match="unfinished work with another text_temperature: remove it"):
            generate_file(now)


def test_knobs_count_for_every_line(settings) -> None:
    knobs = {"vision_coverage_weight": 0.0, "text_temperature": 5.0}
    generate_file(settings)
    plain = read_lines(settings.output)
    chosen = replace(settings, knobs=knobs, output=settings.output.with_name("chosen.jsonl"))
    generate_file(chosen)
    lines = read_lines(chosen.output)
    pipe = load_pipeline(settings.model)
    for line in lines:
        picture = Image.open(settings.input.parent / line["image"])
        assert line["answer"] == ask(pipe, picture, line["question"], 4, max_new_tokens=3, **knobs).answer
    assert lines != plain


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"knobs": {"text_temperature": 0}}])
def test_a_knob_out_of_range_is_refused_before_anything(settings, wrong) -> None:
    with pytest.raises(ValueError, match=r"(vision_token_budget|text_temperature) is 0: give"):
        generate_file(replace(settings, model="no-such-model", **wrong))
    assert not settings.parts.exists()


def test_an_output_is_never_overwritten(settings) -> None:
    settings.output.write_text("precious")
    with pytest.raises(ValueError, match="is there already"):
        generate_file(settings)
    assert settings.output.read_text() == "precious"


def test_a_broken_picture_costs_only_its_own_line(settings) -> None:
    (settings.input.parent / "4.png").write_bytes(b"no picture")
    assert generate_file(settings).errors == 1
    lines = read_lines(settings.output)
    assert [sorted(line) for line in lines] == [["answer", "id", "image", "question"]] * 4 + [
        ["error", "id", "image", "question"]
    ] + [["answer", "id", "image", "question"]] * 2
    assert "4.png cannot be read as an image" in lines[4]["error"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "line 1: no JSON"),
        ('{"image": "0.png"}', "line 1: give an object with the texts `image` and `question`"),
        ('{"image": "none.png", "question": "?"}', "line 1: the picture none.png is not there"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_questions(tmp_path / "bad.jsonl")


def test_only_whole_lines_of_parts_count(tmp_path) -> None:
    part = tmp_path / "00000.jsonl"
    part.write_bytes('{"line": 0}\n{"line": 1}\n{"line": 2, "answer": "\u00e9'.encode()[:-1])
    assert sorted(read_parts(tmp_path)) == [0, 1]
    open_part(part).close()
    assert part.read_text() == '{"line": 0}\n{"line": 1}\n'


def _both_answered(settings: BatchSettings) -> bool:
    parts = list(settings.parts.glob("*.jsonl"))
    return len(parts) == 2 and all(part.stat().st_size for part in parts)


@pytest.mark.heavy
def test_two_processes_of_which_one_is_killed(model, tmp_path) -> None:
    """Killed with SIGKILL in the middle; the second run completes it, in order, without asking anything twice."""
    questions, output = write_questions(tmp_path, 100), tmp_path / "answers.jsonl"
    settings = BatchSettings(model, questions, output, budget=4, batch_size=2, max_new_tokens=3)
    # accelerate starts several processes on one machine only under the name of GPUs; without any they use gloo.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "mmtok", "generate"]
    command += ["--model", model, "--input", str(questions), "--output", str(output), "--json"]
    command += ["--budget", "4", "--batch-size", "2", "--max-new-tokens", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 240
        while not _both_answered(settings) and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = psutil.Process(first.pid).children(recursive=True)
        workers[-1].kill()
        assert first.wait(timeout=120) != 0
        assert psutil.wait_procs(workers, timeout=60)[1] == []
    before = read_parts(settings.parts)
    assert 4 <= len(before) < 100
    assert not output.exists()

    second = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr[-2000:]
    summary = json.loads(second.stdout)
    assert summary == {"lines": 100, "resumed": len(before), "errors": 0, "output": str(output)}
    lines = read_lines(output)
    assert [line["id"] for line in lines] == [f"é{number}" for number in range(100)]
    for number, answered in before.items():
        assert lines[number]["answer"] == answered["answer"]
