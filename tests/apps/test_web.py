"""The page in a real browser. Needs Gradio, selenium and Chromium."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from web_browser import (
    CHROMIUM,
    DRIVER,
    answered,
    as_seen,
    browser,
    draw,
    keep_screenshot,
    press,
    shown_picture,
    text_of,
    until,
    upload,
    write,
)

from mmtok.apps.answering import ask, load_pipeline
from mmtok.apps.embedded import example

pytestmark = pytest.mark.heavy
pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'mmtok[web]'")
pytest.importorskip("selenium", reason="the browser is driven by selenium")
OWN = example(7).image  # the picture that the page begins with
OTHER = example(3).image
NO_PICTURE = "There is no picture, or the file was none: upload a PNG, JPEG or WebP, paste one, or draw."


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """`mmtok demo --web` on a free port, and the folder of its model."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium and its driver are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("web")
    command = [sys.executable, "-m", "mmtok", "demo", "--web", "--no-check", "--port", str(port)]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path]), "OMP_NUM_THREADS": "1"}
    log = folder / "log.txt"
    with (
        log.open("w") as file,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file) as process,
    ):
        until(lambda: "Running on" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()[-3000:]
        yield f"http://127.0.0.1:{port}", folder / "demo-model"
        process.terminate()


@pytest.fixture(scope="module")
def address(page) -> str:
    return page[0]


@pytest.fixture(scope="module")
def pipe(page) -> Any:
    """The model that the page has loaded."""
    return load_pipeline(page[1])


def test_click_through(address) -> None:
    """Ask about the picture that is there, then with another budget set by the keyboard."""
    from selenium.webdriver.common.keys import Keys

    with browser(address) as driver:
        press(driver, "#ask")
        full, pruned = answered(driver)
        tokens = int(re.match(r"(\d+) vision tokens", full)[1])
        assert pruned.startswith("8 vision tokens")
        prompts = [int(re.search(r"prompt of (\d+)", facts)[1]) for facts in (full, pruned)]
        assert prompts[0] - prompts[1] == tokens - 8
        assert np.asarray(Image.open(keep_screenshot(driver, "answered"))).std() > 10
        number = driver.find_element("css selector", "#budget input[type=number]")
        number.send_keys(Keys.CONTROL, "a")
        number.send_keys("4", Keys.TAB)
        write(driver, "How many objects are in the image?").send_keys(Keys.ENTER)
        until(lambda: text_of(driver, "#pruned-facts").startswith("4 vision tokens"))
        answered(driver)
        errors = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not errors


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
        ActionChains(driver).send_keys(Keys.ENTER).perform()
        assert "vision tokens" in answered(driver)[1]


def test_an_uploaded_picture_is_what_is_asked_about(address, pipe, tmp_path) -> None:
    """Descriptions tell the two pictures apart: both answers are the model's about the uploaded one."""
    OTHER.save(tmp_path / "other.png")
    question = "Describe the image."
    expected = [ask(pipe, OTHER, question, budget).answer for budget in (None, 8)]
    assert expected[0] != ask(pipe, OWN, question, None).answer
    with browser(address) as driver:
        upload(driver, tmp_path / "other.png")
        write(driver, question)
        press(driver, "#ask")
        answered(driver)
        keep_screenshot(driver, "uploaded")
        places = [driver.find_element("css selector", name).rect for name in ("#full-picture", "#pruned-picture")]
        assert places[0]["y"] == places[1]["y"], "answers of different lengths push the pictures apart"
        assert [text_of(driver, name) for name in ("#full-answer", "#pruned-answer")] == expected
        seen = shown_picture(driver, "#full-picture")
        assert abs(seen - as_seen(OTHER)).mean() < 4 < abs(seen - as_seen(OWN)).mean()


def test_what_is_drawn_is_asked_about(address, pipe) -> None:
    """A red stroke over the page's own picture, where the model saw no red bar before."""
    question = "Is there a red bar in the image?"
    assert ask(pipe, OWN, question, None).answer == "no"
    with browser(address) as driver:
        draw(driver, (-80, 60), (80, 60))
        write(driver, question)
        press(driver, "#ask")
        answered(driver)
        keep_screenshot(driver, "drawn")
        assert text_of(driver, "#full-answer") == "yes"
        seen = shown_picture(driver, "#full-picture")
    new = _is_red(seen) & ~_is_red(as_seen(OWN))
    assert new.sum() > 300
    rows, columns = np.nonzero(new)
    assert np.ptp(columns) > 2 * np.ptp(rows)


def _is_red(picture: np.ndarray) -> np.ndarray:
    """Where a picture has the first colour of the brush."""
    return abs(picture - (220, 40, 40)).max(axis=-1) < 30


def test_mistakes_are_explained(address) -> None:
    """No question, then no picture: a sentence, no facts, and the next question is answered."""
    with browser(address) as driver:
        write(driver, " ")
        press(driver, "#ask")
        until(lambda: "There is no question" in text_of(driver, "body"))
        keep_screenshot(driver, "mistake")
        press(driver, "#canvas button[aria-label='Clear canvas']")
        until(lambda: "Upload an image" in text_of(driver, "#canvas"))
        write(driver, "Is there a red circle in the image?")
        press(driver, "#ask")
        until(lambda: NO_PICTURE in text_of(driver, "body"))
        keep_screenshot(driver, "cleared")
        assert not any("vision tokens" in text_of(driver, name) for name in ("#full-facts", "#pruned-facts"))
        press(driver, "#another")
        until(lambda: "Upload an image" not in text_of(driver, "#canvas"))
        press(driver, "#ask")
        answered(driver)


def test_a_file_that_is_no_picture(address, tmp_path) -> None:
    """The canvas stays empty, the answer is a sentence, and a picture can be uploaded after it."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    OTHER.save(tmp_path / "other.png")
    with browser(address) as driver:
        upload(driver, tmp_path / "broken.png")
        press(driver, "#ask")
        until(lambda: NO_PICTURE in text_of(driver, "body"))
        keep_screenshot(driver, "no-picture")
        upload(driver, tmp_path / "other.png")
        press(driver, "#ask")
        answered(driver)
        assert abs(shown_picture(driver, "#full-picture") - as_seen(OTHER)).mean() < 4


def test_pictures_are_sent_once(pipe) -> None:
    """Gradio writes a file for each, and a browser that reads it meanwhile shows a broken picture."""
    from mmtok.apps.web import answer_both

    parts = list(answer_both(pipe, OWN, "Describe the image.", 4, max_new_tokens=8))
    assert len(parts) > 3
    assert [[isinstance(part[place], Image.Image) for place in (2, 5)] for part in parts] == [
        [number == 0] * 2 for number in range(len(parts))
    ]


def test_phone(address) -> None:
    """At 375 pixels everything is in one column and nothing sticks out."""
    with browser(address, width=375, height=812) as driver:
        widths = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert widths[0] <= widths[1] == 375
        button = driver.find_element("css selector", "#ask")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        answered(driver)
        boxes = [driver.find_element("css selector", name).rect for name in ("#full-picture", "#pruned-picture")]
        assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 375 for box in boxes)
        keep_screenshot(driver, "phone")


def test_two_readers_at_once(address) -> None:
    """Two budgets asked for at the same time: each reader gets their own."""
    from selenium.webdriver.common.keys import Keys

    with browser(address) as first, browser(address) as second:
        for driver, budget in ((first, "3"), (second, "5")):
            number = driver.find_element("css selector", "#budget input[type=number]")
            number.send_keys(Keys.CONTROL, "a")
            number.send_keys(budget, Keys.TAB)
        for driver in (first, second):
            press(driver, "#ask")
        for driver, budget in ((first, "3"), (second, "5")):
            assert answered(driver)[1].startswith(f"{budget} vision tokens")
