"""What all tests share: quiet progress bars, and the model families as a parameter."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from model_cases import FAMILIES, Family

# Without --all-families: of families whose images are their own the tests of parity, of families that have all code of
# another one test of it, and of the rest every test.
OWN_IMAGES = {"gemma3", "gemma4", "glm4v", "internvl", "mistral3", "qwen3_5"}
SAME_CODE = {"glm4v_moe", "glm46v", "qwen2_vl", "qwen3_5_moe", "qwen3_vl_moe"}
PARITY = ("test_stock_parity.py", "test_evaluation_parity.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", action="store_true", help="more random prompts, calls and requests")
    parser.addoption("--all-families", action="store_true", help="all tests for all families")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all-families"):
        return
    left_out = {item for item in items if _is_alike(item)}
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_alike(item: Any) -> bool:
    family = item.callspec.params.get("family") if hasattr(item, "callspec") else None
    if family in SAME_CODE:
        return item.originalname != "test_forward_and_labels"
    return family in OWN_IMAGES and item.path.name not in PARITY


@pytest.fixture(autouse=True, scope="session")
def quiet_progress_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]
