"""Chromium on the page of `mmtok demo --web`: what the tests in `test_page_browser.py` do in it and read from it."""

from __future__ import annotations

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PATIENCE = 60  # seconds
SCREENSHOTS = Path(__file__).resolve().parents[2] / "runs" / "screenshots"
# Contrast ratio of WCAG 2 of an element's text with what is behind it.
CONTRAST = """
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const luminance = color => color.slice(0, 3).map(value => value / 255)
    .map(share => share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4)
    .reduce((sum, share, channel) => sum + share * [0.2126, 0.7152, 0.0722][channel], 0);
let behind = arguments[0], color = [0, 0, 0, 0];
while (behind && color[3] === 0) {
    color = rgb(getComputedStyle(behind).backgroundColor);
    if (color.length === 3) color.push(1);
    behind = behind.parentElement;
}
const pair = [luminance(rgb(getComputedStyle(arguments[0]).color)), luminance(color)].sort((a, b) => a - b);
return (pair[1] + 0.05) / (pair[0] + 0.05);
"""


@contextmanager
def browser(address: str, width: int = 1200, height: int = 1400) -> Iterator[Any]:
    """A window of its own with the page loaded."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        driver.get(address)
        answered(driver)
        until(lambda: loaded(driver, "#image img"))
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
    button = driver.find_element("css selector", name)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def loaded(driver: Any, name: str) -> bool:
    """Whether an image is there and drawn."""
    script = "const i = document.querySelector(arguments[0]); return i && i.complete && i.naturalWidth > 0"
    return bool(driver.execute_script(script, name))


def answered(driver: Any) -> tuple[str, str]:
    """Waits for both answers, the drawing and the budgets side by side, and returns the facts."""

    def told(name: str) -> bool:
        # While an answer goes on, Gradio lays how long it takes over the facts.
        return "all after" in (facts := text_of(driver, f"#{name}-facts")) and "processing" not in facts

    until(lambda: told("pruned") and told("full") and "coverage" in text_of(driver, "#budgets"))
    until(lambda: loaded(driver, "#pruned-image img"))
    return text_of(driver, "#full-facts"), text_of(driver, "#pruned-facts")


def ask(driver: Any, name: str = "#ask") -> tuple[str, str]:
    """Presses a button that asks, and waits for the new answers."""
    before = driver.find_element("css selector", "#budgets .card")
    press(driver, name)
    until(lambda: _gone(before))
    return answered(driver)


def _gone(element: Any) -> bool:
    from selenium.common.exceptions import StaleElementReferenceException

    try:
        return not element.is_displayed()
    except StaleElementReferenceException:
        return True


def read_with_all_tokens(driver: Any) -> np.ndarray:
    """What the model reads with all vision tokens, of the drawing beside the other budgets, as 96 x 96 pixels."""
    address = driver.find_element("css selector", "#budgets img").get_attribute("src")
    return as_seen(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


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
    """Through the file input behind the button, after what is there has been removed."""
    if driver.find_elements("css selector", "#image img"):
        driver.find_element("css selector", "#image button[aria-label='Remove Image']").click()
    until(lambda: driver.find_elements("css selector", "#image input[type=file]"))
    driver.find_element("css selector", "#image input[type=file]").send_keys(str(file))
    until(lambda: driver.find_elements("css selector", "#image img"))


def keep_screenshot(driver: Any, name: str) -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))
    return SCREENSHOTS / f"{name}.png"
