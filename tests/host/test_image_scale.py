"""`image_scale`: images and videos are shrunk inside the model, and all else is as if the processor had shrunk them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from model_cases import FAMILIES, IMAGE, VIDEO, Family
from PIL import Image
from transformers import AutoImageProcessor

from mmtok.apps.seen import seen_images
from mmtok.hub.grids import pixels_of
from mmtok.image_cache import EncodedImageCache

OTHERS = [name for name, each in FAMILIES.items() if "image_scale" not in each.model_class.own_options]
GRIDS = [name for name in FAMILIES if name not in OTHERS]
GREEDY: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": [IMAGE, VIDEO]}
SCALE = 0.5
ROWS: list[Any] = [[3, (24, 36), 5], [2, (30, 66), 4, (60, 6), 3], [7], [(48, 48), 6]]


def shrunk(family: Family, model: Any, rows: list[Any]) -> tuple[dict[str, Any], dict[str, Any], torch.Tensor]:
    """A batch, the same as from a processor that shrinks, and (B, L) bool, the tokens of the first that stay."""
    inputs = family.inputs(rows, model)
    small = model.geometry.shrunk(inputs, SCALE)
    stay = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    for token, grids in ((IMAGE, "image_grid_thw"), (VIDEO, "video_grid_thw")):
        flags = []
        for before, after in zip(inputs.get(grids, ()), small.get(grids, ()), strict=True):
            count, fewer = (int(grid[1] * grid[2]) // 4 for grid in (before, after))
            flags.append((torch.arange(count) < fewer).repeat(int(before[0])))
        stay[inputs["input_ids"] == token] = torch.cat([torch.zeros(0, dtype=torch.bool), *flags])
    return inputs, small, stay


def alone(family: Family, batch: dict[str, Any], row: int, images: slice, videos: slice, stay: torch.Tensor) -> Any:
    """One row of a batch with its own images, without the tokens that do not stay."""
    own = family.single(batch, row, images, videos)
    real = batch["attention_mask"][row].bool()
    flags = stay[row, real]
    return {name: each[:, flags] if each.shape[:2] == (1, len(flags)) else each for name, each in own.items()}


@pytest.mark.parametrize("name", GRIDS)
def test_a_shrunk_image_is_that_of_the_processor(name: str) -> None:
    family = FAMILIES[name]
    model, stock = family.models_of_own_classes()
    rows, numbers = [ROWS[0], ROWS[1]], [(0, 1), (1, 3)]
    videos = [(0, 0), (0, 0)]
    if model.video_arguments:
        rows, videos = [ROWS[0], [*ROWS[1], (3, 24, 48), 2]], [(0, 0), (0, 1)]
    inputs, small, stay = shrunk(family, model, rows)
    for budget in (None, 1.0, 0.4, 3):
        with torch.no_grad():
            found = model(**inputs, vision_token_budget=budget, image_scale=SCALE, use_cache=True)
        written = model.generate(**inputs, vision_token_budget=budget, image_scale=SCALE, **GREEDY)
        for row, (own, films) in enumerate(zip(numbers, videos, strict=True)):
            single = alone(family, small, row, slice(*own), slice(*films), stay)
            real = inputs["attention_mask"][row].bool()
            assert not bool(found.kept_mask[row, real & ~stay[row]].any())
            with torch.no_grad():
                # Every token of the small image: stock itself, with its own positions.
                whole = budget in (None, 1.0)
                expected = stock(**single) if whole else model(**single, vision_token_budget=budget)
                reader = stock if whole else model
                more = {} if whole else {"vision_token_budget": budget}
                tokens = reader.generate(**single, **more, **GREEDY)[0, single["input_ids"].shape[1] :]
            logits = found.logits[row, real & stay[row]]
            torch.testing.assert_close(logits, expected.logits[0], rtol=1e-4, atol=1e-4)
            assert written[row, inputs["input_ids"].shape[1] :].tolist() == tokens.tolist()
        assert torch.equal(written[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])


def test_a_scale_of_1_is_stock() -> None:
    family = FAMILIES["qwen2_5_vl"]
    model, stock = family.models()
    inputs = family.inputs(ROWS, model)
    with torch.no_grad():
        found, expected = model(**inputs, image_scale=1, vision_token_budget=None), stock(**inputs)
    real = inputs["attention_mask"].bool()
    assert torch.equal(found.logits[real], expected.logits[real])


def test_encoded_images_are_shrunk_once() -> None:
    family = FAMILIES["qwen3_vl"]
    model, _ = family.models()
    inputs = family.inputs(ROWS, model)
    text = {name: each for name, each in inputs.items() if name not in model.visual_arguments}
    pixels = {name: each for name, each in inputs.items() if name in model.visual_arguments}
    encoded = model.encode_images(**pixels, image_scale=SCALE)
    expected = model.generate(**inputs, image_scale=SCALE, vision_token_budget=2, **GREEDY)
    found = model.generate(**text, encoded_images=encoded, image_scale=SCALE, vision_token_budget=2, **GREEDY)
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match=r"image_scale is None, and encode_images had 0.5: give both the same"):
        model.generate(**text, encoded_images=encoded)
    cache = EncodedImageCache(model)
    images = {name: pixels[name] for name in model.image_arguments}
    for scale, lengths in ((None, [24, 55, 10, 64]), (SCALE, [6, 12, 5, 16])):  # a token for 6 x 6 pixels
        model.config.image_scale = scale
        assert cache.encode(**images).lengths == lengths
        assert cache.encode(**images, image_scale=None).lengths == [24, 55, 10, 64]
    model.config.image_scale = None
    with pytest.raises(ValueError, match=r"position_ids was given, .* image_scale shrinks them"):
        model(**inputs, image_scale=SCALE, position_ids=torch.zeros_like(inputs["input_ids"]))
    hidden = inputs["attention_mask"].clone()
    hidden[3, (inputs["input_ids"][3] == IMAGE).nonzero()[-1]] = 0
    with pytest.raises(ValueError, match="attention_mask hides vision tokens, and image_scale shrinks"):
        model(**{**inputs, "attention_mask": hidden}, image_scale=SCALE)


def test_the_selection_names_the_places_of_the_small_image() -> None:
    family = FAMILIES["qwen2_5_vl"]
    model, _ = family.models(image_scale=SCALE)
    inputs = family.inputs([[3, (24, 36), 5]], model)  # 4 x 6 tokens, and 2 x 3 of half the size
    [image] = model.select_vision_tokens(**inputs, vision_token_budget=None).images
    assert list(zip(image.row.tolist(), image.column.tolist(), strict=True)) == [
        (row, column) for row in range(2) for column in range(3)
    ]
    assert image.num_tokens == 24
    [image] = model.select_vision_tokens(**inputs, vision_token_budget=0.5).images
    assert len(image.indices) == 3
    unnormalised = SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3)
    # A token is 6 x 6 pixels; an option of the call counts before the configuration's.
    for options, size in ({}, (18, 12)), ({"image_scale": 1.0}, (36, 24)), ({"image_scale": None}, (36, 24)):
        [drawn] = seen_images(inputs, model.config, unnormalised, options=options)
        assert (drawn.crops[0].size, drawn.patch_size) == (size, 6)


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_refuse_it(name: str) -> None:
    family = FAMILIES[name]
    model, _ = family.models()
    with pytest.raises(ValueError, match=r"image_scale is 0.5, which means nothing for MMTok"):
        model.generate(**family.inputs([[3, (48, 48), 5]], model), image_scale=0.5)


@pytest.mark.parametrize("kind", ["photograph", "page"])
def test_pixels_are_those_of_the_processor_within_rounding(kind: str, tmp_path: Path) -> None:
    """The processor rounds to bytes behind each of the two axes, ours not at all."""
    model, _ = FAMILIES["qwen2_5_vl"].models()
    side, rows, columns = model.geometry.side, 20, 30
    rng = np.random.default_rng(0)
    if kind == "photograph":
        noise = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    else:
        letters = np.kron(rng.random((rows * side // 2, columns * side // 3)) < 0.3, np.ones((2, 3), bool))
        image = Image.fromarray(np.where(letters, 0, 255).astype(np.uint8)).convert("RGB")
    given = {"patch_size": side // 2, "merge_size": 2, "image_processor_type": "Qwen2VLImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    processor = AutoImageProcessor.from_pretrained(tmp_path)

    def processed(tokens: int) -> dict[str, Any]:
        limits = {"shortest_edge": 1, "longest_edge": tokens * side**2}
        return dict(processor(image, size=limits, return_tensors="pt"))

    for scale in (0.8, 0.5, 0.2):
        size = [1, *(2 * round(each * scale) for each in (rows, columns))]
        expected, found = processed(size[1] * size[2] // 4), model.geometry.shrunk(processed(rows * columns), scale)
        assert found["image_grid_thw"].tolist() == expected["image_grid_thw"].tolist() == [size]
        theirs, ours = (pixels_of(model.config.vision_config, each["pixel_values"], size) for each in (expected, found))
        levels = 255 * (ours - theirs).abs() * torch.tensor(processor.image_std).view(3, 1, 1)
        assert 0 < float(levels.max()) < 1.25
        assert float(levels.mean()) < 0.35
