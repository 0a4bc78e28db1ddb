"""The page without a browser: its slider, what it is sent past its controls, uploads, and what a question shows."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chat_checkpoints import make_chat_checkpoint
from PIL import Image
from question_files import png_header
from small_checkpoints import make_llava_checkpoint

from configuration_mmtok import MMTokLlavaConfig, MMTokLlavaNextConfig, MMTokQwen3VLConfig
from mmtok.apps.answering import ask, load_pipeline
from mmtok.apps.demo import example
from mmtok.image_cache import EncodedImageCache

gr = pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'mmtok[web]'")
from mmtok.apps import page, page_text  # noqa: E402

TOKENS = page.BudgetControl("", 144, 64)
PERCENT = page.BudgetControl("", 100, 20.0, percent=True)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> Any:
    return load_pipeline(make_llava_checkpoint(tmp_path_factory.mktemp("page") / "base"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return str(path)


def shown(pipe: Any, path: Any, question: Any = "Is there a dog?", value: Any = 4, kind: str = "image") -> list[Any]:
    """What the page yields."""
    control = page.BudgetControl.of(pipe.model.config)
    return list(page.answers(pipe, EncodedImageCache(pipe.model), control, kind, path, question, value))


def refused(path: Any, question: Any = "Is there a dog?", value: Any = 4, kind: str = "image") -> str:
    told = page.answers(None, None, TOKENS, kind, path, question, value)  # type: ignore[arg-type]
    first, second = told
    assert first == page.CLEARED
    assert second[1:] == page.CLEARED[1:]
    return str(second[0])


@pytest.mark.parametrize("value", [None, "x", "", "4", 0, -1, 1.5, float("nan"), float("inf"), True, [], {"a": 1}])
def test_budgets_that_are_none(value: Any, photo: str) -> None:
    assert "udget is " in refused(photo, value=value)


@pytest.mark.parametrize(
    "question", [None, "", "  ", 4, [], "\ud800", "x" * 20_001], ids=lambda value: repr(value)[:20]
)
def test_questions_that_are_none(question: Any, photo: str) -> None:
    assert "question" in refused(photo, question)


def written(content: bytes | Image.Image) -> Any:
    def write(folder: Path) -> str:
        path = folder / "upload.png"
        path.write_bytes(content) if isinstance(content, bytes) else content.save(path)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("kind", "upload", "message"),
    [
        ("image", lambda _: None, "There is no image: upload one first."),
        ("image", lambda _: {"path": "/etc/passwd"}, "There is no image: upload one first."),
        ("video", lambda _: None, "There is no video: upload one first."),
        ("image", written(b"no image"), "it is not an image, or not one of JPEG"),
        ("image", written(png_header(60_000, 60_000)), "more than 25,000,000"),
        ("image", written(png_header(5001, 5000)), "it has 5001 x 5000 pixels, more than 25,000,000"),
        ("image", written(Image.new("RGB", (1000, 4))), "one side over 200 times the other"),
        ("image", written(bytes(32_000_001)), "The image has more than 32,000,000 bytes"),
        ("video", written(Image.new("RGB", (24, 24))), "The video cannot be used: it has a single frame"),
    ],
)  # fmt: skip
def test_uploads_that_cannot_be_used(kind: str, upload: Any, message: str, tmp_path: Path) -> None:
    told = refused(upload(tmp_path), kind=kind)
    assert message in told
    assert str(tmp_path) not in told


def test_gradio_decodes_no_upload(pipe: Any, tmp_path: Path) -> None:
    """It hands over the file, which can be anything; a data URI, which is not a file, is none."""
    image = component(page.build_page(pipe), "image")
    for content in (b"no image", png_header(60_000, 60_000)):
        path = written(content)(tmp_path)
        assert image.preprocess(SimpleNamespace(path=path, url=None, orig_name="a.png")) == path
    assert image.preprocess(SimpleNamespace(path=None, url="data:image/png;base64,AAAA")) is None
    assert image.preprocess(None) is None


VISION = {"image_size": 24, "patch_size": 6}


@pytest.mark.parametrize(
    ("config", "expected", "budget"),
    [
        (MMTokLlavaConfig(vision_config=VISION, vision_token_budget=8), (16, 8, False), 8),
        (MMTokLlavaConfig(vision_config=VISION), (16, 16, False), 16),  # 64 of its 16 tokens
        (MMTokLlavaConfig(vision_config=VISION, vision_token_budget=None), (16, 16, False), 16),
        (MMTokLlavaConfig(vision_config=VISION, vision_token_budget=0.25), (100, 25.0, True), 0.25),
        (MMTokLlavaConfig(vision_config=VISION, vision_token_budget=0.5), (100, 50.0, True), 0.5),
        (MMTokLlavaNextConfig(vision_config=VISION, vision_token_budget=3), (16, 3, False), 3),
        (MMTokQwen3VLConfig(), (100, 20.0, True), 0.2),
        (MMTokQwen3VLConfig(vision_token_budget=None), (100, 100.0, True), 1.0),
        (MMTokQwen3VLConfig(vision_token_budget=128), (1024, 128, False), 128),
    ],
)
def test_the_slider_begins_at_the_models_own_budget(config: Any, expected: tuple[Any, ...], budget: Any) -> None:
    control = page.BudgetControl.of(config)
    assert (control.most, control.own, control.percent) == expected
    chosen = control.budget(control.own)
    assert (chosen, type(chosen)) == (budget, type(budget))
    assert control.budget(float(control.own)) == budget, "JSON has one kind of number"


def test_the_outputs_grow_and_drawings_are_sent_once(pipe: Any, photo: str) -> None:
    """Gradio writes a file for each, and a browser that reads it meanwhile shows a broken image."""
    parts = shown(pipe, photo, "Describe the image.")
    assert len(parts) > 6
    assert [isinstance(part[5], Image.Image) for part in parts] == [number == 1 for number in range(len(parts))]
    image = Image.open(photo)
    expected = [ask(pipe, image, "Describe the image.", budget).answer for budget in (None, 0.25, 0.1, 0.05, 1)]
    assert all(page_text.answer(answer) in parts[-1][7] for answer in expected)
    below = parts[1][6]
    assert "Words of the question that they cover: describe image." in below.lower().replace("words", "Words")
    assert "10 pixels are cut off on the left" in below
    assert "hatched: cut off before the model" in below


def test_an_image_runs_through_the_tower_once(pipe: Any, photo: str) -> None:
    """Whatever is asked and with which budget."""
    cache, control = EncodedImageCache(pipe.model), page.BudgetControl.of(pipe.model.config)
    images: list[int] = []
    hook = pipe.model.model.vision_tower.register_forward_pre_hook(lambda _, given: images.append(len(given[0])))
    try:
        for question, budget in (("Describe the image.", 4), ("Describe the image.", 9), ("Is there a circle?", 9)):
            list(page.answers(pipe, cache, control, "image", photo, question, budget))
    finally:
        hook.remove()
    assert images == [1]


def component(built: Any, name: str) -> Any:
    [found] = [block for block in built.blocks.values() if getattr(block, "elem_id", None) == name]
    return found


@pytest.mark.parametrize("embedded", [False, True])
def test_an_answer_is_there_when_it_opens(embedded: bool, pipe: Any) -> None:
    """At the model's own budget; drawn images and their questions are for the embedded model alone."""
    built = page.build_page(pipe, embedded=embedded)
    question, drawn = component(built, "question").value, [each.text for each in example(7).questions]
    assert (question in drawn) == embedded
    assert component(built, "notice").visible == component(built, "another").visible == embedded
    image = example(7).image if embedded else Image.open(gr.get_image("cheetah1.jpg")).convert("RGB")
    expected = ask(pipe, image, question, 16).answer
    assert component(built, "pruned-answer").value == page_text.answer(expected)
    assert ">16 of 16 vision tokens, all of them<" in component(built, "headline").value
    numbers = re.findall(r'class="card"><b>(?:all )?(\d+)', component(built, "budgets").value)
    assert numbers == ["16", "4", "2", "1"]  # 5 % of 16 tokens and 1 token are one card
    assert component(built, "budget").value == 16
    assert not [block for block in built.blocks.values() if isinstance(block, gr.Tab)], "LLaVA-1.5 prunes no videos"


@pytest.mark.torchvision
def test_a_video_is_asked_about(tmp_path: Path) -> None:
    pipe = load_pipeline(make_chat_checkpoint(tmp_path / "base", "qwen3_vl"))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 24, 48, 3), dtype=np.uint8)
    frames = [Image.fromarray(each) for each in pixels]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=250)
    parts = shown(pipe, str(tmp_path / "clip.gif"), "What moves?", 50, kind="video")
    assert "8 of 12 frames are read in 4 pairs" in parts[1][6]
    assert parts[-1][7].count('class="card"') == 5
    built = page.build_page(pipe)
    assert [block.label for block in built.blocks.values() if isinstance(block, gr.Tab)] == ["Image", "Video"]


def test_the_queue_is_bounded(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions are answered and 32 wait; what is asked then is refused."""
    import httpx

    asked, end = threading.Semaphore(0), threading.Event()
    built = page.build_page(pipe)

    def answers(*_: Any, **__: Any) -> Iterator[tuple[Any, ...]]:
        asked.release()
        end.wait(60)
        yield page.CLEARED

    monkeypatch.setattr(page, "answers", answers)
    _, address, _ = page.serve(built, prevent_thread_lock=True, quiet=True)
    [endpoint] = [each["id"] for each in built.config["dependencies"] if each["api_name"] == "ask"]

    def ask_again(number: int) -> Any:
        given = ["image", None, None, "Is there a dog?", 4]
        data = {"data": given, "fn_index": endpoint, "session_hash": f"s{number}"}
        return httpx.post(f"{address}gradio_api/queue/join", json=data, timeout=60)

    try:
        assert [ask_again(number).status_code for number in range(2)] == [200, 200]
        assert all(asked.acquire(timeout=60) for _ in range(2))
        found = [ask_again(number) for number in range(2, 40)]
        assert [each.status_code for each in found] == [200] * 32 + [503] * 6
        assert "Queue is full" in found[-1].text
    finally:
        end.set()
        gr.close_all(verbose=False)
