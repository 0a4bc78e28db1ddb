from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_cases import FAMILIES
from PIL import Image
from small_checkpoints import GRID_PINPOINTS, make_llava_next_checkpoint
from transformers import AutoProcessor

from mmtok.apps.colors import TEXT_COLOR, VISION_COLOR, gain_color, share_color
from mmtok.apps.figure import Panel, comparison_figure
from mmtok.apps.overlay import overlay
from mmtok.apps.seen_image import SeenImage, seen_images
from mmtok.hub.selection import ImageSelection

NORMALISED = SimpleNamespace(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])


def selection(places: list[tuple[int, int, int]], text: list[float], vision: list[float]) -> ImageSelection:
    """Kept tokens at (crop, row, column) with their gains, picked in this order."""
    crop, row, column = torch.tensor(places).T
    count = len(places)
    gains = (torch.tensor(text), torch.tensor(vision))
    return ImageSelection(
        batch_row=0,
        num_tokens=99,
        indices=torch.arange(count),
        crop=crop,
        row=row,
        column=column,
        pick_order=torch.arange(count),
        text_gain=gains[0],
        vision_gain=gains[1],
        coverage=0.5,
        full_coverage=1.0,
        upper_bound=1.0,
    )


def gray(crops: int = 1, tiles: tuple[int, int] = (0, 0)) -> SeenImage:
    """Dark crops of 24 x 24 with patches of 6."""
    return SeenImage(tuple(Image.new("RGB", (24, 24), (90, 90, 90)) for _ in range(crops)), tiles, patch_size=6)


def test_pixels_come_back_as_they_were() -> None:
    original = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    mean, std = np.array(NORMALISED.image_mean), np.array(NORMALISED.image_std)
    pixels = torch.tensor((original / 255 - mean) / std).permute(0, 3, 1, 2).float()
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=6))
    images = seen_images({"pixel_values": pixels}, config, NORMALISED)
    assert [(image.tiles, image.grid, len(image.crops)) for image in images] == [((0, 0), 4, 1)] * 2
    for image, pixel in zip(images, original, strict=True):
        np.testing.assert_array_equal(np.asarray(image.crops[0]), pixel)


def test_crops_are_laid_out_as_they_were_cut(tmp_path) -> None:
    """Four quarters of four colours: each tile of the overlay shows its own quarter, in its own place."""
    colors = np.array([[(250, 0, 0), (0, 250, 0)], [(0, 0, 250), (250, 250, 0)]], dtype=np.uint8)
    image = Image.fromarray(colors.repeat(24, axis=0).repeat(24, axis=1))
    processor = AutoProcessor.from_pretrained(make_llava_next_checkpoint(tmp_path)).image_processor
    inputs = processor(image, return_tensors="pt")
    vision = SimpleNamespace(patch_size=6, image_size=24)
    config = SimpleNamespace(image_grid_pinpoints=GRID_PINPOINTS, vision_config=vision)
    [seen] = seen_images(inputs, config, processor)
    assert seen.tiles == (2, 2)
    drawn = overlay(seen, None, scale=1)
    for tile, origin in zip(range(4), seen.origins(1)[1:], strict=True):
        middle = drawn.getpixel((origin[0] + 12, origin[1] + 12))
        assert np.abs(np.array(middle) - colors.reshape(4, 3)[tile]).max() < 6
    assert [origin[1] for origin in seen.origins(1)[1:]] == [0, 0, 36, 36]


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_draws_what_a_model_selects(name: str) -> None:
    """Every kept patch keeps its colour in the middle; every other patch is faded."""
    family = FAMILIES[name]
    model, _ = family.models()
    inputs = family.inputs([[3, (48, 24), 5]], model)
    selected = model.select_vision_tokens(**inputs, vision_token_budget=3).images[0]
    [seen] = seen_images(inputs, model.config, NORMALISED)
    drawn, plain = (overlay(seen, kept, scale=4, numbers=False) for kept in (selected, None))
    kept = set(zip(selected.crop.tolist(), selected.row.tolist(), selected.column.tolist(), strict=True))
    assert len(kept) == 3 * len(seen.crops)
    for crop, origin in enumerate(seen.origins(4)):
        for row in range(seen.grid):
            for column in range(seen.grid):
                middle = (origin[0] + column * 24 + 12, origin[1] + row * 24 + 12)
                same = drawn.getpixel(middle) == plain.getpixel(middle)
                assert same == ((crop, row, column) in kept)


@pytest.mark.parametrize("size", [(48, 24), (40, 44), (24, 24), (72, 20)])
def test_a_mosaic_has_the_patches_that_the_model_reads(size: tuple[int, int]) -> None:
    family = FAMILIES["llava_onevision"]
    model, _ = family.models()
    inputs = family.inputs([[3, size, 5]], model)
    [seen] = seen_images(inputs, model.config, NORMALISED)
    [layout] = model.encode_images(**{name: inputs[name] for name in ("pixel_values", "image_sizes")}).layouts
    for crop, image in enumerate(seen.crops):
        own = layout.crop == crop
        grid = (int(layout.row[own].max()) + 1, int(layout.column[own].max()) + 1)
        assert (image.height // seen.patch_size, image.width // seen.patch_size) == grid
    selected = model.select_vision_tokens(**inputs, vision_token_budget=3).images[0]
    drawn, plain = (overlay(seen, kept, scale=4, numbers=False) for kept in (selected, None))
    kept = set(zip(selected.crop.tolist(), selected.row.tolist(), selected.column.tolist(), strict=True))
    for crop, (left, top) in enumerate(seen.origins(4)):
        for row in range(seen.crops[crop].height // 6):
            for column in range(seen.crops[crop].width // 6):
                middle = (left + column * 24 + 12, top + row * 24 + 12)
                assert (drawn.getpixel(middle) == plain.getpixel(middle)) == ((crop, row, column) in kept)


def test_of_several_images_in_a_sample_only_the_whole_ones_are_drawn() -> None:
    family = FAMILIES["llava_onevision"]
    model, _ = family.models()
    inputs = {**family.inputs([[3, (48, 24), 5, (24, 24)]], model), "batch_num_images": torch.tensor([2])}
    assert [(len(seen.crops), seen.tiles) for seen in seen_images(inputs, model.config, NORMALISED)] == [
        (1, (0, 0))
    ] * 2


def test_frames_tell_the_gain_and_bars_the_shares() -> None:
    kept = selection([(0, 0, 0), (0, 2, 1)], text=[0.75, 0.0], vision=[0.25, 0.25])
    drawn = overlay(gray(), kept, scale=8, numbers=False)
    assert drawn.getpixel((0, 0)) == gain_color(1.0)
    assert drawn.getpixel((48, 96)) == gain_color(0.25)
    bar = 47 - 3 - 2  # above the frame of 3 pixels
    orange = [drawn.getpixel((x, bar)) == TEXT_COLOR for x in range(3, 45)]
    assert sum(orange) == 36 - 3  # three quarters of the patch, less the frame
    assert drawn.getpixel((60, 96 + bar)) == VISION_COLOR
    by_share = overlay(gray(), kept, scale=8, color_by="text share", numbers=False)
    assert by_share.getpixel((0, 0)) == share_color(0.75)
    assert by_share.getpixel((48, 96)) == VISION_COLOR == share_color(0.0)


def test_numbers_are_written_only_where_there_are_few() -> None:
    places = [(0, row, column) for row in range(4) for column in range(4)]
    kept = selection(places[:3], [0.1] * 3, [0.1] * 3)
    plain = np.asarray(overlay(gray(), kept, scale=8, numbers=False))
    assert (np.asarray(overlay(gray(), kept, scale=8)) != plain).any()
    many = selection(places * 3, [0.1] * 48, [0.1] * 48)
    unnumbered = overlay(gray(), many, scale=8, numbers=False)
    np.testing.assert_array_equal(np.asarray(overlay(gray(), many, scale=8)), np.asarray(unnumbered))


def test_a_class_token_is_not_drawn() -> None:
    kept = selection([(0, -1, -1)], [0.2], [0.2])
    nothing = selection([(0, 0, 0)], [0.2], [0.2])
    assert overlay(gray(), kept).getpixel((1, 1)) != overlay(gray(), nothing).getpixel((1, 1))


def test_figure_has_a_panel_for_each_question_and_budget() -> None:
    panel = Panel(overlay(gray(), None), "a title that is much too long for the width of its own panel", "note")
    figure = comparison_figure([[panel] * 3] * 2, row_titles=["one?", "two?"], title="heading")
    assert len(figure.axes) == 2 * 3 + 1
    assert figure.axes[0].texts[0].get_text().endswith("…")
    texts = [text.get_text() for text in figure.texts]
    assert {"one?", "two?", "heading"} <= set(texts)


def test_texts_are_no_formulas(tmp_path) -> None:
    """Matplotlib reads what stands between two dollars as one, and fails where it is none."""
    told = r"Is it $5 or $10, or $\nothing$?"
    panel = Panel(overlay(gray(), None), told, told)
    figure = comparison_figure([[panel]], row_titles=[told], title=told)
    figure.savefig(tmp_path / "figure.png")
    assert {text.get_text() for text in figure.axes[0].texts} == {told}


def test_rows_without_a_title_move_up() -> None:
    panel = Panel(overlay(gray(), None), "title")
    heights = [
        comparison_figure([[panel]] * 2, row_titles=titles).get_size_inches()[1]
        for titles in (["one?", "two?"], ["one?", ""], ["", ""])
    ]
    assert heights[0] > heights[1] > heights[2]


def test_bad_input_is_named() -> None:
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=6))
    with pytest.raises(ValueError, match="hold no pixel_values"):
        seen_images({}, config, NORMALISED)
    with pytest.raises(ValueError, match="give image_sizes"):
        seen_images({"pixel_values": torch.zeros(1, 5, 3, 24, 24)}, config, NORMALISED)
    with pytest.raises(ValueError, match="crop 4, but the image has 1 crops"):
        overlay(gray(), selection([(4, 0, 0)], [0.1], [0.1]))
    panel = Panel(overlay(gray(), None), "title")
    with pytest.raises(ValueError, match=r"The rows hold \[1, 2\] panels"):
        comparison_figure([[panel], [panel, panel]])
    with pytest.raises(ValueError, match="2 row titles for 1 rows"):
        comparison_figure([[panel]], row_titles=["a", "b"])


def test_an_image_of_its_own_size_is_put_together_again() -> None:
    family = FAMILIES["qwen2_5_vl"]
    model, _ = family.models()
    inputs = family.inputs([[3, (24, 36), 5, (12, 12)]], model)
    # Every pixel of a 6 x 6 token has the token's number; of each patch there are two frames and three channels.
    numbers = torch.arange(24).repeat_interleave(4)[:, None].expand(-1, 54) / 255
    inputs["pixel_values"] = torch.cat((numbers, torch.zeros(16, 54)))
    unnormalised = SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3)
    large, small = seen_images(inputs, model.config, unnormalised)
    assert ([image.size for image in large.crops], large.patch_size) == ([(36, 24)], 6)
    assert [image.size for image in small.crops] == [(12, 12)]
    found = np.array(large.crops[0])[:, :, 0].reshape(4, 6, 6, 6)
    assert (found == np.arange(24).reshape(4, 1, 6, 1)).all()
    # Within a token the patches stand in rows too.
    inputs["pixel_values"][:4] = torch.arange(4)[:, None] / 255
    corner = np.array(seen_images(inputs, model.config, unnormalised)[0].crops[0])[:6, :6, 0]
    assert (corner.reshape(2, 3, 2, 3) == np.arange(4).reshape(2, 1, 2, 1)).all()
    kept = model.select_vision_tokens(**inputs, vision_token_budget=3).images[0]
    assert overlay(large, kept, scale=4).size == (144, 96)
