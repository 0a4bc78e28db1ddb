"""The number of kept tokens is known without features: it equals what the transformers class keeps."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from model_cases import FAMILIES, Family, crops_of

from mmtok.vllm.method import LlavaLayout, LlavaNextLayout, kept_count
from mmtok.vllm.request import PruningRequest

LAYOUTS = {"llava": LlavaLayout, "llava_next": LlavaNextLayout}


@pytest.fixture(params=sorted(LAYOUTS))
def family(request: pytest.FixtureRequest) -> Family:
    """The families that vLLM serves."""
    return FAMILIES[request.param]


def sizes(count: int) -> list[tuple[int, int]]:
    """(height, width) in pixels, from 1:20 to 20:1."""
    random = Random(0)
    return [(24, 480), (480, 24), *((random.randint(24, 480), random.randint(24, 480)) for _ in range(count))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"vision_token_budget": 4},
        {"vision_token_budget": 200},
        {"vision_token_share": 0.3},
        {"vision_token_budget": 4, "keep_image_newline": True},
        {"vision_token_budget": 16, "exclude_padding": True},
    ],
)
def test_placeholders_equal_kept_tokens(family: Family, options: dict[str, Any]) -> None:
    model, _ = family.models(vision_token_budget=None)
    layout = LAYOUTS[family.name](model.config)
    for index, size in enumerate(sizes(8)):
        inputs = family.inputs([[3, size, 4]], model, seed=index)
        inputs["pixel_values"][..., :7, :] = 0.5  # a band of padding in every crop
        selection = model.select_vision_tokens(**inputs, **options)
        kept = int((selection.kept_mask & (inputs["input_ids"] == model.config.image_token_id)).sum())
        request = PruningRequest.of(model.config, inputs["input_ids"][0].tolist(), options)
        pixels = inputs["pixel_values"].flatten(0, -4)
        candidates = layout.candidates(pixels, size) if request.pruning.exclude_padding else None
        assert kept_count(layout.tokens(size), candidates, request.pruning) == kept, (size, options)


def test_the_largest_image_has_the_most_tokens_and_crops(family: Family) -> None:
    layout = LAYOUTS[family.name](family.config())
    most = len(layout.tokens(layout.largest_image).source)
    for size in sizes(50):
        assert len(layout.tokens(size).source) <= most
        assert layout.crops(size) <= layout.crops(layout.largest_image)
        assert layout.crops(size) == (1 if family.name == "llava" else crops_of(size))
        assert layout.tokens(size).tokens_before_packing == layout.crops(size) * layout.tokens_per_crop


def test_candidates_are_the_tokens_outside_of_bands(family: Family) -> None:
    layout = LAYOUTS[family.name](family.config())
    pixels = torch.randn(layout.crops((24, 24)), 3, 24, 24)
    pixels[..., :6, :] = 0.0  # the first of four rows of patches
    image = layout.tokens((24, 24))
    assert layout.candidates(pixels, (24, 24)).tolist() == (image.row != 0).tolist()
