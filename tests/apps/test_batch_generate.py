from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image
from question_files import png_header, write_questions
from small_checkpoints import make_llava_checkpoint

from mmtok.apps import batch_generate
from mmtok.apps.answering import ask, load_pipeline
from mmtok.apps.batch_generate import BatchSettings, generate_file
from mmtok.publish import Recipe, stage
from mmtok.record_store import RecordStore

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("batch")
    return str(stage(make_llava_checkpoint(folder / "base"), folder / "batch_staged", check=False).path)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def read_parts(folder: Path) -> dict[int, dict]:
    return {line["line"]: line for path in folder.glob("*.jsonl") for line in read_lines(path)}


@pytest.fixture
def settings(model, tmp_path) -> BatchSettings:
    questions = write_questions(tmp_path, 7)
    return BatchSettings(model, [questions], tmp_path / "answers.jsonl", budget=4, batch_size=3, max_new_tokens=3)


def test_answers_in_order_equal_those_of_single_questions(settings) -> None:
    result = generate_file(settings)
    assert (result.lines, result.resumed, result.errors) == (7, 0, 0)
    pipe = load_pipeline(settings.model)
    for question, line in zip(read_lines(settings.questions[0]), read_lines(settings.output), strict=True):
        image = Image.open(settings.questions[0].parent / question["image"])
        alone = ask(pipe, image, question["question"], 4, max_new_tokens=3)
        assert line == {**question, "answer": alone.answer}
    assert not settings.parts.exists()


@pytest.mark.parametrize("budget", ["model", None, 4])
def test_an_image_runs_through_the_tower_once_for_all_its_questions(settings, monkeypatch, budget) -> None:
    """Three images asked about in turns; without memory for them, each question encodes its own."""
    lines = read_lines(settings.questions[0])
    lines = [{**line, "image": f"{number % 3}.png"} for number, line in enumerate(lines)]
    settings.questions[0].write_text("".join(json.dumps(line) + "\n" for line in lines))
    load, encoded = BatchSettings.load, []

    def load_and_count(settings):
        checkpoint = load(settings)
        checkpoint.model.model.vision_tower.register_forward_pre_hook(lambda _, given: encoded.append(len(given[0])))
        return checkpoint

    monkeypatch.setattr(BatchSettings, "load", load_and_count)
    answers = []
    for memory, images in ((2**20, 3), (0, 7)):
        encoded.clear()
        settings = replace(settings, budget=budget, batch_size=1, image_memory=memory)
        generate_file(settings)
        answers.append(read_lines(settings.output))
        settings.output.unlink()
        assert sum(encoded) == images
    assert answers[0] == answers[1]
    assert [line["id"] for line in answers[0]] == [line["id"] for line in lines]


def test_a_negative_image_memory_is_refused(settings) -> None:
    with pytest.raises(ValueError, match="image_memory is -1: give a number of bytes of at least 0"):
        generate_file(replace(settings, image_memory=-1))


def test_goes_on_where_it_was_cut_off(settings, monkeypatch) -> None:
    """Cut off in the second batch, with a torn line on the disk: the lines that are there are not asked again."""
    asked = []

    def cut_off(settings, checkpoint, cache, batch):
        if asked:
            raise KeyboardInterrupt
        asked.extend(question.question_id for question in batch)
        return answer(settings, checkpoint, cache, batch)

    answer = batch_generate.answer_records
    with monkeypatch.context() as patched:
        patched.setattr(batch_generate, "answer_records", cut_off)
        with pytest.raises(KeyboardInterrupt):
            generate_file(settings)
    assert asked == [1, 2, 3]
    assert not settings.output.exists()
    [part] = settings.parts.glob("*.jsonl")
    with part.open("a", encoding="utf-8") as file:
        file.write('{"line": 4, "answer": "half a li')

    def remembered(settings, checkpoint, cache, batch):
        asked.extend(question.question_id for question in batch)
        return answer(settings, checkpoint, cache, batch)

    monkeypatch.setattr(batch_generate, "answer_records", remembered)
    assert generate_file(settings).resumed == 3
    assert asked == list(range(1, 8))
    assert [line["id"] for line in read_lines(settings.output)] == [f"é{number}" for number in range(7)]


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"budget": 2}, {}, "vision_token_budget was 2 and is 4"),
        ({}, {"pruning_options": {"text_temperature": 0.5}}, "text_temperature was None and is 0.5"),
        ({"pruning_options": {"text_temperature": 0.5}}, {}, "text_temperature was 0.5 and is None"),
        ({}, {"max_new_tokens": 4}, "max_new_tokens was 3 and is 4"),
    ],
)
def test_unfinished_work_of_other_settings_is_refused(settings, before, now, message) -> None:
    RecordStore(settings.parts, replace(settings, **before).fingerprint()).close()
    names = sorted(path.name for path in settings.parts.iterdir())
    with pytest.raises(ValueError, match=f"the answers of another run: {message}. Remove it"):
        generate_file(replace(settings, **now))
    assert sorted(path.name for path in settings.parts.iterdir()) == names


def test_unfinished_work_of_the_same_folder_with_another_model_is_refused(settings, tmp_path) -> None:
    """Staged again under the same name, with another budget, with other weights or with other code."""
    base = make_llava_checkpoint(tmp_path / "base")
    settings = replace(settings, model=str(tmp_path / "model_again"), budget="model")
    contents = set()
    for budget, seed in ((64, 0), (4, 0), (4, 1)):
        base = make_llava_checkpoint(tmp_path / f"base{seed}", seed=seed)
        stage(base, tmp_path / "model_again", Recipe({"vision_token_budget": budget}), check=False, overwrite=True)
        contents.add(settings.fingerprint()["model"])
    with (tmp_path / "model_again" / "coverage.py").open("a") as code:
        code.write("# changed\n")
    assert len(contents | {settings.fingerprint()["model"]}) == 4
    RecordStore(settings.parts, settings.fingerprint()).close()
    stage(base, tmp_path / "model_again", Recipe({"vision_token_budget": 8}), check=False, overwrite=True)
    with pytest.raises(ValueError, match="another run: model was 'sha256 "):
        generate_file(settings)


def test_a_run_on_the_same_output_is_refused(settings) -> None:
    with (
        RecordStore(settings.parts, settings.fingerprint()),
        pytest.raises(ValueError, match=r"Another run is writing to .*answers\.jsonl\.parts"),
    ):
        generate_file(settings)


def test_a_run_that_was_killed_at_its_very_end_is_done(settings, monkeypatch) -> None:
    """The output is written and the parts are there still: the same command says what it did."""
    with monkeypatch.context() as patched:
        patched.setattr(RecordStore, "remove", lambda store: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate_file(settings)
    assert settings.output.exists()
    written = settings.output.read_bytes()
    result = generate_file(settings)
    assert (result.lines, result.resumed, result.errors) == (7, 7, 0)
    assert settings.output.read_bytes() == written
    assert not settings.parts.exists()


def test_options_count_for_every_line(settings) -> None:
    pruning_options = {"vision_coverage_weight": 0.0, "text_temperature": 5.0}
    generate_file(settings)
    plain = read_lines(settings.output)
    chosen = replace(settings, pruning_options=pruning_options, output=settings.output.with_name("chosen.jsonl"))
    generate_file(chosen)
    lines = read_lines(chosen.output)
    pipe = load_pipeline(settings.model)
    for line in lines:
        image = Image.open(settings.questions[0].parent / line["image"])
        assert line["answer"] == ask(pipe, image, line["question"], 4, max_new_tokens=3, **pruning_options).answer
    assert lines != plain


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"pruning_options": {"text_temperature": 0}}])
def test_an_option_out_of_range_is_refused_before_anything(settings, wrong) -> None:
    with pytest.raises(ValueError, match=r"(vision_token_budget|text_temperature) is 0: give"):
        generate_file(replace(settings, model="no-such-model", **wrong))
    assert not settings.parts.exists()


def test_an_output_is_never_overwritten(settings) -> None:
    settings.output.write_text("precious")
    with pytest.raises(ValueError, match="is there already"):
        generate_file(settings)
    assert settings.output.read_text() == "precious"


def kinds(lines: list[dict]) -> str:
    return "".join("e" if "error" in line else "a" for line in lines)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_image_costs_only_its_own_line(settings) -> None:
    (settings.questions[0].parent / "4.png").write_bytes(b"no image")
    (settings.questions[0].parent / "2.png").write_bytes(png_header(60_000, 60_000))
    Image.new("RGB", (300, 1)).save(settings.questions[0].parent / "6.png")
    assert generate_file(settings).errors == 3
    lines = read_lines(settings.output)
    assert kinds(lines) == "aaeaeae"
    assert [sorted(line) for line in lines[3:5]] == [[name, "id", "image", "question"] for name in ("answer", "error")]
    assert (
        lines[4]["error"]
        == "4.png cannot be read as an image: it is not an image, or not one of JPEG, PNG, WEBP, GIF, BMP, TIFF."
    )
    assert "2.png cannot be read as an image: it has more than 89,478,485 pixels" in lines[2]["error"]
    assert "6.png cannot be read as an image: it has 300 x 1 pixels" in lines[6]["error"]


def test_an_image_that_goes_missing_during_the_run_costs_only_its_own_line(settings, monkeypatch) -> None:
    load = BatchSettings.load

    def load_and_remove(settings):
        (settings.folder / "1.png").unlink()
        return load(settings)

    monkeypatch.setattr(BatchSettings, "load", load_and_remove)
    assert generate_file(settings).errors == 1
    assert read_lines(settings.output)[1]["error"] == "1.png cannot be read as an image: No such file or directory."


def refusing(words: str, error: type[Exception]):
    """`batch_inputs`, but of a model that refuses every batch with a question of these words."""
    read = batch_generate.batch_inputs

    def refuse(pipe, questions, images):
        if any(words in question for question in questions):
            raise error("too much of it")
        return read(pipe, questions, images)

    return refuse


@pytest.mark.parametrize("error", [ValueError, torch.OutOfMemoryError])
def test_a_question_that_the_model_refuses_costs_only_its_own_line(settings, monkeypatch, error) -> None:
    monkeypatch.setattr(batch_generate, "batch_inputs", refusing("dog and?", error))  # of line 3 alone
    assert generate_file(settings).errors == 1
    lines = read_lines(settings.output)
    assert kinds(lines) == "aaaeaaa"
    assert lines[3]["error"] == "too much of it"


def test_a_model_that_refuses_everything_ends_the_run(settings, monkeypatch) -> None:
    monkeypatch.setattr(batch_generate, "batch_inputs", refusing("", ValueError))
    with pytest.raises(ValueError, match="too much of it"):
        generate_file(settings)
    assert not settings.output.exists()


def test_fields_of_the_input_that_have_names_of_ours(settings) -> None:
    """An earlier output asked again, with a number for each line: what is copied never counts as ours."""
    lines = [{**line, "line": 99, "error": "old", "answer": "old"} for line in read_lines(settings.questions[0])]
    settings.questions[0].write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert generate_file(settings).errors == 0
    assert [line["line"] for line in read_lines(settings.output)] == [99] * 7
    assert all("error" not in line and line["answer"] != "old" for line in read_lines(settings.output))


def test_a_question_with_a_line_separator_is_one_line(settings) -> None:
    image = {"image": "0.png"}
    lines = [{**image, "question": f"Where is{separator}the dog?"} for separator in "\u2028\x85\u2029"]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\r\n" for line in lines)
    settings.questions[0].write_text("\ufeff" + text, encoding="utf-8", newline="")
    assert generate_file(settings).lines == 3
    assert [line["question"] for line in read_lines(settings.output)] == [line["question"] for line in lines]


GOOD = '{"image": "0.png", "question": "?"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (GOOD + "{", "line 2: it is not JSON"),
        (GOOD + '{"image": "0.png"}', "line 2: give the texts `image` "),
        (GOOD + '{"image": "none.png", "question": "?"}', "line 2: the image 'none.png' is not in "),
        (GOOD + '{"image": "a\\u0000b", "question": "?"}', "line 2: the image 'a.x00b' is not in "),
        (GOOD + '{"image": "", "question": "?"}', "line 2: the image '' is not in "),
        (GOOD + '{"image": "0.png", "question": " "}', "line 2: the question is empty: write one"),
        (GOOD + '{"image": "0.png", "question": "an <image>?"}', "line 2: the question contains <image>, which"),
        (GOOD + '{"image": "0.png", "question": "\\ud800?"}', "line 2: it has half of a surrogate pair"),
        (GOOD + '{"image": "0.png", "question": "?", "note": "\\udfff"}', "line 2: it has half of a surrogate pair"),
    ],
)
def test_bad_lines_are_named_before_anything_is_asked(settings, text, message) -> None:
    settings.questions[0].write_text(text)
    with pytest.raises(ValueError, match=message):
        generate_file(settings)
    assert not settings.parts.exists()


def _both_answered(settings: BatchSettings) -> bool:
    parts = list(settings.parts.glob("*.jsonl"))
    return len(parts) == 2 and all(part.stat().st_size for part in parts)


@pytest.mark.heavy
def test_two_processes_of_which_one_is_killed(model, tmp_path) -> None:
    """Killed with SIGKILL in the middle; the second run completes it, in order, without asking anything twice."""
    questions, output = write_questions(tmp_path, 100), tmp_path / "answers.jsonl"
    settings = BatchSettings(model, [questions], output, budget=4, batch_size=2, max_new_tokens=3)
    # accelerate starts several processes on one machine only under the name of GPUs; without any they use gloo.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "mmtok", "generate"]
    command += ["--model", model, "--questions", str(questions), "--output", str(output), "--json"]
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
    assert (summary["lines"], summary["resumed"], summary["errors"]) == (100, len(before), 0)
    lines = read_lines(output)
    assert [line["id"] for line in lines] == [f"é{number}" for number in range(100)]
    for number, answered in before.items():
        assert lines[number - 1]["answer"] == answered["answer"]


def test_an_image_that_was_replaced_is_asked_about_again(settings, monkeypatch) -> None:
    whole = generate_file(replace(settings, output=settings.output.with_name("whole.jsonl")))
    calls, answer_all = 0, batch_generate.answer_records

    def stopped(*arguments: Any, **given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return answer_all(*arguments, **given)

    with monkeypatch.context() as patched:
        patched.setattr(batch_generate, "answer_records", stopped)
        with pytest.raises(KeyboardInterrupt):
            generate_file(settings)
    other = Image.effect_noise((24, 24), 90).convert("RGB")
    other.save(settings.questions[0].parent / "0.png")
    result = generate_file(settings)
    assert (whole.lines, result.lines, result.resumed) == (7, 7, 5)
    pipe = load_pipeline(settings.model)
    question = read_lines(settings.questions[0])[0]["question"]
    assert read_lines(settings.output)[0]["answer"] == ask(pipe, other, question, 4, max_new_tokens=3).answer


def test_records_that_belong_to_no_line_are_missing(settings) -> None:
    with RecordStore(settings.parts, settings.fingerprint()) as store:
        store.append([{"answer": "x"}, {"line": 99, "answer": "x"}, {"line": "0", "answer": "x"}])
    assert generate_file(settings).resumed == 0
    assert len(read_lines(settings.output)) == 7


def test_images_that_lose_a_part_are_counted(settings) -> None:
    Image.new("RGB", (60, 24), "red").save(settings.questions[0].parent / "2.png")
    assert generate_file(settings).cut_off == 1
    assert "cut_off" not in read_lines(settings.output)[2]
