"""The images and videos of Qwen-VL: grids of any size. A tower with windows puts their patches in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from .devices import sent
from .host import deepstack_features, projected_features, stock_positions
from .images import EncodedVision, ImageTokens
from .llava_images import encode, require_pixels, table_of
from .prompt import Prompt

# Of an image or a frame: the coverage matrix of so many tokens is 1 GiB in float32. It is what the published processors
# make at most.
MOST_TOKENS = 16_384


def encode_qwen2_5_vl(model: Any, inputs: Mapping[str, Any], *, padding: bool) -> EncodedVision:
    """The images of Qwen2.5-VL, one crop each.

    A vision token is projected from a square of patches; what it is before the projector is the mean of those.

    Args:
        model: a `Qwen2_5_VLForConditionalGeneration`.
        inputs: `pixel_values` (patches, values) and `image_grid_thw` (images, 3).
        padding: without effect, these images have none.

    Raises:
        ValueError: pixels that are no patches, NaN or infinite; grids that do not belong to them; too large an image.
    """
    pixels, merged = inputs["pixel_values"], model.config.vision_config.spatial_merge_size
    _require_patches(pixels, model.config.vision_config, "pixel_values")
    # Read here, so that nothing waits for the vision tower later.
    grids = checked_grids(inputs.get("image_grid_thw"), merged, len(pixels))
    layouts = [grid_layout(*grid) for grid in grids]
    inputs = {**inputs, "image_grid_thw": _as_tensor(inputs["image_grid_thw"], pixels)}
    outputs, patches, _ = encode(model, model.model.visual.merger, inputs)
    raw = unmerged_tokens(model.config.vision_config, patches, layouts)
    return EncodedVision(projected_features(outputs), raw, layouts, outputs=outputs)


def encode_qwen3_vl(model: Any, inputs: Mapping[str, Any], *, padding: bool) -> EncodedVision:
    """The images of Qwen3-VL, one crop each, with the features of DeepStack. Its tower has no windows.

    A vision token is projected from a square of patches; what it is before the projector is the mean of those.

    Args:
        model: a `Qwen3VLForConditionalGeneration`.
        inputs: `pixel_values` (patches, values) and `image_grid_thw` (images, 3).
        padding: without effect, these images have none.

    Raises:
        ValueError: pixels that are no patches, NaN or infinite; grids that do not belong to them; too large an image.
    """
    encoded = encode_qwen2_5_vl(model, inputs, padding=padding)
    return replace(encoded, deepstack=deepstack_features(encoded.outputs, encoded.lengths))


def encode_qwen2_5_vl_videos(model: Any, inputs: Mapping[str, Any]) -> EncodedVision:
    """The videos of Qwen2.5-VL, one crop for each temporal patch, which is a pair of frames.

    Args:
        model: a `Qwen2_5_VLForConditionalGeneration`.
        inputs: `pixel_values_videos` (patches, values), `video_grid_thw` (videos, 3) and `second_per_grid_ts`
            (videos,), the seconds from one temporal patch to the next, or none.

    Raises:
        ValueError: pixels that are no patches, NaN or infinite; grids or seconds that do not belong to them; too large
            a frame.
    """
    inputs = dict(inputs)
    pixels, merged = inputs["pixel_values_videos"], model.config.vision_config.spatial_merge_size
    _require_patches(pixels, model.config.vision_config, "pixel_values_videos")
    grids = checked_grids(inputs.get("video_grid_thw"), merged, len(pixels), videos=True)
    seconds = inputs.pop("second_per_grid_ts", None)
    if isinstance(seconds, torch.Tensor):
        seconds = seconds.cpu()
    seconds = [None] * len(grids) if seconds is None else list(seconds)
    if len(seconds) != len(grids):
        raise ValueError(
            f"second_per_grid_ts has {len(seconds)} values for {len(grids)} videos: give one value for each video."
        )
    layouts = [grid_layout(*grid, is_video=True, seconds=own) for grid, own in zip(grids, seconds, strict=True)]
    inputs["video_grid_thw"] = _as_tensor(inputs["video_grid_thw"], pixels)
    outputs, patches, _ = encode(model, model.model.visual.merger, inputs, model.get_video_features)
    projected = projected_features(outputs, "get_video_features")
    raw = unmerged_tokens(model.config.vision_config, patches, layouts)
    return EncodedVision(projected, raw, layouts, video_outputs=outputs)


def encode_qwen3_vl_videos(model: Any, inputs: Mapping[str, Any]) -> EncodedVision:
    """The videos of Qwen3-VL, one crop for each temporal patch, which is a pair of frames, with those of DeepStack.

    Args:
        model: a `Qwen3VLForConditionalGeneration`.
        inputs: `pixel_values_videos` (patches, values) and `video_grid_thw` (videos, 3).

    Raises:
        ValueError: as `encode_qwen2_5_vl_videos`.
    """
    encoded = encode_qwen2_5_vl_videos(model, inputs)
    return replace(encoded, deepstack=deepstack_features(encoded.video_outputs, encoded.lengths, "get_video_features"))


def unmerged_tokens(
    vision_config: Any, patches: torch.Tensor, layouts: Sequence[ImageTokens]
) -> Sequence[torch.Tensor]:
    """For each image (T, d), the mean of each token's patches, tokens in the prompt's order.

    Args:
        vision_config: of the tower.
        patches: (all patches, ..., d), the projector's input, in the order of the tower.
        layouts: of the images.
    """
    raw = patches.reshape(-1, vision_config.spatial_merge_size**2, patches.shape[-1]).mean(1)
    window = getattr(vision_config, "window_size", None)
    if window is not None:
        side = window // vision_config.spatial_merge_size // vision_config.patch_size
        raw = raw[sent(torch.argsort(window_order(layouts, side)), patches.device)]
    return raw.split([len(layout.source) for layout in layouts])


def qwen_positions(model: Any, prompt: Prompt, layouts: Sequence[ImageTokens]) -> torch.Tensor:
    """(3, B, L) int64 on the CPU: the positions of a full prompt of Qwen2.5-VL, counted by the stock model's method.

    Args:
        model: a stock model of Qwen-VL.
        prompt: the prompt.
        layouts: of its images and videos, in the order of the prompt.

    Raises:
        ValueError: tokens of an image or video that touch those of another, or have text between them.
    """
    return _positions(model, prompt, layouts, [len(each.crop) for each in layouts])


def qwen3_positions(model: Any, prompt: Prompt, layouts: Sequence[ImageTokens]) -> torch.Tensor:
    """As `qwen_positions` for Qwen3-VL, where a timestamp stands in front of each temporal patch of a video.

    Raises:
        ValueError: tokens of an image or temporal patch that touch those of another, or have text between them.
    """
    return _positions(model, prompt, layouts, [count for each in layouts for count in each.crop.bincount().tolist()])


def _positions(model: Any, prompt: Prompt, layouts: Sequence[ImageTokens], runs: Sequence[int]) -> torch.Tensor:
    """(3, B, L) positions of a prompt whose vision tokens stand in runs of so many."""
    config, merged = model.config, model.config.vision_config.spatial_merge_size
    ids = prompt.ids_on_host
    if ids is None:
        # What precedes an image is taken for the marker in front of it, by which some releases find images.
        before = torch.nn.functional.pad(prompt.image_mask[:, 1:], (0, 1))
        ids = torch.where(before, config.vision_start_token_id, -1)
        ids = torch.where(prompt.image_mask, config.image_token_id, ids)
        ids = torch.where(prompt.video_mask, config.video_token_id, ids)
    images, videos = ([each for each in layouts if each.is_video == wanted] for wanted in (False, True))
    real = (prompt.mask_on_host != 0) | prompt.image_mask
    # 1 for images and 2 for videos.
    types = prompt.image_mask.int() + prompt.video_mask.int()
    _require_runs(types, real, runs)
    inputs = {
        "input_ids": ids,
        "attention_mask": real.long(),
        "mm_token_type_ids": types,
        "image_grid_thw": _grids_of(images, merged),
        "video_grid_thw": _grids_of(videos, merged),
    }
    if any(video.seconds is not None for video in videos):
        inputs["second_per_grid_ts"] = [1.0 if video.seconds is None else video.seconds for video in videos]
    return stock_positions(model, inputs)


def _require_runs(types: torch.Tensor, real: torch.Tensor, lengths: Sequence[int]) -> None:
    """Raises a ValueError unless the vision tokens stand in runs of these lengths, by which stock tells images apart.

    Args:
        types: (B, L), 0 for text, 1 for images and 2 for videos.
        real: (B, L) bool, False for padding.
        lengths: of the images, and of the videos or their temporal patches.
    """
    found = []
    for row, own in zip(types, real, strict=True):
        kinds, counts = row[own].unique_consecutive(return_counts=True)
        found += counts[kinds > 0].tolist()
    if found != list(lengths):
        raise ValueError(
            f"The vision tokens stand in runs of {_some(found)} tokens, and the images and videos have "
            f"{_some(lengths)}: let the tokens of each be one run, in Qwen3-VL those of each temporal patch of a "
            "video, with a token of text between two of them."
        )


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


def _grids_of(layouts: Sequence[ImageTokens], merged: int) -> torch.Tensor | None:
    """(n, 3) int64, frames, rows and columns of patches of images or videos; None for none."""
    sides = [[int(part.max()) + 1 for part in (each.crop, each.row, each.column)] for each in layouts]
    return torch.tensor(sides) * torch.tensor([1, merged, merged]) if sides else None


def grid_layout(frames: int, rows: int, columns: int, *, is_video: bool = False, seconds: Any = None) -> ImageTokens:
    """Where the tokens of an image or video of so many frames, rows and columns of tokens come from."""
    return ImageTokens.of(
        torch.arange(frames * rows * columns),
        crops=frames,
        tokens_per_crop=rows * columns,
        columns=columns,
        is_video=is_video,
        seconds=seconds,
    )


def window_order(layouts: Sequence[ImageTokens], side: int) -> torch.Tensor:
    """(all tokens,) int64 on the CPU: the tokens of the images in the order of the tower, window by window.

    Args:
        layouts: of the images; of a video, the windows of a frame follow those of the one before.
        side: tokens along the side of a window.
    """
    orders, first = [], 0
    for layout in layouts:
        down, across = (int(part.max()) // side + 1 for part in (layout.row, layout.column))
        windows = (layout.crop * down + layout.row // side) * across + layout.column // side
        orders.append(windows.sort(stable=True).indices + first)
        first += len(windows)
    return torch.cat(orders)


def checked_grids(grids: Any, merged: int, patches: int, *, videos: bool = False) -> list[tuple[int, int, int]]:
    """Frames, rows and columns of vision tokens of each image or video.

    Args:
        grids: `image_grid_thw` or `video_grid_thw`, (n, 3): frames, rows and columns of patches.
        merged: patches along the side of a vision token.
        patches: of all images.
        videos: whether they are videos, whose frames are temporal patches.

    Raises:
        ValueError: none were given, one is no grid, or an image or frame has too many tokens.
    """
    kind, frames = ("video", "frames") if videos else ("image", "1 frame")
    wanted = (
        f"give {frames}, and rows and columns of patches that are multiples of {merged}, of each {kind}, as the "
        "processor does"
    )

    def is_grid(grid: list[int]) -> bool:
        whole = len(grid) == 3 and min(grid) >= 1 and grid[1] % merged == grid[2] % merged == 0
        return whole and (videos or grid[0] == 1)

    table = table_of(f"{kind}_grid_thw", grids, wanted, is_grid)
    for grid in table:
        tokens = grid[1] * grid[2] // merged**2
        if tokens > MOST_TOKENS:
            raise ValueError(
                f"{'A frame of a video' if videos else 'An image'} has {tokens} vision tokens, and at most "
                f"{MOST_TOKENS} can be chosen from: lower max_pixels of the processor, or turn pruning off with "
                "vision_token_budget=None."
            )
    needed = sum(count * rows * columns for count, rows, columns in table)
    if needed != patches:
        pixels = "pixel_values_videos" if videos else "pixel_values"
        raise ValueError(
            f"{kind}_grid_thw has {len(table)} rows, which makes {needed} patches, but {pixels} holds {patches}: "
            f"give one grid for each {kind}."
        )
    return [(count, rows // merged, columns // merged) for count, rows, columns in table]


def _require_patches(pixels: torch.Tensor, vision_config: Any, name: str) -> None:
    """Raises a ValueError unless the pixels are patches of the tower's size, without NaN or infinity."""
    require_pixels(pixels, ("patches, values",), name)
    values = vision_config.in_channels * vision_config.temporal_patch_size * vision_config.patch_size**2
    if pixels.shape[1] != values:
        raise ValueError(f"{name} has {pixels.shape[1]} values a patch: give {values}, as the processor does.")


def _as_tensor(grids: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Checked grids as stock takes them."""
    if isinstance(grids, torch.Tensor) and grids.dtype in (torch.int32, torch.int64):
        return grids
    return torch.tensor([[int(value) for value in grid] for grid in grids], device=pixels.device)
