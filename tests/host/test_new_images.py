"""Images of InternVL, Gemma 4 and Mistral 3: which crops form one, what is refused, which separators stay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import FAMILIES, IMAGE, IMAGE_SIZE, TOKENS_PER_CROP, VISION_START

from mmtok.hub.families import FAMILIES as TABLE
from mmtok.publish import open_base
from mmtok.publish.repository import without_origins

needs = {name: pytest.mark.skipif(name not in FAMILIES, reason=f"the release has no {name}") for name in TABLE}
WHOLE, FOUR_TILES = (IMAGE_SIZE, IMAGE_SIZE), (2 * IMAGE_SIZE, 2 * IMAGE_SIZE)


def same(found: Any, expected: Any) -> None:
    assert torch.equal(found.kept_mask, expected.kept_mask)
    assert [image.crop.tolist() for image in found.images] == [image.crop.tolist() for image in expected.images]


@needs["internvl"]
def test_crops_of_internvl_are_found_in_the_prompt_or_said() -> None:
    family = FAMILIES["internvl"]
    model, _ = family.models(vision_token_budget=3)
    inputs = family.inputs([[3, FOUR_TILES, 4, WHOLE, 2]], model)
    expected = model.select_vision_tokens(**inputs)
    assert [image.crop.bincount().tolist() for image in expected.images] == [[3] * 5, [3]]
    pixels = inputs.pop("pixel_values")
    for tiles, items in ((None, 6), ([5, 1], 2), (torch.tensor([5, 1]), 2)):
        encoded = model.encode_images(pixel_values=pixels, tiles=tiles)
        assert len(encoded) == items
        same(model.select_vision_tokens(**inputs, encoded_images=encoded), expected)


@needs["internvl"]
def test_the_whole_image_of_internvl_is_crop_0_and_stands_last() -> None:
    model, _ = FAMILIES["internvl"].models()
    layout = model.geometry.layout((5,))
    assert layout.crop[-TOKENS_PER_CROP:].eq(0).all()
    assert layout.crop[: 4 * TOKENS_PER_CROP].view(4, -1)[:, 0].tolist() == [1, 2, 3, 4]


@needs["internvl"]
@pytest.mark.parametrize("tiles", [[4, 1], [6, 0], [7, -1]])
def test_numbers_that_are_not_those_of_the_crops_are_named(tiles: list[int]) -> None:
    model, _ = FAMILIES["internvl"].models()
    pixels = torch.randn(6, 3, IMAGE_SIZE, IMAGE_SIZE)
    with pytest.raises(ValueError, match=r"tiles is \[.*\], and pixel_values holds 6 crops: give the number"):
        model.encode_images(pixel_values=pixels, tiles=tiles)


@needs["internvl"]
def test_a_run_that_ends_within_a_crop_is_refused() -> None:
    family = FAMILIES["internvl"]
    model, _ = family.models(vision_token_budget=3)
    inputs = family.inputs([[3, FOUR_TILES, 4]], model)
    ids = inputs["input_ids"]
    at = (ids[0] == IMAGE).nonzero()[7, 0]
    inputs["input_ids"] = torch.cat((ids[:, :at], torch.tensor([[5]]), ids[:, at:]), dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with pytest.raises(ValueError, match="A run of 7 image tokens ends within a crop"):
        model.select_vision_tokens(**inputs)


@needs["gemma4"]
def test_gemma_4_that_reads_ids_in_each_layer_is_refused(tmp_path: Path) -> None:
    family = FAMILIES["gemma4"]
    model, stock = family.models(vision_token_budget=3)
    inputs = family.inputs([[3, WHOLE, 4]], model)
    model.config.get_text_config().hidden_size_per_layer_input = 4
    for call in (model, model.generate, model.select_vision_tokens):
        with pytest.raises(ValueError, match=r"hidden_size_per_layer_input .*: each layer of such a language"):
            call(**inputs)
    config = {**stock.config.to_dict(), "model_type": "gemma4"}
    config["text_config"]["hidden_size_per_layer_input"] = 4
    (tmp_path / "config.json").write_text(json.dumps(without_origins(config)))
    with pytest.raises(ValueError, match=r"has text_config\.hidden_size_per_layer_input in config\.json: each layer"):
        open_base(tmp_path, weights=False)


@needs["gemma4"]
@pytest.mark.parametrize("positions", [None, torch.zeros(1, 3, 2)])
def test_positions_that_are_not_those_of_the_patches_are_named(positions: Any) -> None:
    family = FAMILIES["gemma4"]
    model, _ = family.models(vision_token_budget=3)
    inputs = {**family.inputs([[3, WHOLE, 4]], model), "image_position_ids": positions}
    with pytest.raises(ValueError, match=r"image_position_ids is .*: give \(1, 64, 2\), column and row of each patch"):
        model.select_vision_tokens(**inputs)


@needs["mistral3"]
@pytest.mark.parametrize("budget", [1, 3, 10])
def test_the_token_that_ends_a_row_goes_with_its_row(budget: int) -> None:
    """By hand: a token between two rows is read where one of the row in front of it is."""
    family = FAMILIES["mistral3"]
    model, _ = family.models()
    inputs = family.inputs([[3, FOUR_TILES, 4, WHOLE, 2]], model)
    found = model.select_vision_tokens(**inputs, vision_token_budget=budget)
    kept, ids = found.kept_mask[0], inputs["input_ids"][0]
    assert [len(image.indices) for image in found.images] == [budget, budget]
    for place in (ids == VISION_START).nonzero()[:, 0].tolist():
        columns = 8 if place < (ids == IMAGE).nonzero()[64, 0] else 4
        assert bool(kept[place]) == bool(kept[place - columns : place].any())
    rows = [image.row.unique() for image in found.images]
    ends = [int((row < rows_of - 1).sum()) for row, rows_of in zip(rows, (8, 4), strict=True)]
    assert int(kept[ids == VISION_START].sum()) == sum(ends)


@needs["mistral3"]
def test_the_images_of_an_output_are_those_of_stock() -> None:
    family = FAMILIES["mistral3"]
    model, stock = family.models(vision_token_budget=3)
    inputs = family.inputs([[3, WHOLE, 4]], model)
    with torch.no_grad():
        encoded = model.encode_images(**family.images(inputs))
        features = torch.cat(
            list(stock.get_image_features(**family.images(inputs), vision_feature_layer=-1).pooler_output)
        )
        prompt = model.read_prompt(inputs["input_ids"], None, inputs["attention_mask"])
        _, arranged = model.arrange(prompt, encoded)
    assert len(arranged.projected[0]) == 16 + 3
    assert torch.equal(torch.cat(arranged.projected_of(videos=False)), features)


@needs["mistral3"]
@pytest.mark.parametrize("size", [[30, 24], [24, 3]])
def test_sizes_beyond_the_pixels_or_below_a_token_are_named(size: list[int]) -> None:
    family = FAMILIES["mistral3"]
    model, _ = family.models(vision_token_budget=3)
    inputs = {**family.inputs([[3, WHOLE, 4]], model), "image_sizes": torch.tensor([size])}
    with pytest.raises(ValueError, match=r"image_sizes contains \[.*\], and pixel_values has images of \(24, 24\)"):
        model.select_vision_tokens(**inputs)


@needs["mistral3"]
def test_patches_beyond_whole_tokens_are_left_out_as_in_stock() -> None:
    family = FAMILIES["mistral3"]
    model, stock = family.models()
    inputs = family.inputs([[3, WHOLE, 4]], model)
    pixels = torch.randn(1, 3, IMAGE_SIZE + 3, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    inputs |= {"pixel_values": pixels, "image_sizes": torch.tensor([pixels.shape[2:]])}
    with torch.no_grad():
        assert torch.equal(model(**inputs, vision_token_budget=1.0).logits, stock(**inputs).logits)


def test_an_old_release_is_named() -> None:
    family = replace(TABLE["llava"], title="New", since=(99, 1))
    with pytest.raises(ImportError, match=r"New needs transformers 99\.1 or newer that has LlavaFor.* is installed"):
        family.load_class()
