"""The page in a real browser. Needs Gradio, selenium and Chromium."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.heavy
pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'mmtok[web]'")
pytest.importorskip("selenium", reason="the browser is driven by selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PATIENCE = 180  # seconds


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """`mmtok demo --web` on a free port."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium and its driver are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("web")
    command = [sys.executable, "-m", "mmtok", "demo", "--web", "--no-check", "--port", str(port)]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path]), "OMP_NUM_THREADS": "1"}
    log = folder / "log.txt"
    with (
        log.open("w") as file,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file) as process,
    ):
        until(lambda: "Running on" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()[-3000:]
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@contextmanager
def browser(address: str, width: int = 1200, height: int = 1400) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        driver.get(address)
        until(lambda: driver.find_elements("css selector", "#question textarea"))
        until(lambda: driver.find_elements("css selector", "#canvas canvas"))
        time.sleep(2)  # the canvas draws its picture after it is there, and says so nowhere
        yield driver
    finally:
        driver.quit()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.2)
    return value


def text_of(driver: Any, name: str) -> str:
    return driver.find_element("css selector", name).text


def answered(driver: Any) -> tuple[str, str]:
    """Waits for both answers and returns their facts."""
    until(lambda: "all after" in text_of(driver, "#pruned-facts") and text_of(driver, "#pruned-answer"))
    time.sleep(0.5)
    return text_of(driver, "#full-facts"), text_of(driver, "#pruned-facts")


def write(driver: Any, question: str) -> Any:
    from selenium.webdriver.common.keys import Keys

    box = driver.find_element("css selector", "#question textarea")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.DELETE)
    box.send_keys(question)
    return box


def keep_screenshot(driver: Any, name: str) -> Path:
    folder = Path(__file__).resolve().parents[1] / "runs" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(folder / f"{name}.png"))
    return folder / f"{name}.png"


def test_click_through(address) -> None:
    """Ask about the picture that is there, then with another budget set by the keyboard."""
    from selenium.webdriver.common.keys import Keys

    with browser(address) as driver:
        driver.find_element("css selector", "#ask").click()
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


def test_mistakes_are_explained(address) -> None:
    with browser(address) as driver:
        write(driver, " ")
        driver.find_element("css selector", "#ask").click()
        until(lambda: "There is no question" in driver.find_element("css selector", "body").text)
        keep_screenshot(driver, "mistake")
        assert not any("vision tokens" in text_of(driver, name) for name in ("#full-facts", "#pruned-facts"))
        write(driver, "Is there a red circle in the image?")
        driver.find_element("css selector", "#ask").click()
        answered(driver)


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
            driver.find_element("css selector", "#ask").click()
        for driver, budget in ((first, "3"), (second, "5")):
            assert answered(driver)[1].startswith(f"{budget} vision tokens")
