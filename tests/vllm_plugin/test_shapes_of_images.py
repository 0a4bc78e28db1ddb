"""Images of any shape: vLLM's own processor writes as many placeholders as tokens are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from vllm_engine import Case, Engine, noise

from mmtok.hub.options import is_meaningful

pytestmark = pytest.mark.vllm

NAMES = ("llava", "next", "onevision", "qwen2_5_vl")
RATIO = 20

# (width, height), from 1:20 to 20:1.
SIZES = st.tuples(st.integers(8, 400), st.floats(1, RATIO), st.booleans()).map(
    lambda drawn: _size(short=max(8, round(drawn[0] / drawn[1])), ratio=drawn[1], wide=drawn[2])
)
OPTIONS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"vision_token_budget": st.none() | st.integers(1, 90) | st.floats(0.01, 1.0)},
    optional={
        "padding": st.sampled_from(["stock", "exclude"]),
        "budget_scope": st.sampled_from(["crop", "image"]),
    },
)


def _size(short: int, ratio: float, wide: bool) -> tuple[int, int]:
    long = min(round(short * ratio), short * RATIO)
    return (long, short) if wide else (short, long)


@pytest.fixture(scope="module")
def engines(folders: dict[str, Path]) -> dict[str, Engine]:
    return {name: Engine(folders[name]) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(size=(20, 400), options={"vision_token_budget": 4})
@example(size=(400, 20), options={"vision_token_budget": 4, "padding": "exclude"})
@example(size=(20, 400), options={"vision_token_budget": None})
@given(size=SIZES, options=OPTIONS)
def test_placeholders_equal_kept_tokens(
    name: str, engines: dict[str, Engine], size: tuple[int, int], options: dict[str, Any]
) -> None:
    own_options = engines[name].reference.own_options
    meant = {option: value for option, value in options.items() if is_meaningful(option, value, own_options)}
    case = Case("is there a dog ?", [noise(size, 1)], meant)
    [kept] = engines[name].expected(case, new_tokens=1).kept
    assert engines[name].processed(case) == (len(kept), len(kept))


@pytest.mark.parametrize("name", NAMES)
def test_the_extreme_shapes_are_answered(name: str, engines: dict[str, Engine]) -> None:
    sizes = [(8, 160), (160, 8), (20, 400), (400, 20), (24, 24), (23, 25)]
    cases = [
        Case("where is it ?", [noise(size, seed)], {"vision_token_budget": budget})
        for seed, size in enumerate(sizes)
        for budget in (None, 5, 0.5)
    ]
    assert engines[name].differences(cases) == []
