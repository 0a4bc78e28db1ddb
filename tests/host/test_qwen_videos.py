"""What videos of Qwen2.5-VL add: windows of each temporal patch, positions in time, and their grids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import CACHE, FAMILIES, IMAGE, VIDEO, Row
from test_qwen2_5_vl import in_the_order_of_the_prompt, merged, positions_read

from mmtok.hub import grids

FAMILY = FAMILIES["qwen2_5_vl"]
# Temporal patches of 3 x 4, 5 x 2 and 2 x 2 tokens.
ROWS: list[Row] = [[3, (3, 18, 24), 5], [2, (24, 36), 4, (2, 30, 12), 3], [7], [(14, 12, 12), 4]]
SECONDS = [1.0, 2.0, 1.0]
GREEDY: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": [IMAGE, VIDEO]}


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return FAMILY.models()


def test_the_tower_s_windows_are_undone_in_each_temporal_patch(models: tuple[Any, Any]) -> None:
    model, _ = models
    videos = FAMILY.videos(FAMILY.inputs(ROWS, model))
    with torch.no_grad(), merged(model) as seen:
        encoded = model.encode_images(**videos)
    [(means, outputs)] = seen
    projected, raw = torch.cat(list(encoded.projected)), torch.cat(list(encoded.raw))
    assert torch.equal(raw, in_the_order_of_the_prompt(means, outputs, projected))
    assert not torch.equal(raw, means)


def timed(rows: list[Row], model: Any, seconds: Any, *, left: bool = True) -> dict[str, Any]:
    """Inputs with the seconds between temporal patches, where images come without on this release."""
    inputs: dict[str, Any] = dict(FAMILY.inputs(rows, model, left=left))
    return inputs if seconds is None else {**inputs, "second_per_grid_ts": seconds}


# Releases about 5.5 take seconds for images too, so that there are none beside videos with seconds.
ONLY_VIDEOS: list[Row] = [ROWS[0], [2, (2, 30, 12), 3], ROWS[2], ROWS[3]]
TIMES: dict[str, tuple[list[Row], Any]] = {
    "none": (ROWS, None),
    "a tensor": (ONLY_VIDEOS, torch.tensor(SECONDS)),
    "a list": (ONLY_VIDEOS, SECONDS),
    "a list with a part of a second": (ONLY_VIDEOS, [0.5, 2.0, 1.5]),
}


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("case", TIMES)
def test_kept_tokens_keep_their_positions_and_decoding_goes_on_where_stock_would(
    models: tuple[Any, Any], case: str, beams: int
) -> None:
    model, stock = models
    rows, seconds = TIMES[case]
    inputs = timed(rows, model, seconds)
    full = FAMILY.positions(stock, inputs)["position_ids"]
    kept = model.select_vision_tokens(**inputs, vision_token_budget=2).kept_mask
    with positions_read(model) as read:
        model.generate(**inputs, vision_token_budget=2, num_beams=beams, **GREEDY)
    # Some releases cannot repeat a list for beams.
    repeatable = inputs if seconds is None else {**inputs, "second_per_grid_ts": torch.as_tensor(seconds)}
    with positions_read(stock) as expected:
        stock.generate(**repeatable, **GREEDY)
    for row, flags in enumerate(kept):
        found = read[0][-3:, row * beams, -int(flags.sum()) :]
        assert torch.equal(found, full[:, row, flags])
    for ours, theirs in zip(read[1:], expected[1:], strict=True):
        assert torch.equal(ours[-3:, ::beams], theirs[-3:])
    assert all(bool((places.diff(dim=1) <= 1).all()) for places in (step[0] for step in read if len(step) == 4))


def test_seconds_move_the_positions_in_time(models: tuple[Any, Any]) -> None:
    model, stock = models
    first = slice(5, 8)  # of three temporal patches one token each, behind BOS, three words and the marker
    found = []
    for seconds in (1.0, 3.0):
        inputs = timed(ONLY_VIDEOS[:1], model, [seconds])
        if len(FAMILY.positions(stock, inputs)["position_ids"][0, 0, 5:41].unique()) == 1:
            pytest.skip("the release does not number temporal patches")
        with positions_read(model) as read, torch.no_grad():
            model(**inputs, vision_token_budget=1)
        found.append(read[0][-3:, 0, first])
    speed = model.config.vision_config.tokens_per_second
    for times, seconds in zip((found[0][0], found[1][0]), (1, 3), strict=True):
        assert times.tolist() == [5 + seconds * speed * frame for frame in range(3)]
    assert torch.equal(found[0][1:], found[1][1:])


def test_a_forward_call_has_the_positions_of_generation(models: tuple[Any, Any]) -> None:
    model, stock = models
    inputs = timed(ONLY_VIDEOS, model, torch.tensor(SECONDS), left=False)
    full = FAMILY.positions(stock, inputs)["position_ids"]
    with positions_read(model) as read, torch.no_grad():
        output = model(**inputs, vision_token_budget=2, use_cache=True)
        model(torch.full((4, 2), 5), **{CACHE: output[CACHE]})
    for row, flags in enumerate(output.kept_mask):
        assert torch.equal(read[0][:, row, : int(flags.sum())], full[:, row, flags])
        last = int(full[0, row, inputs["attention_mask"][row].bool()][-1])
        assert read[1][:, row].tolist() == [[last + 1, last + 2]] * 3


def test_positions_that_are_given_win(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs(ROWS[:1], model)
    given = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1) + 7
    with positions_read(model) as read:
        output = model(**inputs, position_ids=given, vision_token_budget=2)
    assert torch.equal(read[0][-3:, 0], given[:, 0, output.kept_mask[0]])


def test_encoded_videos_keep_their_seconds(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = timed(ONLY_VIDEOS, model, torch.tensor(SECONDS))
    visuals = {name: inputs[name] for name in model.video_arguments}
    text = {name: values for name, values in inputs.items() if name not in visuals}
    encoded = model.encode_images(**visuals)
    found = []
    for images in (visuals, {"encoded_images": encoded}):
        with positions_read(model) as read:
            model.generate(**text, **images, vision_token_budget=2, **GREEDY)
        found.append(torch.cat([step.flatten() for step in read]))
    assert torch.equal(*found)


GRIDS: dict[str, tuple[Any, Any, str]] = {
    "none": (None, None, "video_grid_thw is missing: give frames, and rows and columns"),
    "two numbers": ([[2, 8]], None, r"video_grid_thw contains \[2, 8\]: give frames, and rows and columns"),
    "no frame": ([[0, 8, 8]], None, r"video_grid_thw contains \[0, 8, 8\]: give frames"),
    "odd rows": ([[2, 9, 8]], None, "rows and columns of patches that are multiples of 2"),
    "fewer patches": ([[2, 8, 10]], None, "makes 160 patches, but pixel_values_videos holds 128"),
    "more seconds": ([[2, 8, 8]], [1.0, 2.0], "second_per_grid_ts has 2 values for 1 videos"),
}


@pytest.mark.parametrize("case", GRIDS)
def test_grids_and_seconds_are_checked(models: tuple[Any, Any], case: str) -> None:
    model, _ = models
    grid, seconds, message = GRIDS[case]
    inputs: dict[str, Any] = dict(FAMILY.inputs([[3, (2, 24, 24), 4]], model))
    inputs["video_grid_thw"] = None if grid is None else torch.tensor(grid)
    for call in (model, model.generate, model.select_vision_tokens):
        with pytest.raises(ValueError, match=message):
            call(**inputs, second_per_grid_ts=seconds)


def test_a_frame_of_too_many_tokens_is_refused_before_it_is_encoded(
    models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = models
    monkeypatch.setattr(grids, "MOST_TOKENS", 20)
    large, long = (FAMILY.inputs([[3, size, 4]], model) for size in ((2, 24, 36), (9, 24, 24)))
    with (
        merged(model) as seen,
        pytest.raises(ValueError, match="A frame of a video has 24 vision tokens, and at most"),
    ):
        model(**large)
    assert not seen
    assert model(**large, vision_token_budget=None).logits.shape[1] == large["input_ids"].shape[1]
    # A video may have more: each frame is chosen from alone.
    [video] = model.select_vision_tokens(**long, vision_token_budget=2).images
    assert (video.num_tokens, len(video.indices)) == (9 * 16, 18)
