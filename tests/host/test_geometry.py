"""What is known of an image without its features, and the number of kept tokens: it equals what the class keeps."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from model_cases import FAMILIES, IMAGE, Family, crops_of, numbered_words

from configuration_mmtok import MMTokLlavaOnevisionConfig
from mmtok.hub.tokenizer_source import TokenizerSource
from mmtok.vllm.method import geometry_of, kept_count
from mmtok.vllm.request import PruningRequest

SOURCE = TokenizerSource(numbered_words())


@pytest.fixture(params=["llava", "llava_next", "llava_onevision"])
def family(request: pytest.FixtureRequest) -> Family:
    """The families whose images are crops of one size."""
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
        {"vision_token_budget": 0.3},
        {"vision_token_budget": 16, "padding": "exclude"},
        {"vision_token_budget": 16, "padding": "exclude", "budget_scope": "image"},
    ],
)
def test_placeholders_equal_kept_tokens(family: Family, options: dict[str, Any]) -> None:
    model, _ = family.models(vision_token_budget=None)
    geometry = model.geometry
    for index, size in enumerate(sizes(8)):
        inputs = family.inputs([[3, size, 4]], model, seed=index)
        inputs["pixel_values"][..., :7, :] = 0.5  # a band of padding in every crop
        selection = model.select_vision_tokens(**inputs, **options)
        kept = int((selection.kept_mask & (inputs["input_ids"] == model.config.image_token_id)).sum())
        request = PruningRequest.of(model.config, inputs["input_ids"][0].tolist(), options, SOURCE)
        pixels = inputs["pixel_values"].flatten(0, -4)
        candidates = geometry.candidates(pixels, size) if request.pruning.padding == "exclude" else None
        assert kept_count(geometry.layout(size), candidates, request.pruning) == kept, (size, options)


@pytest.mark.parametrize(
    "options", [{}, {"vision_token_budget": 4}, {"vision_token_budget": 200}, {"vision_token_budget": 0.3}]
)
def test_placeholders_of_grids_equal_kept_tokens(options: dict[str, Any]) -> None:
    family = FAMILIES["qwen2_5_vl"]
    model, _ = family.models(vision_token_budget=None)
    geometry = model.geometry
    for index, size in enumerate([(6, 120), (120, 6), *((side // 4, side // 3) for side, _ in sizes(8))]):
        inputs = family.inputs([[3, size, 4, size, 5]], model, seed=index)
        kept = int(model.select_vision_tokens(**inputs, **options).kept_mask[inputs["input_ids"] == IMAGE].sum())
        request = PruningRequest.of(model.config, inputs["input_ids"][0].tolist(), options, SOURCE)
        prunes = request.pruning.prunes
        grids = geometry.sizes(inputs["image_grid_thw"], len(inputs["pixel_values"]), prunes=prunes)
        assert sum(kept_count(geometry.layout(grid), None, request.pruning) for grid in grids) == kept, (size, options)


def test_the_largest_image_has_the_most_tokens(family: Family) -> None:
    geometry = geometry_of(family.config())
    most = len(geometry.layout(geometry.largest_image).source)
    for size in sizes(50):
        assert len(geometry.layout(size).source) <= most
        assert geometry.crops(size) == (crops_of(size) if family.has_tiles else 1)
        if family.name != "llava_onevision":  # which counts the tokens of a mosaic that was shrunk
            assert geometry.crops(size) <= geometry.crops(geometry.largest_image)
            assert geometry.layout(size).tokens_before_packing == geometry.crops(size) * geometry.tokens_per_crop


def test_the_largest_image_of_the_published_onevision_is_the_one_that_vllm_names_upright() -> None:
    grids = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    vision = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}
    config = MMTokLlavaOnevisionConfig(
        vision_config=vision, image_grid_pinpoints=grids, vision_feature_select_strategy="full"
    )
    geometry = geometry_of(config)
    most = len(geometry.layout(geometry.largest_image).source)
    # vLLM names 944 x 1153; upright it has more rows, and so more separators.
    assert most == len(geometry.layout((1153, 944)).source) == len(geometry.layout((944, 1153)).source) + 98 - 81
    assert most > len(geometry.layout((2304, 2304)).source)


def test_several_images_of_a_onevision_prompt_have_no_tiles() -> None:
    geometry = geometry_of(FAMILIES["llava_onevision"].config())
    assert [geometry.tiled(images) for images in (1, 2, 5)] == [True, False, False]
    assert geometry.crops((48, 48), tiled=False) == 1
    assert geometry.layout((48, 48), tiled=False).crop.tolist() == [0] * 16 + [-1]


def test_candidates_are_the_tokens_outside_of_bands(family: Family) -> None:
    geometry = geometry_of(family.config())
    pixels = torch.randn(geometry.crops((24, 24)), 3, 24, 24)
    pixels[..., :6, :] = 0.0  # the first of four rows of patches
    image = geometry.layout((24, 24))
    # LLaVA-OneVision looks for bands in the whole image; stock takes those of the mosaic off.
    banded = (image.row == 0) & ((image.crop == 0) | (family.name != "llava_onevision"))
    assert geometry.candidates(pixels, (24, 24)).tolist() == (~banded).tolist()
