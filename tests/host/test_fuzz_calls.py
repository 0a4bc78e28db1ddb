"""Random calls with wrong and odd arguments: a ValueError that says what, or what stock does; nothing stays behind."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from model_cases import IMAGE, VIDEO, VOCABULARY, Family

from configuration_mmtok import OPTION_NAMES

ROWS = [[3, (24, 48), 4], [(48, 24), 2]]
SEEDS = range(40)

# What becomes of one tensor.
TENSORS: list[Callable[[torch.Tensor], Any]] = [
    lambda values: None,
    lambda values: values.tolist(),
    lambda values: values.numpy(),
    lambda values: tuple(map(tuple, values.tolist())) if values.dim() == 2 else tuple(values),
    lambda values: list(values),
    lambda values: values[..., :-1],
    lambda values: torch.cat((values, values), dim=-1),
    lambda values: values[:1],
    lambda values: values[:0],
    lambda values: values[:, :0] if values.dim() > 1 else values,
    lambda values: values[None],
    lambda values: values[0],
    lambda values: torch.zeros_like(values),
    lambda values: torch.ones_like(values),
    lambda values: -values,
    lambda values: values * 10**9,
    lambda values: values.float(),
    lambda values: values.double(),
    lambda values: values.bool(),
    lambda values: values.to(torch.uint8),
    lambda values: values.to(torch.int32),
    lambda values: values.to(torch.bfloat16),
    lambda values: values.flip(-1),
    lambda values: values.flip(0),
    lambda values: values.masked_fill(torch.arange(values.numel()).view(values.shape) % 5 == 2, 0),
    lambda values: values.float() * float("nan"),
    lambda values: "tensor",
    lambda values: 7,
    lambda values: {},
]
ODD = [
    None, True, False, 0, 1, -1, 3, 10**6, 10**30, 10**400, 0.0, 0.3, 1.0, 1.5, -0.5, 1e-300, 1e-45, 1e-7, 1e-6, 1e6,
    1e30, 1e39, 1e300, float("nan"), float("inf"), np.int64(4), np.float32(0.5), np.float64(1e-3), np.bool_(True),
    np.array([4]), torch.tensor(4), torch.tensor(0.5), "", "crop", "image", "spread", "cosine", "\ud800", [], [4], [[]],
    (1, 2), {}, {"a": 1}, object(), b"4", [10**30], [[10**30]],
]  # fmt: skip


def extras(inputs: dict[str, torch.Tensor], source: random.Random) -> dict[str, Any]:
    """An argument beside the usual ones, right or wrong."""
    ids = inputs["input_ids"]
    given = source.choice(["token_type_ids", "mm_token_type_ids", "position_ids", "labels", "inputs_embeds"])
    values = torch.randn(*ids.shape, 32) if given == "inputs_embeds" else torch.zeros_like(ids)
    return {given: values if source.random() < 0.4 else source.choice(TENSORS)(values)}


def a_call(inputs: dict[str, torch.Tensor], names: list[str], source: random.Random) -> tuple[str, dict[str, Any]]:
    """A method of a model and arguments, one to three of which are odd."""
    arguments: dict[str, Any] = dict(inputs)
    for _ in range(source.randint(1, 3)):
        kind = source.random()
        if kind < 0.5:
            name = source.choice(sorted(inputs))
            arguments[name] = source.choice(TENSORS)(inputs[name])
        elif kind < 0.8:
            arguments[source.choice(names)] = source.choice(ODD)
        elif kind < 0.9:
            arguments |= extras(inputs, source)
        else:
            place = source.randrange(inputs["input_ids"].numel())
            arguments["input_ids"] = inputs["input_ids"].clone()
            arguments["input_ids"].view(-1)[place] = source.choice([IMAGE, VIDEO, 5, VOCABULARY, -1, 10**12])
    return source.choice(["generate", "forward", "select_vision_tokens"]), arguments


def outcome(model: Any, method: str, arguments: dict[str, Any]) -> Any:
    """What a call returns in short, or its error."""
    settings = {"max_new_tokens": 2, "do_sample": False} if method == "generate" else {}
    try:
        with torch.no_grad():
            found = getattr(model, method)(**arguments, **settings)
    except Exception as error:  # which ones are allowed is what the test is about
        return error
    return found if method == "generate" else found.logits if method == "forward" else None


def is_right(model: Any, stock: Any, method: str, arguments: dict[str, Any]) -> bool:
    """Whether a call ends in a ValueError, in a result, or in an error where stock refuses it or ends the same."""
    found = outcome(model, method, arguments)
    if not isinstance(found, Exception) or isinstance(found, ValueError):
        return True
    plain = {name: value for name, value in arguments.items() if name not in OPTION_NAMES}
    expected = outcome(stock, "generate" if method == "generate" else "forward", plain)
    # Dtypes and ids beyond the vocabulary are refused by the layers themselves, in stock's words.
    if isinstance(expected, ValueError) and "dtype" in str(found):
        return True  # stock refuses another mistake first
    return isinstance(expected, type(found)) and str(expected).partition("\n")[0] == str(found).partition("\n")[0]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore")
def test_random_calls(family: Family, seed: int, request: pytest.FixtureRequest, models: Any) -> None:
    model, stock = models
    names = list(OPTION_NAMES)
    inputs = family.inputs(ROWS, model)
    valid = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    config = model.config.to_dict()
    for number in range(10 if request.config.getoption("--fuzz") else 2):
        method, arguments = a_call(inputs, names, random.Random(f"{family.name} {seed} {number}"))
        assert is_right(model, stock, method, arguments), described(model, method, arguments)
    assert model.config.to_dict() == config
    assert torch.equal(model.generate(**inputs, max_new_tokens=2, do_sample=False), valid)


@pytest.fixture(scope="module")
def models_of() -> dict[str, Any]:
    return {}


@pytest.fixture
def models(family: Family, models_of: dict[str, Any]) -> Any:
    if family.name not in models_of:
        models_of[family.name] = family.models(vision_token_budget=3)
    return models_of[family.name]


def described(model: Any, method: str, arguments: dict[str, Any]) -> str:
    found = outcome(model, method, arguments)
    where = "".join(traceback.format_tb(found.__traceback__)[-4:]) if isinstance(found, Exception) else ""
    return f"{method}({arguments}): {found!r}\n{where}"
