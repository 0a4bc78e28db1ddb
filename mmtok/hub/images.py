"""The images and videos of a batch: where their vision tokens come from, and these tokens around the projector."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Layout:
    """Where the T vision tokens of one image or video come from, in prompt order; int64 on the CPU.

    Attributes:
        source: (T,) index of the token among the image's crops x tokens before packing; -1 for a row separator.
        crop: (T,) number of the crop, 0 for the whole image, or of the frame; -1 for a row separator.
        row, column: (T,) place in the crop's grid of patches; -1 where there is none.
        tokens_before_packing: crops x tokens, which `source` counts in.
        is_video: whether the crops are the frames of a video.
        seconds: between two frames, a number as the caller gave it; None where nobody did.
        ends_rows: whether a separator stays with the tokens of the row that it ends, and goes with the last of them.
        scale: what the image was shrunk by inside the model; None for not at all.
        surplus: tokens of the prompt behind those of each crop that a shrunk image has no features for.
    """

    source: torch.Tensor
    crop: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    tokens_before_packing: int
    is_video: bool = False
    seconds: Any = None
    ends_rows: bool = False
    scale: float | None = None
    surplus: int = 0

    @property
    def filled(self) -> torch.Tensor:
        """(tokens of the prompt,) bool on the CPU, False for those of `surplus`."""
        crops = int(self.crop.max()) + 1 if self.surplus else 1
        own = len(self.source) // crops
        return (torch.arange(own + self.surplus) < own).repeat(crops)

    @classmethod
    def of(cls, source: torch.Tensor, *, crops: int, tokens_per_crop: int, columns: int, **further: Any) -> Layout:
        """Reads crop, row and column off `source`.

        Args:
            source: (T,) int64, -1 for a row separator.
            crops: of the image.
            tokens_per_crop: before packing.
            columns: patches in a row of a crop, 0 where the tokens form no grid.
            **further: attributes that have a default.
        """
        separator = source < 0
        position = source % tokens_per_crop
        if columns:
            # Tokens in front of the grid, such as CLIP's CLS, have no place in it.
            position = position - tokens_per_crop % columns
        placed = ~separator & (position >= 0) & bool(columns)
        width = max(columns, 1)
        return cls(
            source,
            torch.where(separator, -1, source // tokens_per_crop),
            torch.where(placed, position // width, -1),
            torch.where(placed, position % width, -1),
            crops * tokens_per_crop,
            **further,
        )


class Geometry:
    """What is known of an image from the configuration alone. Here it is one crop, a grid of the tower's patches.

    A size is (height, width) of an image in pixels; of a video, and for other families, what their geometry says.

    Args:
        config: of the model.
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def tokens_per_crop(self) -> int:
        """Vision tokens of a crop in front of the projector."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        first = vision.model_type == "clip_vision_model"  # CLS
        return side * side + first - (self.config.vision_feature_select_strategy == "default")

    @property
    def largest_image(self) -> Sequence[int]:
        """The size of an image of the most tokens."""
        return (self.config.vision_config.image_size,) * 2

    @property
    def examples(self) -> Mapping[str, Sequence[int]]:
        """Images of some sizes, by their names in a table of budgets."""
        return {"1 crop": self.largest_image}

    @property
    def about(self) -> str:
        """Sentences that say what the crops of an image are."""
        return f"One crop is {len(self.layout(self.largest_image).source)} vision tokens. An image is one crop."

    @staticmethod
    def require_supported(config: Mapping[str, Any]) -> None:
        """Raises a ValueError where images of a `config.json` with this content cannot be pruned."""

    def pictures(self, inputs: Mapping[str, Any]) -> list[tuple[list[torch.Tensor], tuple[int, int]]]:
        """What the tower saw, for drawings: for each image its crops by number, and rows and columns of those behind 0.

        A crop is (channels, height, width) of normalised pixels, with as many rows and columns of equal squares as its
        layout has.
        """
        return [([crop], (0, 0)) for crop in inputs["pixel_values"]]

    def tiled(self, images: int) -> bool:
        """Whether each image of a prompt with so many is seen in tiles, where the family has tiles."""
        return True

    def crops(self, size: Sequence[int], tiled: bool = True) -> int:
        """Crops of an image."""
        return 1

    def layout(self, size: Sequence[int], tiled: bool = True) -> Layout:
        """Where the tokens of an image come from."""
        return self.crop_layout(self.tokens_per_crop)

    def crop_layout(self, tokens: int, crops: int = 1, source: torch.Tensor | None = None) -> Layout:
        """Where the tokens of an image come from, of so many in each crop.

        `source` is (T,) int64, -1 for a row separator; None for all tokens of all crops, crops one after another.
        """
        source = torch.arange(crops * tokens) if source is None else source
        return Layout.of(source, crops=crops, tokens_per_crop=tokens, columns=self.columns(tokens))

    def columns(self, tokens: int) -> int:
        """Patches in a row of a crop, 0 where `tokens` tokens are not the grid of the vision tower."""
        vision = self.config.vision_config
        image_size, patch_size = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
        if not isinstance(image_size, int) or not isinstance(patch_size, int):
            return 0
        side = image_size // patch_size
        return side if tokens in (side * side, side * side + 1) else 0

    def candidates(self, pixels: torch.Tensor, size: Sequence[int], tiled: bool = True) -> torch.Tensor:
        """(T,) bool on the CPU: tokens outside of the bands of padding of (crops, channels, height, width) pixels."""
        return candidates_outside(self.layout(size, tiled), self.bands(pixels))

    def bands(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(..., rows, columns) bool on the CPU: patches of (..., channels, height, width) pixels that are padding.

        These are rows and columns of patches at the borders, in bands of one constant colour. An image of one colour
        has none: something of it has to be kept.
        """
        pixels, patch_size = pixel_values.flatten(0, -4), self.config.vision_config.patch_size
        rows, columns = (_constant_edges(each, patch_size) for each in (pixels, pixels.transpose(-1, -2)))
        bands = rows[:, :, None] | columns[:, None, :]
        bands = (bands & ~bands.flatten(1).all(1)[:, None, None]).cpu()
        return bands.view(*pixel_values.shape[:-3], *bands.shape[1:])


def _constant_edges(pixels: torch.Tensor, patch_size: int) -> torch.Tensor:
    """(N, height // patch_size) bool: bands of rows, from either border inwards, that have the border's one colour."""
    number, channels, height, width = pixels.shape
    bands = height // patch_size
    stripes = pixels[:, :, : bands * patch_size].reshape(number, channels, bands, patch_size * width)
    low, high = stripes.amin(-1), stripes.amax(-1)

    def from_border(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        same = (low == high) & (low == low[..., :1])
        return same.all(1).long().cumprod(-1).bool()

    return from_border(low, high) | from_border(low.flip(-1), high.flip(-1)).flip(-1)


def candidates_outside(layout: Layout, bands: torch.Tensor) -> torch.Tensor:
    """(T,) bool: False for tokens of a patch that `bands`, (crops, rows, columns) bool, marks as padding.

    Crops behind those of `bands` have no padding.
    """
    placed = (layout.row >= 0) & (layout.crop < len(bands))
    padded = torch.zeros_like(placed)
    padded[placed] = bands[layout.crop[placed], layout.row[placed], layout.column[placed]]
    return ~padded


def by_image(values: torch.Tensor, crops: Sequence[int]) -> Sequence[torch.Tensor]:
    """For each image the values of its crops: (all crops, ...), or (images, most crops, ., .) with fillers."""
    if values.dim() == 4:
        return [own[:count] for own, count in zip(values, crops, strict=True)]
    return values.split(list(crops))


# Fields of `EncodedVision` that hold something of each image.
_OF_EACH = ("projected", "raw", "layouts", "candidates", "deepstack")


@dataclass(frozen=True)
class EncodedVision:
    """The vision tokens of I images and videos; number i has T_i of them in the prompt.

    A video is one item whose crops are its frames; what is said of an image holds for it too.

    Attributes:
        projected: for each image (T_i, hidden), vision tokens behind the projector as they stand in the prompt.
        raw: for each image (crops x tokens, d_raw), vision tokens before the projector, crops one after another.
        layouts: for each image where its T_i tokens come from; on the CPU.
        candidates: for each image (T_i,) bool on the CPU, False for tokens of padding; None where nobody asked.
        before_unpadding: the same images with all tokens of all crops, crops one after another and no row separators;
            None for a family whose prompts hold all of them.
        outputs: what the stock model's `get_image_features` returned; None for images that were put together anew.
        video_outputs: the same of `get_video_features`.
        deepstack: for each image (T_i, hidden) of each DeepStack layer; None for a family that has none.
    """

    projected: Sequence[torch.Tensor]
    raw: Sequence[torch.Tensor]
    layouts: Sequence[Layout]
    candidates: Sequence[torch.Tensor] | None = None
    before_unpadding: EncodedVision | None = None
    outputs: Any = None
    video_outputs: Any = None
    deepstack: Sequence[Sequence[torch.Tensor]] | None = None

    @classmethod
    def joined(cls, images: EncodedVision, videos: EncodedVision) -> EncodedVision:
        """The images and then the videos of one call. No token of a video is padding."""
        if images.candidates is not None:
            videos = replace(videos, candidates=[torch.ones(length, dtype=torch.bool) for length in videos.lengths])
        own: dict[str, Any] = {
            name: [*getattr(images, name), *getattr(videos, name)]
            for name in _OF_EACH
            if getattr(images, name) is not None and getattr(videos, name) is not None
        }
        return cls(**own, outputs=images.outputs, video_outputs=videos.video_outputs)

    def __len__(self) -> int:
        return len(self.projected)

    def __getitem__(self, images: int | slice | Sequence[int]) -> EncodedVision:
        """The images of these numbers, in this order; a number may come more than once.

        Raises:
            IndexError: a number that no image has.
        """
        if isinstance(images, int):
            images = [images]
        every = list(range(len(self)))
        numbers = every[images] if isinstance(images, slice) else [every[number] for number in images]
        own: dict[str, Any] = {
            name: [values[number] for number in numbers]
            for name in _OF_EACH
            if (values := getattr(self, name)) is not None
        }
        before = None if self.before_unpadding is None else self.before_unpadding[numbers]
        return EncodedVision(**own, before_unpadding=before)

    def ordered(self, numbers: Sequence[int]) -> EncodedVision:
        """The same images and videos in another order."""
        if list(numbers) == list(range(len(self))):
            return self
        return replace(self[numbers], outputs=self.outputs, video_outputs=self.video_outputs)

    def projected_of(self, *, videos: bool) -> list[torch.Tensor]:
        """The projected tokens of each video, or else of each image, as stock encodes them."""
        return [
            tokens[(layout.source >= 0).to(tokens.device)] if layout.ends_rows else tokens
            for tokens, layout in zip(self.projected, self.layouts, strict=True)
            if layout.is_video == videos
        ]

    @property
    def videos(self) -> list[bool]:
        """Which of them are videos."""
        return [layout.is_video for layout in self.layouts]

    @property
    def lengths(self) -> list[int]:
        """Vision tokens of each image."""
        return [len(tokens) for tokens in self.projected]


def encode(
    model: Any,
    projector: torch.nn.Module,
    inputs: Mapping[str, Any],
    get_features: Callable[..., Any] | None = None,
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """What `get_features` returns, and the projector's input (crops, tokens, d_raw) and output (.., hidden).

    Not every release returns the features before the projector; the projector's own input is the same in all. Without
    `get_features` it is the `get_image_features` of the model.
    """
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    caller = threading.get_ident()

    def record(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        # Another thread may be using the same model; its images are none of ours.
        if threading.get_ident() == caller:
            seen.append((args[0] if args else next(iter(kwargs.values())), output))

    handle = projector.register_forward_hook(record, with_kwargs=True)
    try:
        with own_weights_loaded(model.model):
            outputs = (get_features or model.get_image_features)(**inputs)
    finally:
        handle.remove()
    return outputs, *seen[0]


@contextmanager
def own_weights_loaded(module: Any) -> Iterator[None]:
    """Loads a module's own weights while its methods are called, where accelerate has offloaded them.

    accelerate does so for `forward` only, and LLaVA-NeXT's row separator belongs to no smaller module.
    """
    hook = getattr(module, "_hf_hook", None)
    if hook is None or not any(weight.is_meta for weight in module.parameters(recurse=False)):
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def checked_sizes(sizes: Any) -> list[list[int]]:
    """(height, width) of each image.

    Raises:
        ValueError: none were given, or one is not a size.
    """
    wanted = "give (height, width) of each image in pixels, as the processor does"
    return table_of("image_sizes", sizes, wanted, lambda size: len(size) == 2 and min(size) >= 1)


def table_of(name: str, rows: Any, wanted: str, fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Rows of whole numbers, given as a tensor, an array or a sequence of sequences; None for a missing argument.

    Raises:
        ValueError: it is missing, no table of whole numbers, or holds a row that does not fit. The message names the
            argument and what is wanted.
    """
    if rows is None:
        raise ValueError(f"{name} is missing: {wanted}.")
    rows = rows.tolist() if hasattr(rows, "tolist") else rows  # one wait for the device
    try:
        table = [[int(value) for value in row] for row in rows]
        exact = all(int(value) == value for row in rows for value in row)
    except (TypeError, ValueError, OverflowError):
        table, exact = [], False
    if not exact:
        raise ValueError(f"{name} is {repr(rows)[:80]}: {wanted}.")
    for row in table:
        if not fits(row):
            raise ValueError(f"{name} contains {row}: {wanted}.")
    return table


def require_crops(pixels: torch.Tensor, crops: Sequence[int]) -> None:
    """Raises a ValueError unless there are as many images or crops as the sizes make."""
    there, needed = (len(pixels), len(crops)) if pixels.dim() == 5 else (len(pixels), sum(crops))
    if there != needed:
        what = "images" if pixels.dim() == 5 else "crops"
        raise ValueError(
            f"image_sizes has {len(crops)} rows, which makes {needed} {what}, but pixel_values holds {there}: give "
            "one (height, width) for each image."
        )


def require_pixels(pixel_values: torch.Tensor, layouts: Sequence[str], name: str = "pixel_values") -> None:
    """Raises a ValueError unless the pixels are a tensor of one of the layouts, without NaN or infinity.

    A layout is the names of the dimensions.
    """
    if not isinstance(pixel_values, torch.Tensor):
        raise ValueError(f"{name} is a {type(pixel_values).__name__}: give a tensor.")
    if not pixel_values.is_floating_point():
        raise ValueError(f"{name} has dtype {pixel_values.dtype}: give the processor's floating-point pixels.")
    if pixel_values.dim() not in {layout.count(",") + 1 for layout in layouts} or pixel_values.numel() == 0:
        wanted = " or ".join(f"({layout})" for layout in layouts)
        raise ValueError(f"{name} has shape {tuple(pixel_values.shape)}: give {wanted}, none of them 0.")
    finite = torch.isfinite(pixel_values)
    if not bool(finite.all()):
        bad = float(pixel_values[~finite][0])
        raise ValueError(f"{name} contains {bad}: check how the image was read and normalised.")
