"""What LLaVA-OneVision adds: a mosaic of tiles that may be shrunk, and images without tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import FAMILIES, IMAGE, IMAGE_SIZE, TOKENS_PER_CROP

FAMILY = FAMILIES["llava_onevision"]


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return FAMILY.models()


def test_a_shrunk_mosaic_is_one_crop_and_both_sides_of_the_projector_agree(models: tuple[Any, Any]) -> None:
    model, _ = models
    # Four tiles make a mosaic of 8 x 8, of which two tiles may stay: sqrt(64 / 32) = 1.41, so 5 rows of 5.
    encoded = model.encode_images(
        pixel_values=FAMILY.inputs([[(50, 50)]], model)["pixel_values"], image_sizes=torch.tensor([(50, 50)])
    )
    [layout], [raw], [projected] = encoded.layouts, encoded.raw, encoded.projected
    assert len(layout.source) == len(raw) == len(projected) == TOKENS_PER_CROP + 5 * (5 + 1)
    mosaic = layout.crop == 1
    assert (layout.row[mosaic] * 5 + layout.column[mosaic]).tolist() == list(range(25))
    assert torch.equal(projected[layout.source < 0], model.model.image_newline.expand(5, -1))
    # Of the whole image each token is projected for itself; those of a shrunk mosaic are means on either side.
    whole = layout.crop == 0
    torch.testing.assert_close(model.model.multi_modal_projector(raw[whole]), projected[whole])


def test_the_raw_mosaic_has_the_places_of_the_projected_one(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs([[(24, 48)]], model)
    encoded = model.encode_images(pixel_values=inputs["pixel_values"], image_sizes=inputs["image_sizes"])
    [layout], [raw], [projected] = encoded.layouts, encoded.raw, encoded.projected
    own = layout.source >= 0
    assert int(own.sum()) == 3 * TOKENS_PER_CROP
    # Two tiles are not shrunk, so every token is the projection of its own raw one.
    torch.testing.assert_close(model.model.multi_modal_projector(raw[own]), projected[own])


def several_images(seed: int = 0) -> dict[str, torch.Tensor]:
    """Two images in one sample, which have no tiles: 16 tokens and a separator each."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(2, 1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    run = [IMAGE] * (TOKENS_PER_CROP + 1)
    return {
        "input_ids": torch.tensor([[5, 6, *run, 7, *run, 8, 9]]),
        "attention_mask": torch.ones(1, 2 * len(run) + 5, dtype=torch.long),
        "pixel_values": pixels,
        "image_sizes": torch.tensor([(50, 50), (30, 60)]),
        "batch_num_images": torch.tensor([2]),
    }


def test_several_images_of_a_sample_have_no_tiles(models: tuple[Any, Any]) -> None:
    model, stock = models
    inputs = several_images()
    with torch.no_grad():
        assert torch.equal(model(**inputs, vision_token_budget=1.0).logits, stock(**inputs).logits)
    selection = model.select_vision_tokens(**inputs, vision_token_budget=3)
    assert [image.crop.tolist() for image in selection.images] == [[0, 0, 0]] * 2
    expected = stock.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(**inputs, vision_token_budget=1.0, max_new_tokens=4, do_sample=False), expected)


def test_numbers_of_images_that_do_not_add_up_are_refused(models: tuple[Any, Any]) -> None:
    inputs = {**several_images(), "batch_num_images": torch.tensor([3])}
    with pytest.raises(ValueError, match=r"batch_num_images is \[3\], which makes 3 images, but image_sizes has 2"):
        models[0](**inputs, vision_token_budget=3)


def test_a_share_is_the_default(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs([[3, (24, 48), 5]], model)
    [image] = model.select_vision_tokens(**inputs).images
    # A fifth of 16 and of 32 tokens.
    assert image.crop.bincount().tolist() == [3, 6]


def test_an_option_that_means_nothing_is_refused(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs([[3, (24, 48), 5]], model)
    for call in (model, model.generate, model.select_vision_tokens):
        with pytest.raises(ValueError, match="padding is 'include', which means nothing for MMTokLlavaOne"):
            call(**inputs, padding="include")
