"""Thousands of calls leak no memory and no state, and neither does one that fails."""

from __future__ import annotations

import gc
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import IMAGE_SIZE, Family

SIZE = (IMAGE_SIZE, IMAGE_SIZE)
CALLS, WARM_UP, WINDOW = 2000, 500, 100


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def hooks_of(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def call(family: Family, model: Any, number: int) -> None:
    """One of forty shapes."""
    images = number % 3
    rows = [[1 + number % 5, *[SIZE] * images, 2 + number % 4], [3, *[SIZE] * (images > 0)]]
    inputs = family.inputs(rows, model, seed=number % 7, left=number % 2 == 0)
    budget = (1, 3, 0.5, None)[number % 4]
    model.generate(**inputs, vision_token_budget=budget, max_new_tokens=1 + number % 3, do_sample=False)


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_stays_flat(family: Family) -> None:
    model, _ = family.models()
    call(family, model, 1)
    # transformers itself hooks the layers whose outputs it has to record, once and for good.
    state, hooks = set(vars(model)), hooks_of(model)
    resident = []
    for number in range(CALLS):
        call(family, model, number)
        if number % 10 == 0:
            resident.append(resident_bytes())
    warm = statistics.median(resident[(WARM_UP - WINDOW) // 10 : WARM_UP // 10])
    end = statistics.median(resident[-WINDOW // 10 :])
    assert end <= 1.01 * warm, f"{warm} bytes after {WARM_UP} calls, {end} after {CALLS}"
    assert set(vars(model)) == state
    assert hooks_of(model) == hooks


def test_a_failure_inside_the_vision_tower_leaves_no_hook(family: Family) -> None:
    model, _ = family.models()
    inputs = family.inputs([[3, SIZE, 4]], model)
    expected = model.generate(**inputs, vision_token_budget=3, max_new_tokens=2, do_sample=False)
    state, hooks = set(vars(model)), hooks_of(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory, as it were")

    handle = family.tower(model).register_forward_pre_hook(fail)
    for use in (model.generate, model, model.select_vision_tokens):
        with pytest.raises(RuntimeError, match="as it were"):
            use(**inputs, vision_token_budget=3)
    handle.remove()
    assert hooks_of(model) == hooks
    assert set(vars(model)) == state
    assert torch.equal(model.generate(**inputs, vision_token_budget=3, max_new_tokens=2, do_sample=False), expected)
