"""The page in a real browser. Needs Gradio, selenium and Chromium."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from question_files import png_header
from small_checkpoints import make_llava_next_checkpoint
from web_browser import (
    CHROMIUM,
    CONTRAST,
    DRIVER,
    answered,
    as_seen,
    ask,
    browser,
    keep_screenshot,
    press,
    read_with_all_tokens,
    text_of,
    until,
    upload,
    write,
)

from mmtok.apps import answering
from mmtok.apps.demo import COVERAGE, KNOWS, TIMES, TOO_SMALL, example
from mmtok.apps.page_text import CODE, PAPER, STALE
from mmtok.tiny import checkpoint_path

pytestmark = pytest.mark.heavy
pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'mmtok[web]'")
pytest.importorskip("selenium", reason="the browser is driven by selenium")
OWN = example(7).image  # the image that the page begins with
OTHER = example(3).image
FIRST = example(7).questions[0].text
DESKTOP, PHONE = (1280, 800), (375, 812)


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[str]:
    """`mmtok demo --web` on a free port."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium and its driver are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mmtok", "demo", "--web", "--port", str(port), *arguments]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path]), "OMP_NUM_THREADS": "1"}
    log = folder / "log.txt"
    with (
        log.open("w") as file,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file) as process,
    ):
        try:
            until(lambda: "Running on" in log.read_text() or process.poll() is not None)
            assert process.poll() is None, log.read_text()[-3000:]
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
    assert list(folder.iterdir()) == [log], "a page leaves nothing in the folder where it is started"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The model of the page."""
    return answering.load_pipeline(checkpoint_path())


def answer_of(pipe: Any, image: Image.Image, question: str, budget: int | None = 64) -> str:
    return answering.ask(pipe, image, question, budget).answer


def severe(driver: Any) -> list[dict[str, Any]]:
    return [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_an_answer_is_in_sight_when_the_page_opens(address, pipe, size, theme) -> None:
    """On the first screen, both answers and the button; nothing sticks out; texts have the contrast of WCAG's AA."""
    with browser(f"{address}?__theme={theme}", *size) as driver:
        keep_screenshot(driver, f"opened-{size[0]}-{theme}")
        assert text_of(driver, "#pruned-answer") == answer_of(pipe, OWN, FIRST)
        assert text_of(driver, "#headline") == "64 of 144 vision tokens, 2.2x fewer"
        for name in ("#ask", "#headline", "#pruned-answer", "#full-answer", "#pruned-facts"):
            box = driver.find_element("css selector", name).rect
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= size[0]
            assert box["y"] + box["height"] <= size[1], f"{name} is below the fold"
        assert driver.execute_script("return document.documentElement.scrollWidth") <= size[0]
        texts = (
            ".headline",
            "#pruned-answer .answer",
            "#pruned-facts .facts",
            "#below .note",
            ".card .note",
            ".head p",
        )
        for name in texts:
            element = driver.find_element("css selector", name)
            assert driver.execute_script(CONTRAST, element) >= 4.5, name
        assert not severe(driver)


def test_click_through(address, pipe) -> None:
    """Ask about the image that is there with another budget set by the keyboard, and then another question."""
    from selenium.webdriver.common.keys import Keys

    with browser(address) as driver:
        number = driver.find_element("css selector", "#budget input[type=number]")
        number.send_keys(Keys.CONTROL, "a")
        number.send_keys("8", Keys.TAB)
        until(lambda: text_of(driver, "#headline") == "8 of 144 vision tokens, 18x fewer")
        full, pruned = answered(driver)
        assert pruned.startswith("8 vision tokens")
        prompts = [int(re.search(r"prompt of (\d+)", facts)[1]) for facts in (full, pruned)]
        assert prompts[0] - prompts[1] == 144 - 8
        write(driver, "How many objects are in the image?").send_keys(Keys.ENTER)
        until(lambda: STALE not in text_of(driver, "#headline"))
        answered(driver)
        assert text_of(driver, "#pruned-answer") == answer_of(pipe, OWN, "How many objects are in the image?", 8)
        assert "that they cover: many objects" in text_of(driver, "#below")
        keep_screenshot(driver, "asked")
        assert not severe(driver)


def test_keyboard_alone(address) -> None:
    """The question, the budget and the button are reached with the tab key, and the button is pressed with it."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    with browser(address) as driver:
        driver.execute_script("document.querySelector('#question textarea').focus()")
        reached = []
        for _ in range(8):
            ActionChains(driver).send_keys(Keys.TAB).perform()
            reached.append(
                driver.execute_script(
                    "const a = document.activeElement; return a.closest('#budget') ? 'budget' : a.id || a.tagName"
                )
            )
            if reached[-1] == "ask":
                break
        assert "budget" in reached
        assert reached[-1] == "ask"
        write(driver, "Describe the image.")
        until(lambda: text_of(driver, "#headline") == STALE)
        driver.execute_script("document.querySelector('#ask').focus()")
        ActionChains(driver).send_keys(Keys.ENTER).perform()
        until(lambda: text_of(driver, "#headline").startswith("64 of 144"))
        answered(driver)


def test_an_uploaded_image_is_what_is_asked_about(address, pipe, tmp_path) -> None:
    """Descriptions tell the two images apart: both answers are the model's about the uploaded one."""
    OTHER.save(tmp_path / "other.png")
    question = "Describe the image."
    expected = [answer_of(pipe, OTHER, question, budget) for budget in (None, 64)]
    assert expected[0] != answer_of(pipe, OWN, question, None)
    with browser(address) as driver:
        upload(driver, tmp_path / "other.png")
        until(lambda: text_of(driver, "#headline") == STALE)
        write(driver, question)
        ask(driver)
        keep_screenshot(driver, "uploaded")
        assert [text_of(driver, name) for name in ("#full-answer", "#pruned-answer")] == expected
        seen = read_with_all_tokens(driver)
        assert abs(seen - as_seen(OTHER)).mean() < 6 < abs(seen - as_seen(OWN)).mean()


def test_mistakes_are_explained(address) -> None:
    """No question, then no image: a sentence, no facts, and the next question is answered."""
    with browser(address) as driver:
        write(driver, " ")
        press(driver, "#ask")
        until(lambda: "There is no question" in text_of(driver, "#headline"))
        keep_screenshot(driver, "mistake")
        driver.find_element("css selector", "#image button[aria-label='Remove Image']").click()
        write(driver, "Is there a dog in the image?")
        press(driver, "#ask")
        until(lambda: "There is no image: upload one first." in text_of(driver, "#headline"))
        assert not any("vision tokens" in text_of(driver, name) for name in ("#full-facts", "#pruned-facts"))
        press(driver, "#another")
        answered(driver)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no image", "it is not an image"), (png_header(60_000, 60_000), "it has more than 25,000,000 pixels")],
    ids=["no image", "a bomb"],
)
def test_a_file_that_cannot_be_used(address, tmp_path, content, message) -> None:
    """The answer is a sentence, and an image can be uploaded after it."""
    (tmp_path / "broken.png").write_bytes(content)
    OTHER.save(tmp_path / "other.png")
    with browser(address) as driver:
        upload(driver, tmp_path / "broken.png")
        press(driver, "#ask")
        until(lambda: f"The image cannot be used: {message}" in text_of(driver, "#headline"))
        upload(driver, tmp_path / "other.png")
        press(driver, "#ask")
        answered(driver)
        assert abs(read_with_all_tokens(driver) - as_seen(OTHER)).mean() < 6


def test_the_slider_answers(address) -> None:
    """Moved by a key, without the button: headline, facts and drawing are those of the new budget."""
    from selenium.webdriver.common.keys import Keys

    with browser(address) as driver:
        driver.find_element("css selector", "#budget input[type=range]").send_keys(Keys.ARROW_LEFT)
        until(lambda: text_of(driver, "#headline") == "63 of 144 vision tokens, 2.3x fewer")
        assert answered(driver)[1].startswith("63 vision tokens")


def test_an_example_asks_at_a_click(address, pipe) -> None:
    count = example(7).questions[-1].text
    with browser(address) as driver:
        [button] = [each for each in driver.find_elements("css selector", "#examples button") if each.text == count]
        button.click()
        until(lambda: text_of(driver, "#pruned-answer") == answer_of(pipe, OWN, count))
        answered(driver)
        assert driver.find_element("css selector", "#question textarea").get_attribute("value") == count


def test_what_the_page_says_of_itself(address, pipe) -> None:
    """Links, what the model is, what coverage is, the words that count, and several budgets side by side."""
    with browser(address, *DESKTOP) as driver:
        links = {each.text: each.get_attribute("href") for each in driver.find_elements("css selector", "#head a")}
        assert links == {"paper": PAPER, "code": CODE, "model": f"{CODE}/tree/main/mmtok/tiny"}
        assert text_of(driver, "#notice") == KNOWS["tiny"]
        assert text_of(driver, "#explained") == f"{COVERAGE} {TIMES} {TOO_SMALL}"
        assert "Words of the question that they cover: furniture" in text_of(driver, "#below")
        cards = driver.find_elements("css selector", "#budgets .card")
        assert [card.text.split("\n")[:2] for card in cards] == [
            [f"{kept} vision token{'s' * (kept != '1')}", answer_of(pipe, OWN, FIRST, budget)]
            for kept, budget in (("all 144", None), ("36", 36), ("14", 14), ("7", 7), ("1", 1))
        ]
        assert len({card.rect["y"] for card in cards}) == 1, "side by side"


def test_what_the_centre_crop_cuts_off_is_said(address, tmp_path) -> None:
    wide = Image.new("RGB", (600, 400), "white")
    wide.paste(OTHER.resize((400, 400)), (100, 0))
    wide.save(tmp_path / "wide.png")
    with browser(address) as driver:
        assert "hatched" not in text_of(driver, "#below")
        upload(driver, tmp_path / "wide.png")
        ask(driver)
        told = text_of(driver, "#below")
        assert "400 x 400 pixels alone: 100 pixels are cut off on the left and on the right" in told
        assert "hatched: cut off before the model" in told
        keep_screenshot(driver, "wide")


def test_two_readers_at_once(address) -> None:
    """Two budgets asked for at the same time: each user gets their own."""
    from selenium.webdriver.common.keys import Keys

    with browser(address) as first, browser(address) as second:
        for driver, budget in ((first, "3"), (second, "5")):
            number = driver.find_element("css selector", "#budget input[type=number]")
            number.send_keys(Keys.CONTROL, "a")
            number.send_keys(budget, Keys.TAB)
        for driver, budget in ((first, "3"), (second, "5")):
            until(lambda driver=driver, budget=budget: text_of(driver, "#headline").startswith(f"{budget} of 144"))
            assert answered(driver)[1].startswith(f"{budget} vision tokens")


def test_another_model(tmp_path) -> None:
    """A stock checkpoint in a folder, with a photo and long answers: in ordinary type, and within the screen."""
    base = make_llava_next_checkpoint(tmp_path / "small-next")
    (tmp_path / "web").mkdir()
    with served(tmp_path / "web", "--model", str(base)) as address:
        for size in (DESKTOP, PHONE):
            with browser(address, *size) as driver:
                keep_screenshot(driver, f"another-{size[0]}")
                assert "model small-next" in text_of(driver, "#head")
                assert not driver.find_elements("css selector", "#notice, #another")
                assert "Vision tokens to keep of each crop (of 16)" in text_of(driver, "#budget")
                assert driver.find_elements("css selector", "#pruned-answer .answer:not(.short)")
                box = driver.find_element("css selector", "#pruned-answer").rect
                assert box["y"] + box["height"] <= size[1]
                cards = driver.find_elements("css selector", ".card")
                assert np.ptp([card.rect["x"] for card in cards]) > 100
                assert [card.text.split("\n")[0].split()[-3] for card in cards] == ["88", "20", "10", "5"], "each once"
