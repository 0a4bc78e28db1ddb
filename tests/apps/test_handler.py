"""What the handler of an endpoint refuses, in a ValueError that names it: every bad value, what is over a limit."""

from __future__ import annotations

import base64
import io
import random
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_checkpoints import make_chat_checkpoint
from PIL import Image
from question_files import png_header
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint
from transformers import AutoProcessor

from configuration_mmtok import PruningOptions
from mmtok.hub.handler import FORMATS, EndpointHandler, Limits, Video, decoded, inputs_of, open_image, open_video
from mmtok.publish import stage

INFINITY, NAN = float("inf"), float("nan")
ODD: list[Any] = [
    None, True, -1, 0, 1.5, 2**63, 10**400, -0.5, 1e-300, 1e39, NAN, INFINITY, -INFINITY, "", "x", "4", "\ud800",
    [], [4], [None], {}, {"a": 1},
]  # fmt: skip
# What of these is right.
FIT: dict[str, list[Any]] = {
    "do_sample": [True],
    "min_new_tokens": [0],
    "stop_strings": ["x", "4"],
    "vision_token_budget": [None, 2**63, 10**400, 1e-300],
    "text_coverage_depth": [2**63, 10**400],
    "coverage_target": [None, 1e-300],
    "image_scale": [None, 1e-300],  # which means nothing for LLaVA
    "covered_text": [None, "x", "4"],
    "question_format": [None, {}],
    "padding": ["exclude", "include"],
    "text_coverage_weight": [0],
    "vision_coverage_weight": [0],
    "top_k": [],
    "max_time": [1.5],
    "repetition_penalty": [1.5],
    "temperature": [1.5],
    "text_temperature": [1.5],
    "vision_temperature": [1.5],
}
OPTIONS = [each.name for each in fields(PruningOptions)]
SETTINGS = [
    "do_sample", "max_new_tokens", "max_time", "min_new_tokens", "num_beams", "repetition_penalty", "stop_strings",
    "temperature", "top_k", "top_p",
]  # fmt: skip


def fits(name: str, value: Any) -> bool:
    weight = name.endswith("_weight") and value == 1.5
    return weight or any(value is each or (type(value) is type(each) and value == each) for each in FIT.get(name, []))


CASES = [(name, value) for name in (*OPTIONS, *SETTINGS) for value in ODD if not fits(name, value)]


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> EndpointHandler:
    root = tmp_path_factory.mktemp("handler")
    folder = stage(make_llava_checkpoint(root / "base"), root / "staged", check=False).path
    return EndpointHandler(str(folder), images=3, pixels=10_000, image_bytes=50_000, characters=100, questions=2)


def encoded(size: tuple[int, int] = (24, 24), kind: str = "PNG") -> str:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def asked(**parameters: Any) -> dict[str, Any]:
    return {"inputs": {"image": encoded(), "question": "Is there a dog?"}, "parameters": parameters}


def test_there_are_as_many_cases_as_were_tried() -> None:
    assert len(CASES) >= 247


@pytest.mark.parametrize(("name", "value"), CASES, ids=lambda value: repr(value)[:20])
def test_a_bad_value_is_named(handler: EndpointHandler, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*: give "):
        handler(asked(**{name: value}))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_new_tokens": 9, "max_new_tokens": 4}, "min_new_tokens is 9, more than max_new_tokens, 4"),
        ({"min_new_tokens": 400}, "min_new_tokens is 400, more than max_new_tokens, 256"),
        ({"text_coverage_weight": 0, "vision_coverage_weight": 0}, "are both 0, which leaves nothing to cover"),
        ({"logits_processor": 1}, "parameters has 'logits_processor': give some of "),
        ({"\x1b[2K": 1}, r"parameters has '\x1b[2K': give some of "),
        ({"ignored_token_ids": [1]}, "parameters has 'ignored_token_ids'"),
    ],
)
def test_parameters_that_do_not_go_together(handler: EndpointHandler, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        handler(asked(**parameters))


def chat(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


IMAGE = {"type": "image", "image": encoded()}
TEXT = {"type": "text", "text": "Is there a dog?"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([chat(IMAGE, TEXT)] * 3, "inputs has 3 questions: give at most 2 (the limit questions)"),
        (chat(*[IMAGE] * 4, TEXT), "A question has 4 images: give at most 3 (the limit images)"),
        (chat(IMAGE, {"type": "text", "text": "x" * 100}), "A question has 101 characters: give at most 100"),
        (chat(IMAGE, *[{"type": "text", "text": ""}] * 101), "A question has 101 characters: give at most 100"),
        (chat({"type": "image", "image": encoded((101, 100))}), "101 x 100 pixels, more than 10,000: scale it down"),
        (
            chat(*[{"type": "image", "image": encoded((60, 60))}] * 3),
            "have 10,800 pixels: give at most",
        ),
        (chat({"type": "image", "image": "A" * 80_000}), "The images and videos of the request have 60,000 bytes"),
        ([chat({"type": "image", "image": encoded((98, 98))})] * 2, "The images and videos of the request have "),
        (chat(IMAGE, {"type": "text", "text": "\ud800"}), "has half of a surrogate pair"),
        (chat({"type": "image", "image": "\u00e4"}), "it is not in base64"),
        (chat({"type": ["text"]}), "A part of a message is of type ['text']"),
    ],
)
def test_what_is_over_a_limit_is_refused(handler: EndpointHandler, inputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        handler({"inputs": inputs})


def test_nothing_is_answered_before_all_of_a_request_is_checked(
    handler: EndpointHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(*_: Any, **__: Any) -> None:
        raise AssertionError("a question was answered")

    monkeypatch.setattr(handler, "pipeline", answered)
    with pytest.raises(ValueError, match="An image cannot be read: it has 9000 x 9000 pixels"):
        handler({"inputs": [chat(IMAGE, TEXT), chat({"type": "image", "image": _header(9000, 9000)}, TEXT)]})


def progressive_jpeg(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is there many times; each is read over the whole image."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + scan * scans + b"\xff\xd9"


def tiled_tiff(side: int) -> bytes:
    """A TIFF of 8 x 8 pixels in one tile of many."""
    data, bits = zlib.compress(bytes(side * side * 3)), struct.pack("<HHH", 8, 8, 8)
    tags = {256: 8, 257: 8, 258: 8 + len(data), 259: 8, 262: 2, 277: 3, 284: 1, 322: side, 323: side, 324: 8}
    entries = [struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, tags[tag]) for tag in tags]
    entries.append(struct.pack("<HHII", 325, 4, 1, len(data)))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data) + len(bits)) + data + bits + directory


def image(file: bytes) -> tuple[str, list[bytes]]:
    return "image", [file]


def test_a_file_that_takes_too_long_to_decode_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("longer to decode than 1 seconds (the limit decode_seconds)")):
        decoded([[image(progressive_jpeg(2000, 20_000))]], Limits(decode_seconds=1))
    assert decoded([[image(progressive_jpeg(20, 1))]], Limits())[0].size == (20, 20)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process")
def test_a_file_that_takes_too_much_memory_is_refused() -> None:
    assert decoded([[image(tiled_tiff(16))]], Limits())[0].size == (8, 8)
    with pytest.raises(ValueError, match="An image cannot be read: "):
        decoded([[image(tiled_tiff(16_000))]], Limits(pixels=10_000, image_bytes=1_000_000))


def test_a_decoder_that_fails_is_an_unreadable_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ValueError, match="An image cannot be read: its decoder ended with code 1"):
        decoded([[image(base64.b64decode(encoded()))]], Limits())


def test_an_answer_ends_after_the_seconds_that_it_may_take(
    handler: EndpointHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, seen = handler.pipeline.model.generate, []

    def recorded(**named: Any) -> Any:
        output = generate(**named)
        seen.append((named["max_time"], output.shape[1] - named["input_ids"].shape[1]))
        return output

    monkeypatch.setattr(handler.pipeline.model, "generate", recorded)
    handler(asked(max_new_tokens=2, min_new_tokens=2))
    handler(asked(max_new_tokens=1000, min_new_tokens=1000, max_time=0.01))
    assert seen[0] == (120, 2)
    assert seen[1][0] == 0.01
    assert 0 < seen[1][1] < 1000
    with pytest.raises(ValueError, match=r"max_time is 121: give a number from 0\.01 to 120"):
        handler(asked(max_time=121))


def animation(count: int, size: tuple[int, int] = (24, 20), kind: str = "GIF") -> bytes:
    """Frames of the grays 0, 20, 40, ..., 4 a second."""
    frames, file = [Image.new("RGB", size, (20 * number,) * 3) for number in range(count)], io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=250, lossless=True)
    return file.getvalue()


def film(value: Any) -> dict[str, Any]:
    return {"type": "video", "video": value}


def in_base64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def test_frames_of_videos_are_decoded() -> None:
    """Evenly chosen ones of a file, all of a list, beside an image; the second question is only looked at."""
    stills = [base64.b64decode(encoded((8, 6))) for _ in range(3)]
    first = [("video", [animation(10)]), image(base64.b64decode(encoded((5, 4)))), ("frames", stills)]
    moving, still, listed = decoded([first, [("video", [animation(3)])]], Limits(frames=4))
    assert isinstance(moving, Video)
    assert (moving.indices, moving.total, moving.fps) == ((0, 2, 5, 7), 10, 4.0)
    assert [frame.getpixel((3, 3)) for frame in moving.frames] == [(20 * index,) * 3 for index in moving.indices]
    assert still.size == (5, 4)
    assert isinstance(listed, Video)
    assert (listed.indices, listed.total, listed.seconds) == ((0, 1, 2), 3, [0.0, 1.0, 2.0])
    assert [frame.tobytes() for frame in listed.frames] == [open_image(io.BytesIO(file)).tobytes() for file in stills]


BAD_VIDEOS: list[tuple[list[Any], str]] = [
    ([film(4)], "A video is 4, not a text: give it in base64"),
    ([film("\u00e4")], "A video cannot be read: it is not in base64"),
    ([film([encoded(), None])], "A frame is None, not a text: give it in base64"),
    ([film([encoded()] * 9)], "A video has 9 frames: give at most 8 (the limit frames)"),
    ([film([])], "A video cannot be read: it has 0 frames of no pixels: give at least 2, of one size"),
    ([film([encoded(), encoded((8, 8))])], "it has 2 frames of 24 x 24 and 8 x 8 pixels: give at least 2, of one size"),
    ([film([encoded((60, 60))] * 3)], "The images and frames of a question have 10,800 pixels: give at most 10,000"),
    ([film(in_base64(animation(2))), film(in_base64(animation(2)))], "A question has 2 videos: give at most 1"),
    ([film(encoded())], "A video cannot be read: it has a single frame: ask about it as an image"),
    ([film(in_base64(animation(4, (60, 60))))], "4 frames of 60 x 60 pixels have more than 10,000: read at most 2, or"),
    ([film("A" * 80_000)], "The images and videos of the request have 60,000 bytes"),
    (
        [{"type": "video_url", "video_url": {"url": "https://x.org/a.mp4"}}],
        "A video cannot be read: it is not in base64",
    ),
    ([{"type": "video_url", "video_url": "data:video/mp4;base64,"}], "A part of a message is of type 'video_url'"),
]


@pytest.mark.parametrize(("parts", "message"), BAD_VIDEOS)
def test_videos_that_cannot_be_used_are_refused(
    handler: EndpointHandler, parts: list[Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="A model of type mmtok_llava does not prune videos: ask about images"):
        handler({"inputs": chat(*parts, TEXT)} if "url" not in str(parts) else {"inputs": {"video": 4, "question": ""}})
    monkeypatch.setattr(handler, "no_videos", "")
    with pytest.raises(ValueError, match=re.escape(message)):
        handler({"inputs": chat(*parts, TEXT)})


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_videos_are_a_refusal_or_frames(kind: str) -> None:
    source, right, ended = random.Random(kind), animation(4, kind=kind), set()
    for _ in range(60):
        content = bytearray(right)
        for _ in range(source.choice([1, 5, 50])):
            content[int(len(content) * source.random())] = source.randrange(256)
        try:
            video = open_video(io.BytesIO(content), 3, 10_000)
        except ValueError:
            ended.add("refused")
        else:
            assert len(video.frames) == len(video.indices) <= 3
            ended.add("read")
    assert "refused" in ended


@pytest.mark.torchvision
@pytest.mark.parametrize("kind", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_questions_about_videos_are_answered(kind: str, tmp_path: Path) -> None:
    """As `generate` answers about the same frames. A file that would lead PyAV to other files is refused."""
    base = make_chat_checkpoint(tmp_path / "base", kind)
    handler = EndpointHandler(str(stage(base, tmp_path / "staged", check=False).path))
    model, processor = handler.pipeline.model, handler.pipeline.processor
    clip, ask = animation(12, (48, 24)), {"max_new_tokens": 8, "vision_token_budget": 3}
    inputs = inputs_of(processor, chat({"type": "video"}, TEXT)["messages"], [open_video(io.BytesIO(clip), 8)])
    expected = processor.decode(
        model.generate(**inputs, **ask)[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    ).strip()
    for question in (
        chat({"type": "video_url", "video_url": {"url": f"data:image/gif;base64,{in_base64(clip)}"}}, TEXT),
        {"video": in_base64(clip), "question": TEXT["text"]},
    ):
        assert handler({"inputs": question, "parameters": ask}) == [{"generated_text": expected}]
    frames = [encoded((48, 24))] * 4
    [answer] = handler({"inputs": chat(IMAGE, film(frames), TEXT), "parameters": ask})
    assert isinstance(answer["generated_text"], str)
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    with pytest.raises(ValueError, match=r"A video cannot be read: PyAV says: Invalid .*: give a whole MP4"):
        handler({"inputs": {"video": in_base64(playlist), "question": "What is there?"}})


@pytest.mark.torchvision
def test_a_video_file_that_is_damaged_ends_in_a_refusal() -> None:
    import av

    file, source = io.BytesIO(), random.Random(0)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for number in range(10):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 32), (20 * number,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    right = file.getvalue()
    [video] = decoded([[("video", [right])]], Limits(frames=4))
    assert isinstance(video, Video)
    assert (video.indices, video.fps, video.frames[0].size) == ((0, 2, 5, 7), 8.0, (64, 32))
    for _ in range(12):
        content = bytearray(right)
        for _ in range(source.choice([1, 5, 50])):
            content[int(len(content) * source.random())] = source.randrange(256)
        with suppress(ValueError):
            assert isinstance(decoded([[("video", [bytes(content)])]], Limits(frames=4))[0], Video)


@pytest.mark.parametrize("make", [make_llava_checkpoint, make_llava_next_checkpoint])
def test_inputs_are_those_of_the_chat_template(make: Callable[[Path], Path], tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(make(tmp_path / "base"))
    picture = open_image(io.BytesIO(base64.b64decode(encoded())))
    for last in ([], [{"role": "assistant", "content": [{"type": "text", "text": "There is"}]}]):
        messages = [{"role": "user", "content": [{"type": "image", "image": picture}, TEXT]}, *last]
        expected = processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=not last,
            continue_final_message=bool(last),
        )
        made = inputs_of(processor, messages, [picture])
        assert made.keys() == expected.keys()
        assert all(torch.equal(made[name], expected[name]) for name in made)


def _header(width: int, height: int) -> str:
    return base64.b64encode(png_header(width, height)).decode()


def test_what_is_within_the_limits_is_answered(handler: EndpointHandler) -> None:
    answers = handler({"inputs": [chat(*[IMAGE] * 3, TEXT), chat(IMAGE, TEXT)], "parameters": {"max_new_tokens": 2}})
    assert [list(answer) for answer in answers] == [["generated_text"]] * 2
    assert handler(asked(max_new_tokens=2, temperature=1, do_sample=True, top_p=1, num_beams=2, min_new_tokens=1))


def changed(value: Any, source: random.Random) -> Any:
    """A JSON value with one part of it replaced, left out or there twice; of images some bytes."""
    if isinstance(value, (dict, list)) and value and source.random() < 0.9:
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        key = source.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        if source.random() < 0.1:
            del copy[key]
        elif source.random() < 0.1 and isinstance(copy, list):
            copy.append(copy[key])
        else:
            copy[key] = changed(copy[key], source)
        return copy
    if isinstance(value, str) and len(value) > 200 and source.random() < 0.8:
        content = bytearray(base64.b64decode(encoded(kind=source.choice(FORMATS))))
        for _ in range(source.choice([0, 1, 5, 50])):
            content[int(len(content) * source.random() ** 3)] = source.randrange(256)
        return base64.b64encode(bytes(content[: source.choice([len(content), len(content) // 2])])).decode()
    return source.choice(ODD)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.filterwarnings("ignore")
def test_random_requests(handler: EndpointHandler, seed: int, request: pytest.FixtureRequest) -> None:
    """A ValueError or answers; the next request is answered as before."""
    right = asked(max_new_tokens=2)
    valid = handler(right)
    for number in range(100 if request.config.getoption("--fuzz") else 4):
        source = random.Random(f"{seed} {number}")
        options = {name: source.choice([*FIT.get(name, []), *ODD]) for name in source.sample(OPTIONS + SETTINGS, 2)}
        data: Any = {
            "inputs": source.choice([right["inputs"], chat(IMAGE, TEXT), [chat(IMAGE, IMAGE, TEXT), chat(TEXT)]]),
            "parameters": {"max_new_tokens": 2} | (options if source.random() < 0.5 else {}),
        }
        for _ in range(source.randrange(3)):
            data = changed(data, source)
        try:
            answers = handler(data)
        except ValueError:
            continue
        assert all(isinstance(answer["generated_text"], str) for answer in answers)
    assert handler(right) == valid


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"images": 0}, "The limit images is 0: give a whole number of at least 1"),
        ({"pixels": None}, "The limit pixels is None"),
        ({"beams": True}, "The limit beams is True"),
        ({"beems": 4}, "handler_limits is {'beems': 4}: give an object with some of questions, images, frames, pixels"),
        ([4], "handler_limits is [4]"),
    ],
)
def test_limits_are_checked(limits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Limits.of(limits)


def test_the_configuration_sets_limits(tmp_path: Path) -> None:
    from misuse_cases import edit_json

    folder = stage(make_llava_checkpoint(tmp_path / "base"), tmp_path / "staged", check=False, link_weights=False).path
    edit_json(folder / "config.json", handler_limits={"new_tokens": 3, "beams": 1})
    handler = EndpointHandler(str(folder))
    assert handler.limits == Limits(new_tokens=3, beams=1)
    with pytest.raises(ValueError, match="max_new_tokens is 4: give a whole number from 1 to 3"):
        handler(asked(max_new_tokens=4))
    assert handler(asked())


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_that_are_read(kind: str) -> None:
    assert open_image(io.BytesIO(base64.b64decode(encoded(kind=kind)))).size == (24, 24)


@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "PCX", "TGA"])
def test_other_formats_are_refused_and_no_other_program_is_started(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("another program was started")

    monkeypatch.setattr(subprocess, "check_call", started)
    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(ValueError, match="it is not an image, or not one of JPEG, PNG, WEBP, GIF, BMP, TIFF"):
        open_image(io.BytesIO(base64.b64decode(encoded(kind=kind))))
