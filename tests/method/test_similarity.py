"""The coverage matrix against a plain re-computation of its definition; masks, dtypes, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmtok.hub.objective import coverage_matrix


def features(seed: int, *leading: int, text: int = 3, vision: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((text, 4), (vision, 4), (vision, 6))
    return tuple(torch.randn(*leading, *shape, generator=generator) for shape in shapes)


def by_definition(
    text: torch.Tensor,
    vision: torch.Tensor,
    raw: torch.Tensor,
    text_weight: float = 1.0,
    vision_weight: float = 0.5,
    text_temperature: float = 0.02,
    vision_temperature: float = 0.2,
) -> torch.Tensor:
    """Entry by entry in Python floats."""

    def cosine(a: list[float], b: list[float]) -> float:
        length = math.hypot(*a) * math.hypot(*b)
        return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0

    def rows(things: torch.Tensor, columns: torch.Tensor, weight: float, temperature: float) -> list[list[float]]:
        matrix = []
        for thing in things.tolist():
            logits = [cosine(thing, column) / temperature for column in columns.tolist()]
            weights = [math.exp(logit - max(logits)) for logit in logits]
            matrix.append([weight / len(things) * value / sum(weights) for value in weights])
        return matrix

    return torch.tensor(
        rows(text, vision, text_weight, text_temperature) + rows(raw, raw, vision_weight, vision_temperature)
    )


@given(
    seed=st.integers(0, 1000),
    text=st.integers(0, 4),
    vision=st.integers(1, 6),
    weights=st.sampled_from([(1.0, 0.5), (0.0, 2.0), (3.0, 0.0)]),
    temperatures=st.sampled_from([(0.02, 0.2), (1.0, 0.01)]),
)
def test_equals_the_definition(
    seed: int, text: int, vision: int, weights: tuple[float, float], temperatures: tuple[float, float]
) -> None:
    inputs = features(seed, text=text, vision=vision)
    found = coverage_matrix(
        *inputs,
        text_weight=weights[0],
        vision_weight=weights[1],
        text_temperature=temperatures[0],
        vision_temperature=temperatures[1],
    )
    assert found.shape == (text + vision, vision)
    assert found.dtype == torch.float32
    expected = by_definition(inputs[0], inputs[1], inputs[2], *weights, *temperatures)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_worked_example() -> None:
    # One word along the first of two orthogonal tokens: softmax of (1, 0) at temperature 1, and of (1, 0), (0, 1).
    eye = torch.eye(2)
    near, far = math.e / (math.e + 1), 1 / (math.e + 1)
    found = coverage_matrix(eye[:1], eye, eye, vision_weight=1.0, text_temperature=1.0, vision_temperature=1.0)
    torch.testing.assert_close(found, torch.tensor([[near, far], [near / 2, far / 2], [far / 2, near / 2]]))


def test_rows_sum_to_their_weights() -> None:
    found = coverage_matrix(*features(0), text_weight=2.0, vision_weight=0.25)
    torch.testing.assert_close(found.sum(-1), torch.tensor([2 / 3] * 3 + [0.25 / 5] * 5))


def test_lengths_of_the_features_do_not_matter() -> None:
    text, vision, raw = features(0)
    torch.testing.assert_close(coverage_matrix(text * 7, vision * 0.01, raw * 1000), coverage_matrix(text, vision, raw))
    assert torch.isfinite(coverage_matrix(text * 0, vision * 0, raw * 0)).all()


def test_tokens_without_a_direction_are_alike_to_none() -> None:
    text, vision, raw = features(8)
    raw[1] = vision[2] = 0
    found = coverage_matrix(text, vision, raw, vision_temperature=0.005)
    torch.testing.assert_close(found, by_definition(text, vision, raw, vision_temperature=0.005), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found[3 + 1], torch.full((5,), 0.5 / 5 / 5))


def test_more_tokens_than_are_multiplied_at_once() -> None:
    text, vision, raw = features(9, vision=1300)
    cosines = torch.nn.functional.cosine_similarity(raw[:, None], raw[None], dim=-1)
    expected = (cosines / 0.2).softmax(-1) * 0.5 / 1300
    torch.testing.assert_close(coverage_matrix(text, vision, raw)[3:], expected, rtol=1e-4, atol=1e-9)


def test_a_batch_gives_what_its_items_give_alone() -> None:
    text, vision, raw = features(1, 2, 3)
    batch = coverage_matrix(text, vision, raw)
    for index in ((0, 0), (1, 2)):
        alone = coverage_matrix(text[index], vision[index], raw[index])
        torch.testing.assert_close(batch[index], alone)


def test_fillers_become_zero_rows_and_columns_and_leave_the_rest_unchanged() -> None:
    text, vision, raw = features(2)
    text_mask = torch.tensor([True, False, True])
    vision_mask = torch.tensor([True, True, False, True, False])
    found = coverage_matrix(text, vision, raw, text_mask=text_mask, vision_mask=vision_mask)
    rows = torch.cat((text_mask, vision_mask))
    without = coverage_matrix(text[text_mask], vision[vision_mask], raw[vision_mask])
    torch.testing.assert_close(found[rows][:, vision_mask], without)
    assert found[~rows].eq(0).all()
    assert found[:, ~vision_mask].eq(0).all()
    all_fillers = coverage_matrix(text, vision, raw, text_mask=torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(all_fillers[3:], coverage_matrix(text[:0], vision, raw))
    assert all_fillers[:3].eq(0).all()


def test_full_masks_change_nothing() -> None:
    inputs = features(3)
    full = {"text_mask": torch.ones(3, dtype=torch.bool), "vision_mask": torch.ones(5, dtype=torch.bool)}
    torch.testing.assert_close(coverage_matrix(*inputs, **full), coverage_matrix(*inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_float_dtype_is_computed_in_float32(dtype: torch.dtype) -> None:
    inputs = [part.to(dtype) for part in features(4)]
    found = coverage_matrix(*inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, coverage_matrix(*(part.float() for part in inputs)))


def test_no_gradient_is_kept() -> None:
    text, vision, raw = features(5)
    assert not coverage_matrix(text.requires_grad_(), vision, raw).requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_weight": -1.0}, "text_weight is -1.0: give 0, or a number from"),
        ({"vision_weight": float("nan")}, "vision_weight is nan"),
        ({"vision_weight": float("inf")}, "vision_weight is inf"),
        ({"text_weight": 0, "vision_weight": 0}, "text_weight and vision_weight are both 0"),
        ({"text_temperature": 0}, "text_temperature is 0: give a number from"),
        ({"vision_temperature": -0.2}, "vision_temperature is -0.2"),
        ({"vision_temperature": float("inf")}, "vision_temperature is inf"),
        ({"text_mask": torch.ones(2, dtype=torch.bool)}, r"text_mask .* give a bool mask of shape \(3,\)"),
        ({"vision_mask": torch.ones(5)}, r"vision_mask has dtype torch.float32 and shape \(5,\)"),
    ],
)
def test_unusable_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coverage_matrix(*features(6), **settings)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4,), (5, 4), (5, 6)), "Features must have shape"),
        (((3, 4), (0, 4), (0, 6)), "There are no vision tokens to choose from"),
        (((3, 4), (5, 4), (6, 6)), "vision and raw_vision their number of tokens"),
        (((3, 5), (5, 4), (5, 6)), "text and vision must share their width"),
        (((2, 3, 4), (5, 4), (5, 6)), "all three their leading dimensions"),
    ],
)
def test_shapes_that_do_not_belong_together(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coverage_matrix(*(torch.ones(shape) for shape in shapes))


@pytest.mark.parametrize("name", ["text", "vision", "raw_vision"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_unusable_features(name: str, value: float) -> None:
    inputs = dict(zip(("text", "vision", "raw_vision"), features(7), strict=True))
    inputs[name][1, 2] = value
    with pytest.raises(ValueError, match=rf"{name} contains {value}: check the image"):
        coverage_matrix(**inputs)
    inputs[name][1, 2] = 1e30
    with pytest.raises(ValueError, match=rf"{name} contains 1.0\d*e\+30: check the image"):
        coverage_matrix(**inputs)
    inputs[name] = torch.ones(inputs[name].shape, dtype=torch.long)
    with pytest.raises(ValueError, match=f"{name} has dtype torch.int64: give floating-point features"):
        coverage_matrix(**inputs)


def test_a_mask_that_masks_nothing_changes_no_bit() -> None:
    inputs = features(3, 2, text=4, vision=7)
    masks = {"text_mask": torch.ones(2, 4, dtype=torch.bool), "vision_mask": torch.ones(2, 7, dtype=torch.bool)}
    free = coverage_matrix(*inputs)
    assert torch.equal(coverage_matrix(*inputs, **masks), free)
    # Beside an item with fillers, the masks of the first one count.
    masks["text_mask"][1, 2:], masks["vision_mask"][1, 5:] = False, False
    assert torch.equal(coverage_matrix(*inputs, **masks)[0], free[0])
