"""Images and videos that are grids of any size, as in the Qwen-VL models: a vision token for a square of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch

from .devices import to_device
from .images import EncodedVision, Geometry, Layout, encode, require_pixels, table_of
from .options import PruningOptions
from .prompt import Prompt
from .pruned_model import PrunedModel
from .releases import projected_features, stock_positions
from .selection import crops_of

# Of an image or a frame: the coverage matrix of so many tokens is 1 GiB in float32. It is what the published processors
# make at most.
MOST_TOKENS = 16_384
_PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


class GridGeometry(Geometry):
    """An image of any size is one crop; a video has one for each temporal patch, which is a pair of frames.

    Sizes are (rows, columns) or (1, rows, columns) of tokens; of a video (frames, rows, columns, seconds of a frame or
    None).
    """

    @property
    def merged(self) -> int:
        """Patches along the side of a vision token."""
        return int(self.config.vision_config.spatial_merge_size)

    @property
    def unit(self) -> tuple[int, int, int]:
        """Frames, and rows and columns of patches, of one vision token."""
        return 1, self.merged, self.merged

    @property
    def side(self) -> int:
        """Pixels along the side of a vision token."""
        return int(self.config.vision_config.patch_size) * self.merged

    @property
    def examples(self) -> Mapping[str, Sequence[int]]:
        sizes = ((16, 16), (24, 32), (36, 48), (64, 64))
        return {f"{columns * self.side} x {rows * self.side} pixels": (rows, columns) for rows, columns in sizes}

    @property
    def about(self) -> str:
        return (
            f"An image is one crop of its own size, scaled to multiples of {self.side} pixels: a vision token for each "
            f"{self.side} x {self.side} pixels.\nA number keeps as many tokens of every image, a share as large a part."
        )

    def layout(self, size: Sequence[Any], tiled: bool = True) -> Layout:
        frames, rows, columns, *seconds = size if len(size) > 2 else (1, *size)
        return Layout.of(
            torch.arange(frames * rows * columns),
            crops=frames,
            tokens_per_crop=rows * columns,
            columns=columns,
            is_video=bool(seconds),
            seconds=seconds[0] if seconds else None,
        )

    def shrunk(self, inputs: Mapping[str, Any], scale: float | None) -> dict[str, Any]:
        """The inputs of a model as they are where the processor shrinks images and frames: other pixels and grids.

        Raises:
            ValueError: grids that do not belong to the pixels.
        """
        changed = dict(inputs)
        for kind, name in _PIXELS.items():
            patches = inputs.get(name)
            if scale is None or patches is None or len(patches) == 0:
                continue
            sizes = checked_grids(inputs.get(f"{kind}_grid_thw"), self.merged, len(patches), videos=kind == "video")
            new = [(size[0], *(max(1, round(side * scale)) for side in size[1:])) for size in sizes]
            grids, small = (torch.tensor(each) * torch.tensor(self.unit) for each in (sizes, new))
            parts = patches.split(grids.prod(1).tolist())
            vision = self.config.vision_config
            changed[name] = torch.cat(list(map(partial(_resized, vision), parts, grids.tolist(), small.tolist())))
            changed[f"{kind}_grid_thw"] = small
        return changed

    def kept_of_frames(self, size: Sequence[Any], options: PruningOptions) -> list[int]:
        """For an image, or for each frame of a video, how many vision tokens stay."""
        layout = self.layout(size)
        if not options.prunes:
            return layout.crop.bincount().tolist()
        return [crop.picks for crop in crops_of([layout], None, options)]

    def sizes(self, grids: Any, patches: int, *, prunes: bool = True, seconds: Any = None) -> list[tuple[Any, ...]]:
        """The sizes of images, or with `seconds` of videos.

        Args:
            grids: `image_grid_thw` or `video_grid_thw`, (n, 3): frames, rows and columns of patches.
            patches: of all of them.
            prunes: whether they are to be pruned.
            seconds: of videos, from one frame to the next, one number or None for each.

        Raises:
            ValueError: none were given, one is not a grid, or an image or frame has too many tokens to choose from.
        """
        videos = seconds is not None
        if prunes:
            sizes = checked_grids(grids, self.merged, patches, videos=videos)
        else:
            sizes = [(frames, rows // self.merged, columns // self.merged) for frames, rows, columns in grids.tolist()]
        if not videos:
            return [size[1:] for size in sizes]
        return [(*size, own) for size, own in zip(sizes, seconds, strict=True)]


class GridModel(PrunedModel):
    """A model whose images are grids, with a tower `visual` that ends in a projector `merger`."""

    geometry_class = GridGeometry
    geometry: GridGeometry
    image_arguments = ("pixel_values", "image_grid_thw")
    video_arguments: ClassVar[tuple[str, ...]] = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
    own_options: ClassVar = {"image_scale": None}
    frame = "pair of frames that the tower reads together"
    position_axes = 3
    returns_images = False
    # Whether each temporal patch of a video is a run of vision tokens of its own.
    has_timestamps: ClassVar[bool] = False
    model: Any

    def arrange(self, prompt: Prompt, encoded: EncodedVision) -> tuple[Prompt, EncodedVision]:
        """As `PrunedModel.arrange`; of the tokens that stand for a shrunk image or frame, the first stay."""
        if not any(layout.surplus for layout in encoded.layouts):
            return super().arrange(prompt, encoded)
        filled = [layout.filled for layout in encoded.layouts]
        order = prompt.order_of(list(map(len, filled)), encoded.videos)
        prompt.rows_of_images([len(filled[number]) for number in order])
        return prompt.without(~torch.cat([filled[number] for number in order])), encoded.ordered(order)

    def encode(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """One crop an image.

        A vision token is projected from a square of patches; what it is before the projector is the mean of those.

        Args:
            inputs: `pixel_values` (patches, values) and `image_grid_thw` (images, 3).

        Raises:
            ValueError: pixels that are not patches, NaN or infinite; grids that do not belong to them; too large an
                image.
        """
        return self._encode_grids("image", inputs, options.image_scale)

    def encode_videos(self, inputs: Mapping[str, Any], options: PruningOptions) -> EncodedVision:
        """One crop for each temporal patch of a video, which is a pair of frames.

        Args:
            inputs: `pixel_values_videos` (patches, values), `video_grid_thw` (videos, 3), `second_per_grid_ts`
                (videos,), the seconds from one temporal patch to the next, or none.

        Raises:
            ValueError: pixels that are not patches, NaN or infinite; grids or seconds that do not belong to them; too
                large a frame.
        """
        return self._encode_grids("video", inputs, options.image_scale)

    def _encode_grids(self, kind: str, inputs: Mapping[str, Any], scale: float | None) -> EncodedVision:
        name, grids, method, is_video = _PIXELS[kind], f"{kind}_grid_thw", f"get_{kind}_features", kind == "video"
        inputs, vision = dict(inputs), self.config.vision_config
        pixels, seconds = inputs[name], inputs.pop("second_per_grid_ts", None)
        require_pixels(pixels, ("patches, values",), name)
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        if pixels.shape[1] != values:
            raise ValueError(f"{name} has {pixels.shape[1]} values a patch: give {values}, as the processor does.")
        # Read here, so that nothing waits for the vision tower later.
        sizes = checked_grids(inputs.get(grids), self.geometry.merged, len(pixels), videos=is_video)
        inputs = self.geometry.shrunk(inputs, scale)
        shrunk = (inputs[grids] // torch.tensor(self.geometry.unit)).tolist() if scale else sizes
        if isinstance(seconds, torch.Tensor):
            seconds = seconds.cpu()
        seconds = [None] * len(sizes) if seconds is None else list(seconds)
        if len(seconds) != len(sizes):
            raise ValueError(
                f"second_per_grid_ts has {len(seconds)} values for {len(sizes)} videos: give one value for each video."
            )
        layouts = [
            replace(
                self.geometry.layout((*new, own) if is_video else new),
                scale=scale,
                surplus=size[1] * size[2] - new[1] * new[2],
            )
            for size, new, own in zip(sizes, shrunk, seconds, strict=True)
        ]
        given = inputs[grids]
        if not isinstance(given, torch.Tensor) or given.dtype not in (torch.int32, torch.int64):
            given = torch.tensor([[int(value) for value in grid] for grid in given])
        inputs[grids] = to_device(given, pixels.device)
        outputs, patches, _ = encode(self, self.model.visual.merger, inputs, getattr(self, method))
        own = {"video_outputs" if is_video else "outputs": outputs}
        return EncodedVision(projected_features(outputs, method), self.raw_of(patches, layouts), layouts, **own)

    def raw_of(self, given: torch.Tensor, layouts: Sequence[Layout]) -> Sequence[torch.Tensor]:
        """For each image (T, d), its tokens before the projector: the mean of the patches of each, `given` to it."""
        return unmerged_tokens(self.config.vision_config, given, layouts)

    def count_positions(self, prompt: Prompt, layouts: Sequence[Layout]) -> torch.Tensor:
        """(3, B, L) int64 on the CPU: the positions of a full prompt, counted by the stock model's method.

        Raises:
            ValueError: tokens of an image or video that touch those of another, or have text between them.
        """
        runs = [len(each.crop) for each in layouts]
        if self.has_timestamps:
            runs = [count for each in layouts for count in each.crop.bincount().tolist()]
        config = self.config
        ids = prompt.ids_on_host
        if ids is None:
            # What precedes an image is taken for the marker in front of it, by which some releases find images.
            before = torch.nn.functional.pad(prompt.image_mask[:, 1:], (0, 1))
            start = getattr(config, "vision_start_token_id", None) or getattr(config, "image_start_token_id", -1)
            ids = torch.where(before, start, -1)
            ids = torch.where(prompt.image_mask, config.image_token_id, ids)
            ids = torch.where(prompt.video_mask, config.video_token_id, ids)
        real = prompt.real
        # 1 for images and 2 for videos.
        types = prompt.image_mask.int() + prompt.video_mask.int()
        found = []
        for row, own in zip(types, real, strict=True):
            kinds, counts = row[own].unique_consecutive(return_counts=True)
            found += counts[kinds > 0].tolist()
        if found != runs:  # by which stock tells images apart
            raise ValueError(
                f"The vision tokens stand in runs of {_some(found)} tokens, and the images and videos have "
                f"{_some(runs)}: let the tokens of each be one run, in Qwen3-VL those of each temporal patch of a "
                "video, with a token of text between two of them."
            )
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": real.long(),
            "mm_token_type_ids": types,
        }
        for name, is_video in (("image_grid_thw", False), ("video_grid_thw", True)):
            own = [each for each in layouts if each.is_video == is_video]
            sides = [[int(part.max()) + 1 for part in (each.crop, each.row, each.column)] for each in own]
            inputs[name] = torch.tensor(sides) * torch.tensor(self.geometry.unit) if sides else None
        seconds = [each.seconds for each in layouts if each.is_video]
        if any(own is not None for own in seconds):
            inputs["second_per_grid_ts"] = [1.0 if own is None else own for own in seconds]
        return stock_positions(self, inputs)


class TimestampModel(GridModel):
    """As `GridModel`; words in front of each temporal patch of a video say when it is seen."""

    video_arguments = ("pixel_values_videos", "video_grid_thw")
    has_timestamps = True


def pixels_of(vision_config: Any, patches: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """(frames, frames of a patch, 3, height, width) pixels of an image or video.

    Args:
        vision_config: of the tower.
        patches: (frames * rows * columns, values) in the order of the vision tokens, those of a token one after
            another.
        grid: frames, and rows and columns of patches.
    """
    patch, merged = int(vision_config.patch_size), int(vision_config.spatial_merge_size)
    frames, rows, columns = grid
    parts = patches.reshape(frames, rows // merged, columns // merged, merged, merged, 3, -1, patch, patch)
    return parts.permute(0, 6, 5, 1, 3, 7, 2, 4, 8).reshape(frames, -1, 3, rows * patch, columns * patch)


def _resized(vision_config: Any, patches: torch.Tensor, grid: list[int], new: list[int]) -> torch.Tensor:
    """The patches of an image or video of one grid, resized to those of another; each as in `pixels_of`."""
    if grid == new:
        return patches
    patch, merged = int(vision_config.patch_size), int(vision_config.spatial_merge_size)
    pixels = pixels_of(vision_config, patches, grid).float()  # float32 can be resized on every device
    black, white = (bound.view(-1, 1, 1) for bound in (pixels.amin((0, 1, 3, 4)), pixels.amax((0, 1, 3, 4))))
    small = pixels.flatten(0, 1)
    # One axis after the other, as processors do; their bytes cut off what the curve adds beyond black and white.
    for size in ((pixels.shape[3], new[2] * patch), (new[1] * patch, new[2] * patch)):
        small = torch.nn.functional.interpolate(small, size, mode="bicubic", antialias=True).clamp(black, white)
    tiles = small.unflatten(3, (-1, merged, patch)).unflatten(2, (-1, merged, patch))
    tiles = tiles.unflatten(0, pixels.shape[:2]).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return tiles.reshape(-1, patches.shape[1]).to(patches.dtype)


def unmerged_tokens(vision_config: Any, patches: torch.Tensor, layouts: Sequence[Layout]) -> Sequence[torch.Tensor]:
    """For each image (T, d), the mean of each token's patches, tokens in the prompt's order.

    `patches` are (all patches, ..., d), the projector's input, in the order of the tower.
    """
    raw = patches.reshape(-1, vision_config.spatial_merge_size**2, patches.shape[-1]).mean(1)
    window = getattr(vision_config, "window_size", None)
    if window is not None:
        side = window // vision_config.spatial_merge_size // vision_config.patch_size
        raw = raw[to_device(torch.argsort(window_order(layouts, side)), patches.device)]
    return raw.split([len(layout.source) for layout in layouts])


def window_order(layouts: Sequence[Layout], side: int) -> torch.Tensor:
    """(all tokens,) int64 on the CPU: the tokens of the images in the order of the tower, window by window.

    A window has `side` tokens along its side; those of a frame of a video follow those of the frame before.
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
        ValueError: none were given, one is not a grid, or an image or frame has too many tokens.
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
        raise ValueError(
            f"{kind}_grid_thw has {len(table)} rows, which makes {needed} patches, but {_PIXELS[kind]} holds "
            f"{patches}: give one grid for each {kind}."
        )
    return [(count, rows // merged, columns // merged) for count, rows, columns in table]


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
