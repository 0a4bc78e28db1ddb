"""What all tests share: quiet progress bars, and both model families as a parameter."""

from __future__ import annotations

import pytest
import transformers
from model_cases import FAMILIES, Family


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", action="store_true", help="more random prompts, calls and requests")


@pytest.fixture(autouse=True, scope="session")
def quiet_progress_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]
