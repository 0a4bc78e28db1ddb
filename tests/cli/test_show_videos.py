"""`mmtok show` and `mmtok ask` about videos, on staged models of the families that prune them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_checkpoints import make_chat_checkpoint
from PIL import Image
from small_checkpoints import write_json

import mmtok
from mmtok.apps.answering import load_pipeline, model_inputs
from mmtok.cli.main import main
from mmtok.publish import stage
from mmtok.visuals import read_video

QUESTION = "Is there a snowboard in the image?"
# Frames that the tower reads together.
KINDS = {"llava_onevision": 1, "qwen2_5_vl": 2, "qwen3_vl": 2}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    return stage(make_chat_checkpoint(root / "base", kind), root / f"staged_{kind}", check=False).path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames of noise in 3 seconds."""
    path = tmp_path_factory.mktemp("clips") / "clip.gif"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 24, 48, 3), dtype=np.uint8)
    frames = [Image.fromarray(each) for each in pixels]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=250)
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.torchvision
@pytest.mark.filterwarnings("ignore:Glyph")  # the random model answers in any script
def test_show_and_ask(kind: str, model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    together = KINDS[kind]
    crops = 6 // together
    asked = [clip, QUESTION, "--video", "--frames", "6", "--model", model, "--budget", "all", "3"]
    shown = printed(capsys, "show", *asked, "--output", tmp_path / "kept.png")
    assert shown["video"]["total_frames"] == 12
    assert [frame["index"] for frame in shown["video"]["frames"]] == [0, 2, 4, 6, 8, 10]
    assert [frame["crop"] for frame in shown["video"]["frames"]] == [place // together for place in range(6)]
    full, pruned = shown["selections"]
    tokens = full["vision_tokens_per_frame"][0]
    assert tokens == 4 if kind == "llava_onevision" else tokens > 4
    assert [full["vision_tokens_per_frame"], pruned["vision_tokens_per_frame"]] == [[tokens] * crops, [3] * crops]
    separator = kind == "llava_onevision"
    assert full["vision_tokens"] == tokens * crops + separator
    assert full["prompt_tokens"] - pruned["prompt_tokens"] == (tokens - 3) * crops + separator
    with Image.open(tmp_path / "kept.png") as drawn:
        assert drawn.format == "PNG"
    answers = printed(capsys, "ask", *asked, "--max-new-tokens", "2")
    assert [answer["prompt_tokens"] for answer in answers] == [full["prompt_tokens"], pruned["prompt_tokens"]]
    assert answers[1]["kept"] == pruned["kept"]
    assert main(["show", *map(str, asked), "--answers", "--overwrite", "--output", str(tmp_path / "kept.png")]) == 0
    told = capsys.readouterr().out
    assert "6 of 12 frames are read" in told
    assert f"per {'frame' if together == 1 else 'pair of frames'}" in told


@pytest.mark.torchvision
def test_an_odd_number_of_frames(
    kind: str, model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the last pair there is one frame, which stock reads twice."""
    asked = [clip, QUESTION, "--video", "--frames", "5", "--model", model, "--budget", "2"]
    shown = printed(capsys, "show", *asked, "--output", tmp_path / "kept.png")
    crops = [frame["crop"] for frame in shown["video"]["frames"]]
    assert crops == ([0, 1, 2, 3, 4] if kind == "llava_onevision" else [0, 0, 1, 1, 2])
    assert shown["selections"][0]["vision_tokens_per_frame"] == [2] * (crops[-1] + 1)
    assert shown["video"]["drawn_crops"] == list(range(crops[-1] + 1))


@pytest.mark.torchvision
def test_times_of_the_frames_reach_the_model(kind: str, model: Path, clip: Path) -> None:
    """Every second of 12 frames, of which 4 are shown in a second; a pair of frames is 1 second."""
    pipe = load_pipeline(model)
    inputs = model_inputs(pipe, read_video(clip, 6), QUESTION)
    if kind == "qwen2_5_vl":
        assert [float(seconds) for seconds in inputs["second_per_grid_ts"]] == [1.0]
    prompt = pipe.processor.tokenizer.decode(inputs["input_ids"][0])
    times = [f"<{seconds} seconds>" for seconds in (0.2, 1.2, 2.2)]
    assert all((time in prompt) == (kind == "qwen3_vl") for time in times), prompt


@pytest.mark.torchvision
def test_the_pixels_are_those_of_the_frames(kind: str, model: Path, clip: Path) -> None:
    pipe = load_pipeline(model)
    inputs = model_inputs(pipe, read_video(clip, 6), QUESTION)
    frames = read_video(clip, 6).frames
    stock = pipe.processor.video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
    assert (inputs["pixel_values_videos"] == stock["pixel_values_videos"]).all()


@pytest.mark.torchvision
def test_generate_eval_and_bench_read_videos(
    kind: str, model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside images; multiple choice is scored by the letter."""
    Image.new("RGB", (48, 24), "red").save(clip.parent / "photo.png")
    choices = {"video": clip.name, "question": "Who walks?", "choices": ["a dog", "a cat"], "answer": "a cat"}
    lines = [choices, {"image": "photo.png", "question": QUESTION, "answer": "no"}, {**choices, "answer": "A"}]
    questions = tmp_path / "clips.json"
    questions.write_text(json.dumps(lines))
    given = ["--model", str(model), "--questions", str(questions), "--images", str(clip.parent), "--frames", "4"]
    given += ["--max-new-tokens", "2", "--json", "--quiet"]
    assert main(["generate", *given, "--output", str(tmp_path / "answers.jsonl"), "--budget", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == 0
    answers = [json.loads(line)["answer"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    asked = [str(clip), "Who walks?\nA. a dog\nB. a cat", "--video", "--frames", "4", "--model", str(model), "--json"]
    assert main(["ask", *asked, "--budget", "2", "--max-new-tokens", "2"]) == 0
    [alone] = json.loads(capsys.readouterr().out)
    assert answers[0] == answers[2] == alone["answer"]
    assert main(["eval", *given, "--output", str(tmp_path / "runs"), "--budget", "2"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["tasks"]["clips"]["metric"] == "accuracy"
    full, pruned = results["cells"]
    # Two videos of 4 frames, or 2 pairs of them, with 2 tokens each, and the crops of an image.
    assert pruned["vision_tokens"] < full["vision_tokens"]
    bench = ["bench", *asked, "--repeats", "1", "--max-new-tokens", "2", "--budget", "all", "2"]
    assert main(bench) == 0
    timings = json.loads(capsys.readouterr().out)["timings"]
    assert timings[1]["prompt_tokens"] == alone["prompt_tokens"] < timings[0]["prompt_tokens"]
    selectors = ["eval", *given, "--output", str(tmp_path / "other"), "--methods", "uniform"]
    assert main(selectors) == 1
    assert "clip.gif is a video, and uniform is for images alone: leave it out." in capsys.readouterr().err


def named_model(folder: Path, model_type: str) -> str:
    """A folder of which nothing but the model type is read."""
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": model_type})
    return str(folder)


@pytest.mark.parametrize(
    ("command", "model_type", "title"), [("ask", "tiny", "LLaVA-1.5"), ("show", "mmtok_llava_next", "LLaVA-NeXT")]
)
def test_a_family_that_prunes_no_videos_is_refused_first(
    command: str, model_type: str, title: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = model_type if model_type == "tiny" else named_model(tmp_path / "m", model_type)
    assert main([command, str(clip), QUESTION, "--video", "--model", named]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        f"mmtok {command}: --model {named} is a {title}, whose videos are not pruned: give a model of "
    )
    assert "LLaVA-OneVision, " in said
    assert "Qwen3-VL" in said
    assert said.endswith(", or ask about images.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CLIP", "?", "--frames", "4"], "--frames 4 is for videos: give --video too, or leave it out."),
        (["clip.mp4", "?"], "clip.mp4 is a video: give --video to ask about its frames."),
        (["FOLDER", "?"], "is a folder: give --video to ask about its frames."),
        (["CLIP", "?", "--video", "--model", "no such"], "'no such' is neither a folder nor a Hub id"),
        (["CLIP", "?", "--video", "--model", "MODEL", "--padding", "exclude"], "--padding exclude means nothing for a"),
        (["https://a.b/c.mp4", "?", "--video", "--model", "MODEL"], "is an address, and only files are read: download"),
        (["none.mp4", "?", "--video", "--model", "MODEL"], "none.mp4 cannot be read as a video: No such file"),
    ],
)
@pytest.mark.parametrize("command", ["ask", "show"])
def test_refusals_are_one_sentence(
    command: str,
    arguments: list[str],
    message: str,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmtok.visuals.is_torchvision_available", lambda: True)
    places = {"CLIP": clip, "FOLDER": tmp_path, "MODEL": named_model(tmp_path / "m", "mmtok_qwen3_vl")}
    assert main([command, *(str(places.get(argument, argument)) for argument in arguments)]) == 1
    assert message in capsys.readouterr().err


def test_torchvision_is_named_where_it_is_missing(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmtok.visuals.is_torchvision_available", lambda: False)
    named = named_model(tmp_path / "m", "mmtok_llava_onevision")
    assert main(["show", str(clip), QUESTION, "--video", "--model", named]) == 1
    assert capsys.readouterr().err == (
        "mmtok show: transformers prepares videos with torchvision, which is missing: run "
        f"{mmtok.install_line('video')}.\n"
    )


def test_a_video_needs_two_frames_at_least(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["show", str(clip), QUESTION, "--video", "--frames", "1"])
    assert "'1': give a whole number of at least 2" in capsys.readouterr().err
