"""Drawings of videos: every kept token in its place, of its own frame, with the frames' numbers and times."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_cases import FAMILIES
from PIL import Image

from mmtok.apps.answer import Explanation
from mmtok.apps.overlay import overlay
from mmtok.apps.seen_video import MOST_DRAWN, SeenVideo, seen_video
from mmtok.apps.video_figure import tokens_per_frame, video_figure
from mmtok.hub.selection import ImageSelection
from mmtok.videos import Video

NORMALISED = SimpleNamespace(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
UNNORMALISED = SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3)


def video(read: int, total: int | None = None) -> Video:
    """So many frames, two a second."""
    total = read if total is None else total
    return Video(
        np.zeros((read, 1, 1, 3), np.uint8), tuple(number * total // read for number in range(read)), total, 2.0
    )


def selection(places: list[tuple[int, int, int]]) -> ImageSelection:
    """Kept tokens at (frame, row, column) with equal gains."""
    crop, row, column = torch.tensor(places).T
    count = len(places)
    gains = torch.full((count,), 0.25)
    indices = torch.arange(count)
    return ImageSelection(0, 99, indices, crop, row, column, indices, gains, gains, 0.5, 1.0, 1.0, is_video=True)


def kept_places(kept: ImageSelection) -> set[tuple[int, int, int]]:
    return set(zip(kept.crop.tolist(), kept.row.tolist(), kept.column.tolist(), strict=True))


def drawn_places(seen: SeenVideo, kept: ImageSelection, scale: int = 4) -> set[tuple[int, int, int]]:
    """The patches whose middle has the colour that it has in the frame; every other one is faded."""
    drawn, plain = (overlay(seen, each, scale=scale, numbers=False) for each in (kept, None))
    side = seen.patch_size * scale
    return {
        (number, row, column)
        for number, crop, (left, top) in zip(seen.numbers, seen.crops, seen.origins(scale), strict=True)
        for row in range(crop.height // seen.patch_size)
        for column in range(crop.width // seen.patch_size)
        for middle in [(left + column * side + side // 2, top + row * side + side // 2)]
        if drawn.getpixel(middle) == plain.getpixel(middle)
    }


@pytest.mark.parametrize("newline", [False, True])
def test_frames_of_onevision_have_the_pooled_tokens(newline: bool) -> None:
    """24 x 24 pixels with patches of 6 are 4 x 4 tokens, pooled to 2 x 2; the separator behind them is in no frame."""
    family = FAMILIES["llava_onevision"]
    model, _ = family.models()
    inputs = family.inputs([[3, (3, 24, 24), 5]], model)
    seen = seen_video(inputs, video(3), model.config, NORMALISED)
    assert [(crop.size, seen.patch_size) for crop in seen.crops] == [((24, 24), 12)] * 3
    selected = model.select_vision_tokens(**inputs, vision_token_budget=1, keep_image_newline=newline).images[0]
    assert selected.num_tokens == 13
    assert drawn_places(seen, selected) == kept_places(selected)
    assert selected.crop.tolist() == [0, 1, 2]


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


def plain_video(frames: int, together: int = 1, drawn: tuple[int, ...] | None = None, read: int = 0) -> SeenVideo:
    """Gray frames of 24 x 12 with patches of 6; a frame has its number's shade."""
    numbers = tuple(range(frames)) if drawn is None else drawn
    crops = tuple(Image.new("RGB", (24, 12), (20 * number,) * 3) for number in numbers)
    return SeenVideo(crops, numbers, 6, frames, together, video(read or frames * together))


def test_kept_tokens_lie_in_their_own_frames() -> None:
    """Worked by hand: patches of 24 pixels, frames of 96 x 48 side by side with 12 between them, below the labels."""
    seen = plain_video(3)
    text = seen.origins(4)[0][1]
    assert seen.origins(4) == [(0, text), (108, text), (216, text)]
    drawn = overlay(seen, selection([(0, 1, 3), (2, 0, 1)]), scale=4, numbers=False)
    assert drawn.size == (216 + 96, text + 48)
    assert drawn.getpixel((72 + 12, text + 24 + 12)) == (0, 0, 0)
    assert drawn.getpixel((216 + 24 + 12, text + 12)) == (40, 40, 40)
    faded = drawn.getpixel((108 + 24 + 12, text + 12))
    assert min(faded) > 150
    assert drawn_places(seen, selection([(0, 1, 3), (2, 0, 1)])) == {(0, 1, 3), (2, 0, 1)}


def test_of_many_frames_some_are_drawn_and_only_their_tokens() -> None:
    seen = plain_video(6, drawn=(0, 3))
    places = [(number, 0, number % 4) for number in range(6)]
    assert drawn_places(seen, selection(places)) == {(0, 0, 0), (3, 0, 3)}
    with pytest.raises(ValueError, match="keeps tokens of crop 6, but the image has 6 crops"):
        overlay(seen, selection([(6, 0, 0)]))
    pixels = torch.zeros(1, 30, 3, 24, 24)
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=6, image_size=24))
    many = seen_video({"pixel_values_videos": pixels}, video(30, 60), config, UNNORMALISED)
    assert many.numbers == (0, 3, 7, 11, 15, 18, 22, 26)
    assert len(many.numbers) == MOST_DRAWN
    assert many.described() == "30 of 60 frames read, 8 of them drawn"


def test_wide_frames_stand_in_several_rows() -> None:
    """60 patches each: two of them fit beside each other, of one with 200 patches no other does."""
    wide = tuple(Image.new("RGB", (360, 6)) for _ in range(4))
    seen = SeenVideo(wide, (0, 1, 2, 3), 6, 4, 1, video(4))
    assert seen.columns == 2
    lefts, tops = zip(*seen.origins(1), strict=True)
    assert lefts == (0, 372, 0, 372)
    assert tops[0] == tops[1] < tops[2] == tops[3]
    assert SeenVideo((Image.new("RGB", (1200, 6)),) * 2, (0, 1), 6, 2, 1, video(2)).columns == 1


@pytest.mark.parametrize(
    ("seen", "labels", "told"),
    [
        (plain_video(3), ["frame 1, 0.0 s", "frame 2, 0.5 s", "frame 3, 1.0 s"], "all 3 frames read"),
        (
            plain_video(2, together=2, read=3),
            ["frames 1-2, 0.0 s", "frame 3, 1.0 s"],
            "all 3 frames read in 2 pairs, of each pair the first frame",
        ),
    ],
)
def test_labels_say_which_frame_and_when(seen: SeenVideo, labels: list[str], told: str) -> None:
    assert [seen.label(number) for number in seen.numbers] == labels
    assert [text for text, _, _ in seen.captions(4)] == labels
    assert seen.described() == told
    assert [frame["crop"] for frame in seen.as_json()["frames"]] == [number // seen.together for number in range(3)]
    drawn = np.asarray(overlay(seen, None, scale=4))
    assert (drawn[: seen.origins(4)[0][1]] < 100).any(), "the labels are written above the frames"


def test_numbers_are_written_where_a_frame_has_few() -> None:
    seen = plain_video(3)
    few = selection([(frame, row, column) for frame in range(3) for row in range(2) for column in range(4)] * 4)
    many = selection([(0, row, column) for row in range(2) for column in range(4)] * 5)
    for kept, written in ((few, True), (many, False)):
        plain = np.asarray(overlay(seen, kept, scale=8, numbers=False))
        assert (np.asarray(overlay(seen, kept, scale=8)) != plain).any() == written


def test_the_figure_has_a_row_for_each_question_and_budget() -> None:
    seen = plain_video(3)
    kept = selection([(0, 0, 0), (1, 0, 0), (1, 1, 1), (2, 0, 0)])
    rows = [[Explanation(asked, budget, 9, 30, 4, 0.5, kept) for budget in (None, 2)] for asked in ("one?", "two?")]
    assert tokens_per_frame(rows[0][0]) == "1 to 2"
    figure = video_figure(seen, rows, title="clip.gif: all 3 frames read")
    assert len(figure.axes) == 4 + 1
    told = [text.get_text() for axes in figure.axes[:4] for text in axes.texts]
    assert told[:2] == ["1 to 2 tokens per frame", "4 tokens · prompt of 9 tokens · coverage 50.0%"]
    assert {"one?", "two?", "clip.gif: all 3 frames read"} <= {text.get_text() for text in figure.texts}
    assert rows[0][0].as_json()["vision_tokens_per_frame"] == [1, 2, 1]
