"""What all tests share: quiet progress bars, and the model families as a parameter."""

from __future__ import annotations

import pytest
import transformers
from model_cases import FAMILIES, Family

# Families that the tests of parity run for; the other tests run for the rest, and for these too with --all-families.
ALIKE = {
    "gemma3", "gemma4", "glm4v", "glm4v_moe", "glm46v", "internvl", "mistral3", "qwen2_vl", "qwen3_5", "qwen3_5_moe",
    "qwen3_vl_moe",
}  # fmt: skip
FOR_ALL = ("test_stock_parity.py", "test_evaluation_parity.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", action="store_true", help="more random prompts, calls and requests")
    parser.addoption("--all-families", action="store_true", help="all tests for all families")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all-families"):
        return
    alike = [
        item
        for item in items
        if (call := getattr(item, "callspec", None)) and call.params.get("family") in ALIKE
        if item.path.name not in FOR_ALL
    ]
    config.hook.pytest_deselected(items=alike)
    items[:] = [item for item in items if item not in set(alike)]


@pytest.fixture(autouse=True, scope="session")
def quiet_progress_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]
