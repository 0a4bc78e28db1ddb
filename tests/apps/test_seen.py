"""Images and videos as the vision tower saw them: pixels, crops, frames and cut-off parts in their places."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_cases import FAMILIES
from PIL import Image
from small_checkpoints import GRID_PINPOINTS, make_llava_next_checkpoint
from transformers import AutoProcessor

from mmtok.apps.drawing import overlay
from mmtok.apps.seen import GAP, MOST_DRAWN, Seen, frames_read, seen_images, seen_video
from mmtok.hub.handler import Video
from mmtok.hub.selection import ImageSelection

NORMALISED = SimpleNamespace(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
UNNORMALISED = SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3)
CONFIG = SimpleNamespace(vision_config=SimpleNamespace(patch_size=6, image_size=24))


def video(read: int, total: int | None = None) -> Video:
    """So many frames, two a second."""
    total = read if total is None else total
    indices = tuple(number * total // read for number in range(read))
    return Video([Image.new("RGB", (1, 1))] * read, indices, total, 2.0)


def selection(places: list[tuple[int, int, int]]) -> ImageSelection:
    """Kept tokens at (frame, row, column) with equal gains."""
    crop, row, column = torch.tensor(places).T
    order, gains = torch.arange(len(places)), torch.full((len(places),), 0.25)
    return ImageSelection(0, 99, order, crop, row, column, order, gains, gains, 0.5, 1.0, 1.0, is_video=True)


def kept_places(kept: ImageSelection) -> set[tuple[int, int, int]]:
    return set(zip(kept.crop.tolist(), kept.row.tolist(), kept.column.tolist(), strict=True))


def drawn_places(seen: Seen, kept: ImageSelection, scale: int = 4) -> set[tuple[int, int, int]]:
    """The patches whose middle has the colour that it has in the image; every other one is darker."""
    drawn, plain = (overlay(seen, each, scale=scale) for each in (kept, None))
    side = seen.patch_size * scale
    return {
        (number, row, column)
        for number, crop, (left, top) in zip(seen.numbers, seen.crops, seen.origins(scale), strict=True)
        for row in range(crop.height // seen.patch_size)
        for column in range(crop.width // seen.patch_size)
        for middle in [(left + column * side + side // 2, top + row * side + side // 2)]
        if drawn.getpixel(middle) == plain.getpixel(middle)
    }


def test_pixels_come_back_as_they_were() -> None:
    original = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    mean, std = np.array(NORMALISED.image_mean), np.array(NORMALISED.image_std)
    pixels = torch.tensor((original / 255 - mean) / std).permute(0, 3, 1, 2).float()
    for image, pixel in zip(seen_images({"pixel_values": pixels}, CONFIG, NORMALISED), original, strict=True):
        np.testing.assert_array_equal(np.asarray(image.crops[0]), pixel)


def test_crops_are_laid_out_as_they_were_cut(tmp_path) -> None:
    """Four quarters of four colours: each tile of the drawing shows its own quarter, in its own place."""
    colors = np.array([[(250, 0, 0), (0, 250, 0)], [(0, 0, 250), (250, 250, 0)]], dtype=np.uint8)
    image = Image.fromarray(colors.repeat(24, axis=0).repeat(24, axis=1))
    processor = AutoProcessor.from_pretrained(make_llava_next_checkpoint(tmp_path)).image_processor
    config = SimpleNamespace(image_grid_pinpoints=GRID_PINPOINTS, vision_config=CONFIG.vision_config)
    [seen] = seen_images(processor(image, return_tensors="pt"), config, processor)
    assert (seen.grid, seen.overview) == ((2, 2), True)
    assert seen.labels == ("crop 1: overview", "crops 2 to 5", "", "", "")
    drawn, [overview, *origins] = overlay(seen, None, scale=2), seen.origins(2)
    for color, (x, y) in zip(colors.reshape(4, 3), origins, strict=True):
        assert np.abs(np.array(drawn.getpixel((x + 24, y + 24))) - color).max() < 6
    assert {y - overview[1] for _, y in origins} == {0, 48 + GAP}
    for x in (overview[0], origins[0][0]):
        label = np.asarray(drawn)[: overview[1], x : x + 40]
        assert (label < 100).any(), "the labels are written above the crops"


@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision"])
@pytest.mark.parametrize("size", [(48, 24), (40, 44), (72, 20)])
def test_every_kept_patch_is_where_the_model_reads_it(name: str, size: tuple[int, int]) -> None:
    model, _ = FAMILIES[name].models()
    inputs = FAMILIES[name].inputs([[3, size, 5]], model)
    [seen] = seen_images(inputs, model.config, NORMALISED)
    images = {name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs}
    [layout] = model.encode_images(**images).layouts
    if name == "llava_onevision":
        for crop, image in enumerate(seen.crops):
            own = layout.crop == crop
            grid = (int(layout.row[own].max()) + 1, int(layout.column[own].max()) + 1)
            assert (image.height // 6, image.width // 6) == grid
    selected = model.select_vision_tokens(**inputs, vision_token_budget=3).images[0]
    assert len(kept_places(selected)) == 3 * seen.count
    assert drawn_places(seen, selected) == kept_places(selected)


def test_of_several_images_in_a_sample_only_the_whole_ones_are_drawn() -> None:
    family = FAMILIES["llava_onevision"]
    model, _ = family.models()
    inputs = {**family.inputs([[3, (48, 24), 5, (24, 24)]], model), "batch_num_images": torch.tensor([2])}
    assert [(len(seen.crops), seen.count) for seen in seen_images(inputs, model.config, NORMALISED)] == [(1, 1)] * 2


def test_an_image_of_its_own_size_is_put_together_again() -> None:
    family = FAMILIES["qwen2_5_vl"]
    model, _ = family.models()
    inputs = family.inputs([[3, (24, 36), 5, (12, 12)]], model)
    # Every pixel of a 6 x 6 token has the token's number; of each patch there are two frames and three channels.
    numbers = torch.arange(24).repeat_interleave(4)[:, None].expand(-1, 54) / 255
    inputs["pixel_values"] = torch.cat((numbers, torch.zeros(16, 54)))
    large, small = seen_images(inputs, model.config, UNNORMALISED)
    assert ([image.size for image in large.crops], large.patch_size) == ([(36, 24)], 6)
    assert [image.size for image in small.crops] == [(12, 12)]
    found = np.array(large.crops[0])[:, :, 0].reshape(4, 6, 6, 6)
    assert (found == np.arange(24).reshape(4, 1, 6, 1)).all()
    # Within a token the patches stand in rows too.
    inputs["pixel_values"][:4] = torch.arange(4)[:, None] / 255
    corner = np.array(seen_images(inputs, model.config, UNNORMALISED)[0].crops[0])[:6, :6, 0]
    assert (corner.reshape(2, 3, 2, 3) == np.arange(4).reshape(2, 1, 2, 1)).all()


@pytest.mark.parametrize(
    ("size", "shown", "place"),
    [
        ((36, 24), (36, 24), (6, 0)),
        ((24, 48), (24, 48), (0, 12)),
        ((240, 24), (48, 24), (12, 0)),  # of a panorama, half a crop on each side
        ((50, 50), None, None),
    ],
)
def test_what_a_centre_crop_cuts_off_lies_around_it(size, shown, place) -> None:
    """The middle of the image is red, and red is where the crop was cut out."""
    image = Image.new("RGB", size, "white")
    middle = (size[0] // 2, size[1] // 2)
    image.paste("red", (middle[0] - 2, middle[1] - 2, middle[0] + 2, middle[1] + 2))
    cutting = SimpleNamespace(
        **vars(NORMALISED), size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, do_center_crop=True
    )
    [seen] = seen_images({"pixel_values": torch.zeros(1, 3, 24, 24)}, CONFIG, cutting, [image])
    if shown is None:
        assert seen.whole is None
        return
    whole, *found = seen.whole
    assert (whole.size, tuple(found)) == (shown, place)
    assert whole.getpixel((place[0] + 12, place[1] + 12)) == (255, 0, 0)
    assert seen.origins(4) == [(4 * place[0], 4 * place[1])]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="hold no pixel_values"):
        seen_images({}, CONFIG, NORMALISED)
    with pytest.raises(ValueError, match="give image_sizes"):
        seen_images({"pixel_values": torch.zeros(1, 5, 3, 24, 24)}, CONFIG, NORMALISED)


@pytest.mark.parametrize("budget", [1, None])
def test_frames_of_onevision_have_the_pooled_tokens(budget: int | None) -> None:
    """24 x 24 pixels with patches of 6 are 4 x 4 tokens, pooled to 2 x 2; the separator behind them is in no frame."""
    family = FAMILIES["llava_onevision"]
    model, _ = family.models()
    inputs = family.inputs([[3, (3, 24, 24), 5]], model)
    seen = seen_video(inputs, video(3), model.config, NORMALISED)
    assert [(crop.size, seen.patch_size) for crop in seen.crops] == [((24, 24), 12)] * 3
    selected = model.select_vision_tokens(**inputs, vision_token_budget=budget).images[0]
    assert selected.num_tokens == 13
    assert drawn_places(seen, selected) == kept_places(selected)
    assert selected.crop.bincount().tolist() == [budget or 4] * 3


def test_an_odd_number_of_patches_is_pooled_to_one_token_more() -> None:
    """27 patches of the published models make 14 tokens; here 5 make 3, of 20 pixels in 50 enlarged to 51."""
    vision = SimpleNamespace(patch_size=10, image_size=50)
    pixels = torch.zeros(1, 2, 3, 50, 50)
    seen = seen_video({"pixel_values_videos": pixels}, video(2), SimpleNamespace(vision_config=vision), UNNORMALISED)
    assert [(crop.size, seen.patch_size) for crop in seen.crops] == [((51, 51), 17)] * 2


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_pairs_of_frames_that_are_not_square(name: str) -> None:
    """3 pairs of 12 x 30 pixels, which are 2 rows of 5 tokens."""
    family = FAMILIES[name]
    model, _ = family.models()
    inputs = family.inputs([[3, (3, 12, 30), 5]], model)
    seen = seen_video(inputs, video(6), model.config, NORMALISED)
    assert [(crop.size, seen.patch_size) for crop in seen.crops] == [((30, 12), 6)] * 3
    selected = model.select_vision_tokens(**inputs, vision_token_budget=4).images[0]
    assert selected.crop.bincount().tolist() == [4, 4, 4]
    assert drawn_places(seen, selected) == kept_places(selected)


def test_of_a_pair_the_first_frame_is_drawn() -> None:
    """Every pixel has the number of its token, and 100 more in the second frame of a pair."""
    family = FAMILIES["qwen3_vl"]
    model, _ = family.models()
    inputs = family.inputs([[3, (2, 12, 18), 5]], model)
    tokens = torch.arange(12).repeat_interleave(4)[:, None, None, None].expand(-1, 3, 2, 9).clone()
    tokens[:, :, 1] += 100
    inputs["pixel_values_videos"] = tokens.reshape(48, 54) / 255
    seen = seen_video(inputs, video(4), model.config, UNNORMALISED)
    assert [crop.size for crop in seen.crops] == [(18, 12)] * 2
    for first, crop in zip((0, 6), seen.crops, strict=True):
        found = np.array(crop)[:, :, 0].reshape(2, 6, 3, 6)
        assert (found == first + np.arange(6).reshape(2, 1, 3, 1)).all()


def test_kept_tokens_lie_in_their_own_frames() -> None:
    """Worked by hand: patches of 24 pixels, frames of 96 side by side with 12 between them, below the labels."""
    seen = seen_video({"pixel_values_videos": torch.zeros(1, 3, 3, 48, 48)}, video(3), pooled(48), UNNORMALISED)
    text = seen.origins(2)[0][1]
    assert seen.origins(2) == [(0, text), (108, text), (216, text)]
    kept = selection([(0, 1, 3), (2, 0, 1)])
    assert overlay(seen, kept, scale=2).size == (216 + 96, text + 96)
    white = Seen(tuple(Image.new("RGB", (48, 48), "white") for _ in range(3)), *layout_of(seen))
    assert drawn_places(white, kept, scale=2) == {(0, 1, 3), (2, 0, 1)}


def pooled(side: int) -> SimpleNamespace:
    return SimpleNamespace(vision_config=SimpleNamespace(patch_size=6, image_size=side))


def layout_of(seen: Seen) -> tuple:
    return seen.patch_size, seen.grid, seen.overview, seen.labels, seen.numbers, seen.count, seen.unit


def test_of_many_frames_some_are_drawn_and_only_their_tokens() -> None:
    seen = seen_video({"pixel_values_videos": torch.ones(1, 30, 3, 24, 24)}, video(30, 60), CONFIG, UNNORMALISED)
    assert seen.numbers == (0, 3, 7, 11, 15, 18, 22, 26)
    assert len(seen.numbers) == MOST_DRAWN
    assert frames_read(seen, video(30, 60)) == "30 of 60 frames are read, 8 of them drawn."
    assert drawn_places(seen, selection([(number, 0, number % 2) for number in range(30)])) == {
        (number, 0, number % 2) for number in seen.numbers
    }
    with pytest.raises(ValueError, match="keeps tokens of crop 30, but the image has 30 crops"):
        overlay(seen, selection([(30, 0, 0)]))


@pytest.mark.parametrize(("patches", "grid"), [(60, (2, 2)), (200, (4, 1)), (8, (1, 4))])
def test_wide_frames_stand_in_several_rows(patches: int, grid: tuple[int, int]) -> None:
    """Of 60 patches each two fit beside each other, of 200 no other does."""
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=3, spatial_merge_size=2, temporal_patch_size=1))
    inputs = {
        "pixel_values_videos": torch.zeros(4 * 2 * 2 * patches, 27),
        "video_grid_thw": torch.tensor([[4, 2, 2 * patches]]),
    }
    seen = seen_video(inputs, video(4), config, UNNORMALISED)
    assert seen.grid == grid
    tops = [y for _, y in seen.origins(1)]
    assert len(set(tops)) == grid[0]
    assert tops == sorted(tops)


@pytest.mark.parametrize(
    ("together", "read", "labels", "told"),
    [
        (1, 3, ("frame 1, 0.0 s", "frame 2, 0.5 s", "frame 3, 1.0 s"), "All 3 frames are read."),
        (
            2,
            3,
            ("frames 1-2, 0.0 s", "frame 3, 1.0 s"),
            "All 3 frames are read in 2 pairs, of each pair the first one.",
        ),
    ],
)
def test_labels_say_which_frame_and_when(together: int, read: int, labels: tuple[str, ...], told: str) -> None:
    vision = SimpleNamespace(patch_size=3, spatial_merge_size=2, temporal_patch_size=together)
    grid = torch.tensor([[len(labels), 2, 4]])
    inputs = {"pixel_values_videos": torch.zeros(len(labels) * 8, 27 * together), "video_grid_thw": grid}
    seen = seen_video(inputs, video(read), SimpleNamespace(vision_config=vision), UNNORMALISED)
    assert seen.labels == labels
    assert frames_read(seen, video(read)) == told
    assert (np.asarray(overlay(seen, None, scale=4))[: seen.origins(4)[0][1]] < 100).any()
