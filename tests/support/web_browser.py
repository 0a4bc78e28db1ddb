"""Chromium on the page of `mmtok demo --web`: what the tests in `test_web.py` do in it and read from it."""

from __future__ import annotations

import io
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PATIENCE = 180  # seconds
SCREENSHOTS = Path(__file__).resolve().parents[2] / "runs" / "screenshots"


@contextmanager
def browser(address: str, width: int = 1200, height: int = 1400) -> Iterator[Any]:
    """A window of its own with the page loaded and its image drawn."""
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
        until(lambda: seen_on_canvas(driver).std() > 10)
        canvas_rests(driver)
        yield driver
    finally:
        driver.quit()


def until(condition: Callable[[], Any]) -> Any:
    """The first value that is something. Conditions look elements up anew: Gradio replaces them as it likes."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            value = condition()
        except (NoSuchElementException, StaleElementReferenceException):
            value = None
        if value:
            return value
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.2)


def text_of(driver: Any, name: str) -> str:
    return driver.find_element("css selector", name).text


def press(driver: Any, name: str) -> None:
    driver.find_element("css selector", name).click()


def answered(driver: Any) -> tuple[str, str]:
    """Waits for both answers, the drawing and the table of budgets, and returns the facts."""

    def told(name: str) -> bool:
        # While an answer goes on, Gradio lays how long it takes over the facts.
        return "all after" in (facts := text_of(driver, f"#{name}-facts")) and "processing" not in facts

    until(lambda: told("pruned") and told("full"))
    until(lambda: "coverage" in text_of(driver, "#budgets"))
    loaded = "const i = document.querySelector('#pruned-image img'); return i && i.complete && i.naturalWidth > 0"
    until(lambda: driver.execute_script(loaded))
    return text_of(driver, "#full-facts"), text_of(driver, "#pruned-facts")


def read_with_all_tokens(driver: Any) -> np.ndarray:
    """What the model reads with all vision tokens, as 96 x 96 pixels."""
    address = until(lambda: driver.find_element("css selector", "#full-image img").get_attribute("src"))
    with urllib.request.urlopen(address) as answer:
        return as_seen(Image.open(io.BytesIO(answer.read())))


def as_seen(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((96, 96), Image.Resampling.BOX)).astype(int)


def write(driver: Any, question: str) -> Any:
    from selenium.webdriver.common.keys import Keys

    box = driver.find_element("css selector", "#question textarea")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.DELETE)
    box.send_keys(question)
    return box


def upload(driver: Any, file: Path) -> None:
    """Through the file input behind the button; waits until the canvas shows something else."""
    before = seen_on_canvas(driver)
    driver.find_element("css selector", "#canvas input[type=file]").send_keys(str(file))
    until(lambda: (seen_on_canvas(driver) != before).any())
    canvas_rests(driver)


def draw(driver: Any, start: tuple[int, int], end: tuple[int, int]) -> None:
    """A stroke with the mouse button held, in pixels from the middle of the canvas."""
    from selenium.webdriver.common.action_chains import ActionChains

    before = seen_on_canvas(driver)
    canvas = driver.find_elements("css selector", "#canvas canvas")[-1]
    half = ((end[0] - start[0]) // 2, (end[1] - start[1]) // 2)
    stroke = ActionChains(driver).move_to_element_with_offset(canvas, *start).click_and_hold()
    stroke.move_by_offset(*half).move_by_offset(*half).release().perform()
    until(lambda: (seen_on_canvas(driver) != before).any())
    canvas_rests(driver)


def seen_on_canvas(driver: Any) -> np.ndarray:
    """Pixels of the middle of the canvas, without tools and labels."""
    image = Image.open(io.BytesIO(driver.find_element("css selector", "#canvas").screenshot_as_png)).convert("RGB")
    left, top = image.width // 2 - 80, image.height // 2 - 80
    return np.asarray(image.crop((left, top, left + 160, top + 160))).astype(int)


def canvas_rests(driver: Any) -> None:
    """The canvas says nowhere that it is done: two looks half a second apart see the same."""

    def rests() -> bool:
        before = seen_on_canvas(driver)
        time.sleep(0.5)
        return bool((seen_on_canvas(driver) == before).all())

    until(rests)


def keep_screenshot(driver: Any, name: str) -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))
    return SCREENSHOTS / f"{name}.png"
