"""What all tests share: quiet progress bars, and the model families as a parameter."""

from __future__ import annotations

import pytest
import transformers
from model_cases import FAMILIES, Family

# Families whose code others run too, and the tests that run for them too without --all-families.
ALIKE = {"qwen2_vl", "qwen3_vl_moe", "qwen3_5_moe", "gemma4", "glm4v", "glm4v_moe", "glm46v"}
FOR_ALL = ("test_models.py", "test_stock_parity.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", action="store_true", help="more random prompts, calls and requests")
    parser.addoption("--all-families", action="store_true", help="also the families whose code others run, everywhere")


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
