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
    read_with_all_tokens,
    text_of,
    until,
    upload,
    write,
)

from mmtok.apps.answering import ask, load_pipeline
from mmtok.apps.demo import COVERAGE, KNOWS, TIMES, TOO_SMALL, example
from mmtok.apps.page_text import CODE, PAPER, answer
from mmtok.image_cache import EncodedImageCache

pytestmark = pytest.mark.heavy
pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'mmtok[web]'")
pytest.importorskip("selenium", reason="the browser is driven by selenium")
OWN = example(7).image  # the image that the page begins with
OTHER = example(3).image
NO_IMAGE = "There is no image, or the file was none: upload a PNG, JPEG or WebP, paste one, or draw."


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
        try:
            until(lambda: "Running on" in log.read_text() or process.poll() is not None)
            assert process.poll() is None, log.read_text()[-3000:]
            yield f"http://127.0.0.1:{port}", folder / "demo-model"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def address(page) -> str:
    return page[0]


@pytest.fixture(scope="module")
def pipe(page) -> Any:
    """The model that the page has loaded."""
    return load_pipeline(page[1])


def test_click_through(address) -> None:
    """Ask about the image that is there, then with another budget set by the keyboard."""
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


def test_an_uploaded_image_is_what_is_asked_about(address, pipe, tmp_path) -> None:
    """Descriptions tell the two images apart: both answers are the model's about the uploaded one."""
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
        assert [text_of(driver, name) for name in ("#full-answer", "#pruned-answer")] == expected
        seen = read_with_all_tokens(driver)
        assert abs(seen - as_seen(OTHER)).mean() < 4 < abs(seen - as_seen(OWN)).mean()


def test_what_is_drawn_is_asked_about(address, pipe) -> None:
    """A red stroke over the page's own image hides the sandwich, which the model saw before."""
    question = "Is there a sandwich in the image?"
    assert ask(pipe, OWN, question, None).answer == "yes"
    with browser(address) as driver:
        draw(driver, (-80, 60), (80, 60))
        write(driver, question)
        press(driver, "#ask")
        answered(driver)
        keep_screenshot(driver, "drawn")
        assert text_of(driver, "#full-answer") == "no"
        seen = read_with_all_tokens(driver)
    new = _is_red(seen) & ~_is_red(as_seen(OWN))
    assert new.sum() > 300
    rows, columns = np.nonzero(new)
    assert np.ptp(columns) > 2 * np.ptp(rows)


def _is_red(image: np.ndarray) -> np.ndarray:
    """Where an image has the first colour of the brush."""
    return abs(image - (220, 40, 40)).max(axis=-1) < 30


def test_mistakes_are_explained(address) -> None:
    """No question, then no image: a sentence, no facts, and the next question is answered."""
    with browser(address) as driver:
        write(driver, " ")
        press(driver, "#ask")
        until(lambda: "There is no question" in text_of(driver, "body"))
        keep_screenshot(driver, "mistake")
        press(driver, "#canvas button[aria-label='Clear canvas']")
        until(lambda: "Upload an image" in text_of(driver, "#canvas"))
        write(driver, "Is there a dog in the image?")
        press(driver, "#ask")
        until(lambda: NO_IMAGE in text_of(driver, "body"))
        keep_screenshot(driver, "cleared")
        assert not any("vision tokens" in text_of(driver, name) for name in ("#full-facts", "#pruned-facts"))
        press(driver, "#another")
        until(lambda: "Upload an image" not in text_of(driver, "#canvas"))
        press(driver, "#ask")
        answered(driver)


def test_a_file_that_is_no_image(address, tmp_path) -> None:
    """The canvas stays empty, the answer is a sentence, and an image can be uploaded after it."""
    (tmp_path / "broken.png").write_bytes(b"no image")
    OTHER.save(tmp_path / "other.png")
    with browser(address) as driver:
        upload(driver, tmp_path / "broken.png")
        press(driver, "#ask")
        until(lambda: NO_IMAGE in text_of(driver, "body"))
        keep_screenshot(driver, "no-image")
        upload(driver, tmp_path / "other.png")
        press(driver, "#ask")
        answered(driver)
        assert abs(read_with_all_tokens(driver) - as_seen(OTHER)).mean() < 4


def test_drawings_are_sent_once(pipe) -> None:
    """Gradio writes a file for each, and a browser that reads it meanwhile shows a broken image."""
    from mmtok.apps.page_answers import answers

    cache = EncodedImageCache(pipe.model)
    parts = list(answers(pipe, cache, OWN, "Describe the image.", 4, max_new_tokens=8))
    assert len(parts) > 4
    assert [[isinstance(part[place], Image.Image) for place in (3, 6)] for part in parts] == [
        [number == 1] * 2 for number in range(len(parts))
    ]


def test_the_page_runs_an_image_through_the_tower_once(pipe) -> None:
    """Whatever is asked and with which budget; the answers are those of calls that encode it."""
    from mmtok.apps.page_answers import answers

    images: list[int] = []
    cache = EncodedImageCache(pipe.model)
    hook = pipe.model.model.vision_tower.register_forward_pre_hook(lambda _, given: images.append(len(given[0])))
    shown = []
    try:
        for question, budget in (("Describe the image.", 4), ("Describe the image.", 9), ("Is there a circle?", 9)):
            full, _, _, pruned, *_ = list(answers(pipe, cache, OWN, question, budget, max_new_tokens=8))[-2][1:]
            shown.append((question, budget, full, pruned))
    finally:
        hook.remove()
    assert images == [1]
    for question, budget, full, pruned in shown:
        expected = [ask(pipe, OWN, question, chosen, max_new_tokens=8).answer for chosen in (None, budget)]
        assert [full, pruned] == [answer(text) for text in expected]


def test_the_slider_answers(address) -> None:
    """Moved by a key, without the button: headline, facts and drawing are those of the new budget."""
    from selenium.webdriver.common.keys import Keys

    with browser(address) as driver:
        press(driver, "#ask")
        answered(driver)
        assert text_of(driver, "#headline") == "8 of 144 vision tokens, 18x fewer"
        driver.find_element("css selector", "#budget input[type=range]").send_keys(Keys.ARROW_LEFT)
        until(lambda: text_of(driver, "#headline") == "7 of 144 vision tokens, 21x fewer")
        assert answered(driver)[1].startswith("7 vision tokens")


def test_a_changed_question_marks_the_answer_as_old(address) -> None:
    with browser(address) as driver:
        press(driver, "#ask")
        answered(driver)
        box = write(driver, "What animal is in the image?")
        until(lambda: text_of(driver, "#headline").startswith("The question has changed"))
        box.send_keys("\n")
        until(lambda: text_of(driver, "#headline").startswith("8 of 144"))
        answered(driver)


def test_an_example_asks_at_a_click(address, pipe) -> None:
    count = example(7).questions[-1].text
    with browser(address) as driver:
        [button] = [each for each in driver.find_elements("css selector", "#examples button") if each.text == count]
        button.click()
        answered(driver)
        assert driver.find_element("css selector", "#question textarea").get_attribute("value") == count
        assert text_of(driver, "#pruned-answer") == ask(pipe, OWN, count, 8).answer


def test_what_the_page_says_of_itself(address, pipe) -> None:
    """Links, what the model is, what coverage is, the legend beside the drawing, and several budgets side by side."""
    question = example(7).questions[0].text
    with browser(address, width=1280, height=800) as driver:
        links = {each.text: each.get_attribute("href") for each in driver.find_elements("css selector", "#head a")}
        assert links == {"paper": PAPER, "code": CODE, "model": f"{CODE}/tree/main/mmtok/tiny"}
        assert KNOWS in text_of(driver, "#head")
        assert f"{COVERAGE} {TIMES}" in text_of(driver, "#explained")
        assert TOO_SMALL in text_of(driver, "#explained")
        press(driver, "#ask")
        answered(driver)
        legend, drawing, headline, answer = (
            driver.find_element("css selector", name).rect
            for name in ("#legend", "#pruned-image", "#headline", "#pruned-answer")
        )
        assert legend["x"] >= drawing["x"] + drawing["width"]
        assert legend["y"] < drawing["y"] + drawing["height"]
        assert headline["y"] < answer["y"] + answer["height"] <= 800, "the answer is below the fold"
        rows = driver.find_elements("css selector", "#budgets tr")
        assert [row.text.split()[:2] for row in rows[1:]] == [
            ["all", "144"],
            *([str(tokens), ask(pipe, OWN, question, tokens).answer] for tokens in (36, 14, 7, 1)),
        ]
        keep_screenshot(driver, "desktop")


def test_what_the_centre_crop_cuts_off_is_said(address, tmp_path) -> None:
    wide = Image.new("RGB", (600, 400), "white")
    wide.paste(OTHER.resize((400, 400)), (100, 0))
    wide.save(tmp_path / "wide.png")
    with browser(address) as driver:
        press(driver, "#ask")
        answered(driver)
        assert not text_of(driver, "#cut-off").strip()
        upload(driver, tmp_path / "wide.png")
        press(driver, "#ask")
        until(lambda: "400 x 400 pixels alone: 100 pixels on the left and on the right" in text_of(driver, "#cut-off"))


def test_phone(address) -> None:
    """At 375 pixels everything is in one column, nothing sticks out, and the answer is one scroll away."""
    with browser(address, width=375, height=812) as driver:
        widths = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert widths[0] <= widths[1] == 375
        button = driver.find_element("css selector", "#ask")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        answered(driver)
        names = ("#canvas", "#headline", "#pruned-answer", "#pruned-image", "#legend")
        boxes = [driver.find_element("css selector", name).rect for name in names]
        assert [box["y"] for box in boxes] == sorted(box["y"] for box in boxes)
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 375 for box in boxes)
        assert boxes[2]["y"] + boxes[2]["height"] <= 2 * 812
        driver.execute_script("window.scrollTo(0, 812)")
        keep_screenshot(driver, "phone")


def test_two_readers_at_once(address) -> None:
    """Two budgets asked for at the same time: each user gets their own."""
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
