"""The images of Qwen2.5-VL: one grid of any size for each, whose patches a tower with windows puts in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .devices import sent
from .encoded_images import EncodedImages
from .host import projected_features, stock_positions
from .image_tokens import ImageTokens
from .llava_images import encode, require_pixels
from .prompt import Prompt

# The coverage matrix of so many tokens is 1 GiB in float32. It is what the published processors make at most.
MOST_TOKENS = 16_384


def encode_qwen2_5_vl(model: Any, inputs: Mapping[str, Any], *, padding: bool) -> EncodedImages:
    """The images of Qwen2.5-VL, one crop each.

    A vision token is projected from a square of patches; what it is before the projector is the mean of those.

    Args:
        model: a `Qwen2_5_VLForConditionalGeneration`.
        inputs: `pixel_values` (patches, values) and `image_grid_thw` (images, 3).
        padding: without effect, these images have none.

    Raises:
        ValueError: pixels that are no patches, NaN or infinite; grids that do not belong to them; too large an image.
    """
    pixels, vision = inputs["pixel_values"], model.config.vision_config
    require_pixels(pixels, ("patches, values",))
    # Read here, so that nothing waits for the vision tower later.
    grids = checked_grids(inputs.get("image_grid_thw"), vision.spatial_merge_size, len(pixels))
    layouts = [grid_layout(*grid) for grid in grids]
    outputs, patches, _ = encode(model, model.model.visual.merger, inputs)
    projected = projected_features(outputs)
    side = vision.window_size // vision.spatial_merge_size // vision.patch_size
    place = torch.argsort(window_order(layouts, side))
    raw = patches.reshape(-1, vision.spatial_merge_size**2, patches.shape[-1]).mean(1)[sent(place, patches.device)]
    raws = raw.split([len(layout.source) for layout in layouts])
    return EncodedImages(projected, raws, layouts, outputs=outputs)


def qwen_positions(model: Any, prompt: Prompt, layouts: Sequence[ImageTokens]) -> torch.Tensor:
    """(3, B, L) int64 on the CPU: the positions of a full prompt, counted by the stock model's own method.

    Args:
        model: a stock model of Qwen-VL.
        prompt: the prompt.
        layouts: of its images and videos, in the order of the prompt.
    """
    config, merged = model.config, model.config.vision_config.spatial_merge_size
    ids = prompt.ids_on_host
    if ids is None:
        # What precedes an image is taken for the marker in front of it, by which some releases find images.
        before = torch.nn.functional.pad(prompt.image_mask[:, 1:], (0, 1))
        ids = torch.where(before, config.vision_start_token_id, -1)
        ids = torch.where(prompt.image_mask, config.image_token_id, ids)
    grids = [(1, (int(layout.row.max()) + 1) * merged, (int(layout.column.max()) + 1) * merged) for layout in layouts]
    return stock_positions(
        model,
        {
            "input_ids": ids,
            "attention_mask": ((prompt.mask_on_host != 0) | prompt.image_mask).long(),
            "mm_token_type_ids": prompt.image_mask.int(),
            "image_grid_thw": torch.tensor(grids),
        },
    )


def grid_layout(rows: int, columns: int) -> ImageTokens:
    """Where the tokens of an image of so many rows and columns of tokens come from."""
    tokens = rows * columns
    return ImageTokens.of(torch.arange(tokens), crops=1, tokens_per_crop=tokens, columns=columns)


def window_order(layouts: Sequence[ImageTokens], side: int) -> torch.Tensor:
    """(all tokens,) int64 on the CPU: the tokens of the images in the order of the tower, window by window.

    Args:
        layouts: of the images.
        side: tokens along the side of a window.
    """
    orders, first = [], 0
    for layout in layouts:
        across = int(layout.column.max()) // side + 1
        windows = (layout.row // side) * across + layout.column // side
        orders.append(windows.sort(stable=True).indices + first)
        first += len(windows)
    return torch.cat(orders)


def checked_grids(grids: Any, merged: int, patches: int) -> list[tuple[int, int]]:
    """Rows and columns of vision tokens of each image.

    Args:
        grids: `image_grid_thw`, (images, 3): frames, rows and columns of patches.
        merged: patches along the side of a vision token.
        patches: of all images.

    Raises:
        ValueError: none were given, one is no grid, or an image has too many tokens.
    """
    if grids is None:
        raise ValueError(
            "image_grid_thw is missing: give (frames, rows, columns) of each image, as the processor does."
        )
    grids = grids.tolist() if isinstance(grids, torch.Tensor) else [list(grid) for grid in grids]
    for grid in grids:
        if len(grid) != 3 or min(grid) < 1 or grid[0] != 1 or grid[1] % merged or grid[2] % merged:
            raise ValueError(
                f"image_grid_thw contains {grid}: give 1 frame, and rows and columns of patches that are multiples of "
                f"{merged}."
            )
        tokens = grid[1] * grid[2] // merged**2
        if tokens > MOST_TOKENS:
            raise ValueError(
                f"An image has {tokens} vision tokens, and at most {MOST_TOKENS} can be chosen from: lower max_pixels "
                "of the processor, or turn pruning off with vision_token_budget=None."
            )
    needed = sum(rows * columns for _, rows, columns in grids)
    if needed != patches:
        raise ValueError(
            f"image_grid_thw has {len(grids)} rows, which makes {needed} patches, but pixel_values holds {patches}: "
            "give one grid for each image."
        )
    return [(rows // merged, columns // merged) for _, rows, columns in grids]
