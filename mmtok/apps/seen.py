"""Images and videos as the vision tower saw them, made back from `pixel_values`: what drawings are made on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from PIL import Image

from mmtok.hub.families import FAMILIES, PREFIX
from mmtok.hub.grids import GridGeometry, pixels_of
from mmtok.hub.handler import Video, evenly
from mmtok.hub.images import Geometry
from mmtok.visuals import cut_off

GAP = 12  # pixels of a drawing between two crops
MOST_DRAWN = 8  # frames of a video at most
WIDEST = 14.0  # inches of a drawing on paper at most
_HEIGHT = 2.9  # inches of a drawing with a single row of crops, where its width allows
_PATCH_PIXELS = 28  # least side of a patch in a drawing, so that its outline can be made out
_LARGEST_SIDE = 2400
_PATCHES_IN_A_ROW = 128  # of the frames of a video
_LABEL_POINTS = 9


@dataclass(frozen=True)
class Seen:
    """An image or a video as the vision tower saw it.

    Attributes:
        crops: RGB crops, each a grid of square patches: the one crop of an image; an overview and behind it the tiles
            or their mosaic; the frames of a video that are drawn, of a pair that is read together the first.
        patch_size: pixels along the side of a patch.
        grid: rows and columns in which the crops are drawn, without the overview.
        overview: whether the first crop is an overview, which is drawn on the left of the others.
        labels: a text above each crop, "" for none.
        numbers: the crop of a selection that each of the crops is.
        count: crops that a selection can name, drawn or not.
        unit: what a crop is.
        whole: (image, x, y) where a part was cut off: the image at the size of the crop, which was cut out at (x, y).
    """

    crops: tuple[Image.Image, ...]
    patch_size: int
    grid: tuple[int, int] = (1, 1)
    overview: bool = False
    labels: tuple[str, ...] = ()
    numbers: tuple[int, ...] = (0,)
    count: int = 1
    unit: str = "crop"
    whole: tuple[Image.Image, int, int] | None = None

    @property
    def scale(self) -> int:
        """Pixels of a drawing along each side of a pixel of a crop."""
        wanted = ceil(_PATCH_PIXELS / self.patch_size) * (2 if self.count == 1 else 1)
        return max(1, min(wanted, _LARGEST_SIDE // self._extent[0]))

    @property
    def inches(self) -> float:
        """Height of a drawing on paper."""
        width, height = self._extent
        return min(_HEIGHT * (1.5 if self.grid[0] > 1 else 1), WIDEST * height / width)

    @property
    def _extent(self) -> tuple[int, int]:
        """Width and height of all crops in their own pixels, without labels and gaps."""
        if self.whole is not None:
            return self.whole[0].size
        (rows, columns), first, last = self.grid, self.crops[0], self.crops[-1]
        width, height = (first.width, first.height) if self.overview else (0, 0)
        return width + columns * last.width, max(height, rows * last.height)

    def label_size(self, scale: int) -> int:
        """Pixels of a drawing that the labels are high."""
        height = self._extent[1]
        return max(9, round(_LABEL_POINTS / 72 * height * scale / self.inches))

    def origins(self, scale: int) -> list[tuple[int, int]]:
        """Upper left corner (x, y) of each crop in a drawing: the overview, beside it the others in rows."""
        if self.whole is not None:
            return [(self.whole[1] * scale, self.whole[2] * scale)]
        text = self.label_size(scale) * 3 // 2 if any(self.labels) else 0
        left = self.crops[0].width * scale + 2 * GAP if self.overview else 0
        width, height = (side * scale for side in self.crops[-1].size)
        between = GAP + (text if all(self.labels) else 0)
        others = [
            (left + column * (width + GAP), text + row * (height + between))
            for row in range(self.grid[0])
            for column in range(self.grid[1])
        ]
        return [*([(0, text)] if self.overview else []), *others][: len(self.crops)]


def seen_of(
    pipe: Any, inputs: Mapping[str, Any], image: Image.Image | Video, options: Mapping[str, Any] | None = None
) -> Seen:
    """The one image or video of a prompt; the arguments are those of `seen_images` and `seen_video`."""
    config, processor = pipe.model.config, pipe.processor
    if isinstance(image, Video):
        return seen_video(inputs, image, config, processor.video_processor, options)
    return seen_images(inputs, config, processor.image_processor, [image], options)[0]


def seen_images(
    inputs: Mapping[str, Any],
    config: Any,
    image_processor: Any,
    originals: Sequence[Image.Image] = (),
    options: Mapping[str, Any] | None = None,
) -> list[Seen]:
    """The images of a batch, made back from `pixel_values`.

    Args:
        inputs: of a model; `pixel_values` is (N, 3, H, W), or (N, crops, 3, H, W) with `image_sizes` (N, 2), and
            `batch_num_images` of LLaVA-OneVision, or the patches of Qwen-VL with `image_grid_thw` (N, 3).
        image_processor: gives `image_mean` and `image_std`.
        originals: the N images, for what was cut off of them; () to leave that out.
        options: of the call, which count before the configuration's; None for no others.

    Raises:
        ValueError: inputs without images, or five-dimensional `pixel_values` without `image_sizes`.
    """
    if inputs.get("pixel_values") is None or len(inputs["pixel_values"]) == 0:
        raise ValueError("The inputs hold no pixel_values: there is no image to show.")
    geometry, inputs = _geometry_of(config), _shrunk(inputs, config, options)
    pixels, vision = inputs["pixel_values"], config.vision_config
    if inputs.get("image_grid_thw") is not None:
        patch_size = int(vision.patch_size) * int(vision.spatial_merge_size)
        grids = torch.as_tensor(inputs["image_grid_thw"]).tolist()
        each = pixels.split([rows * columns for _, rows, columns in grids])
        pictures = [pixels_of(vision, own, grid)[:, 0] for own, grid in zip(each, grids, strict=True)]
        return [Seen(tuple(_rgb(picture, image_processor)), patch_size) for picture in pictures]
    if pixels.dim() < 5:
        drawn = [_drawn(crops, grid, geometry, image_processor) for crops, grid in geometry.pictures(inputs)]
        wholes = [_whole(image, drawn[0].crops[0].size, image_processor) for image in originals] or [None] * len(drawn)
        return [replace(seen, whole=whole) for seen, whole in zip(drawn, wholes, strict=True)]
    if inputs.get("image_sizes") is None:
        raise ValueError(f"pixel_values has shape {tuple(pixels.shape)}: give image_sizes, which say how it was cut.")
    sizes = torch.as_tensor(inputs["image_sizes"]).tolist()
    together = [int(count) for count in inputs.get("batch_num_images", [1] * len(sizes)) for _ in range(int(count))]
    side = _read_side(config)
    return [
        _tiled(image, size, config, image_processor)
        if count == 1
        # Of several images in a sample LLaVA-OneVision reads no tiles.
        else Seen(tuple(_rgb(image[:1, :, :side, :side], image_processor)), int(vision.patch_size))
        for image, size, count in zip(pixels, sizes, together, strict=True)
    ]


def seen_video(
    inputs: Mapping[str, Any],
    video: Video,
    config: Any,
    video_processor: Any,
    options: Mapping[str, Any] | None = None,
) -> Seen:
    """The frames of the video of a prompt, evenly chosen ones where there are more than `MOST_DRAWN`.

    Args:
        inputs: of a model; `pixel_values_videos` is (1, frames, 3, H, W), or the patches of Qwen-VL with
            `video_grid_thw` (1, 3).
        video: what they were made of.
        video_processor, options: as for `seen_images`.
    """
    inputs = _shrunk(inputs, config, options)
    pixels, grid = inputs["pixel_values_videos"], inputs.get("video_grid_thw")
    vision, together = config.vision_config, 1
    patch = int(vision.patch_size)
    if grid is None:
        side = _read_side(config)
        frames = pixels[0, :, :, :side, :side]
    else:
        together, patch = int(vision.temporal_patch_size), patch * int(vision.spatial_merge_size)
        frames = pixels_of(vision, pixels, torch.as_tensor(grid)[0].tolist())[:, 0]
    numbers = evenly(len(frames), MOST_DRAWN)
    drawn = _rgb(frames[numbers], video_processor)
    if grid is None:
        # Stock pools two by two tokens, and of an odd number one more.
        tokens = ceil(side // patch / 2)
        patch = ceil(side / tokens)
        drawn = [frame.resize((tokens * patch, tokens * patch), Image.Resampling.BILINEAR) for frame in drawn]
    fit = max(1, _PATCHES_IN_A_ROW * patch // drawn[0].width)
    rows = ceil(len(drawn) / fit)
    return Seen(
        tuple(drawn),
        patch,
        (rows, ceil(len(drawn) / rows)),
        labels=tuple(_frame_label(video, number, together) for number in numbers),
        numbers=tuple(numbers),
        count=len(frames),
        unit="frame" if together == 1 else "pair of frames",
    )


def _shrunk(inputs: Mapping[str, Any], config: Any, options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The inputs as the tower of a family that shrinks images sees them."""
    geometry = _geometry_of(config)
    if not isinstance(geometry, GridGeometry):
        return inputs
    return geometry.shrunk(inputs, (options or {}).get("image_scale", getattr(config, "image_scale", None)))


def frames_read(seen: Seen, video: Video) -> str:
    """Which frames of a video were read, and which of them are drawn, in a sentence."""
    read, pairs = len(video.indices), seen.unit != "frame"
    text = f"All {read} frames are read" if read == video.total else f"{read} of {video.total:,} frames are read"
    text += f" in {seen.count} pairs" if pairs else ""
    text += f", {len(seen.crops)} of them drawn" if len(seen.crops) < seen.count else ""
    return text + (", of each pair the first one." if pairs else ".")


def _frame_label(video: Video, number: int, together: int) -> str:
    """Such as "frame 3, 1.0 s", or of a pair "frames 5-6, 2.0 s", counted among the frames that are read."""
    first = number * together
    # Of an odd number of frames the last one has no other in its pair.
    last = min(first + together, len(video.indices)) - 1
    which = f"frame {first + 1}" if first == last else f"frames {first + 1}-{last + 1}"
    return f"{which}, {video.seconds[first]:.1f} s"


def _drawn(crops: Sequence[torch.Tensor], grid: tuple[int, int], geometry: Geometry, image_processor: Any) -> Seen:
    """An image as its geometry draws it."""
    images = tuple(image for crop in crops for image in _rgb(crop[None], image_processor))
    # The crops of an image that is not one of any size have as many tokens in a row.
    side = getattr(geometry, "side", None)
    if side is None:
        vision = geometry.config.vision_config
        plain = type(geometry) is Geometry
        side = vision.patch_size if plain else images[0].width // geometry.columns(geometry.tokens_per_crop)
    return _with_overview(images, grid, f"crops 2 to {len(images)}", int(side))


def _geometry_of(config: Any) -> Geometry:
    """What is known of the images of a model; of one without a family, an image is one crop."""
    found = FAMILIES.get(str(getattr(config, "model_type", "")).removeprefix(PREFIX))
    return Geometry(config) if found is None else found.load_class().geometry_class(config)


def _tiled(image: torch.Tensor, size: Sequence[int], config: Any, image_processor: Any) -> Seen:
    """The whole image, and its tiles; of LLaVA-OneVision their mosaic, shrunk where stock shrinks its tokens."""
    patch, side = int(config.vision_config.patch_size), _read_side(config)
    rows, columns = _tile_grid(size, config)
    whole, *tiles = _rgb(image[: 1 + rows * columns, :, :side, :side], image_processor)
    if not hasattr(config, "vision_aspect_ratio"):
        label = f"crops 2 to {1 + len(tiles)}" if len(tiles) > 1 else "crop 2"
        return _with_overview((whole, *tiles), (rows, columns), label, patch)
    from transformers.models.llava_onevision.modeling_llava_onevision import unpad_image

    joined = image[1 : 1 + rows * columns, :, :side, :side].unflatten(0, (rows, columns))
    joined = joined.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)
    layout = _geometry_of(config).layout(size)
    height, width = (int(part[layout.crop == 1].max()) + 1 for part in (layout.row, layout.column))
    [pixels] = _rgb(unpad_image(joined, list(size))[None], image_processor)
    mosaic = pixels.resize((width * patch, height * patch), Image.Resampling.BILINEAR)
    return _with_overview((whole, mosaic), (1, 1), "crop 2: mosaic of the tiles", patch)


def _with_overview(crops: tuple[Image.Image, ...], grid: tuple[int, int], label: str, patch: int) -> Seen:
    if len(crops) == 1:
        return Seen(crops, patch)
    labels = ("crop 1: overview", label, *[""] * (len(crops) - 2))
    return Seen(crops, patch, grid, True, labels, tuple(range(len(crops))), len(crops))


def _whole(image: Image.Image, crop: tuple[int, int], image_processor: Any) -> tuple[Image.Image, int, int] | None:
    """All of an image that a centre crop of (width, height) was cut out of, at most half as much again on each side."""
    if not cut_off(image, image_processor):
        return None
    factor = image_processor.size["shortest_edge"] / min(image.size)
    sides = [(round(side * factor), kept) for side, kept in zip(image.size, crop, strict=True)]
    shown = [max(kept, min(side, 2 * kept)) for side, kept in sides]
    # In pixels of the image: what is drawn lies in the middle, as the crop does.
    half = [side / factor / 2 for side in shown]
    middle = [side / 2 for side in image.size]
    box = (middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1])
    box = (max(0, box[0]), max(0, box[1]), min(image.width, box[2]), min(image.height, box[3]))
    drawn = image.resize((shown[0], shown[1]), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return drawn, (shown[0] - crop[0]) // 2, (shown[1] - crop[1]) // 2


def _read_side(config: Any) -> int:
    """Pixels along the side of a crop that belong to a patch; SigLIP's tower leaves a border over."""
    vision = config.vision_config
    return int(vision.image_size // vision.patch_size * vision.patch_size)


def _tile_grid(size: Sequence[int], config: Any) -> tuple[int, int]:
    """Rows and columns of the tiles that an image of (height, width) is cut into."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    # Named for its width and height, it returns them in the order of (height, width) that it is given.
    rows, columns = get_anyres_image_grid_shape(
        list(size), config.image_grid_pinpoints, config.vision_config.image_size
    )
    return int(rows), int(columns)


def _rgb(pixels: torch.Tensor, image_processor: Any) -> list[Image.Image]:
    """(crops, 3, H, W) normalised -> RGB images."""
    mean = torch.tensor(image_processor.image_mean).view(3, 1, 1)
    std = torch.tensor(image_processor.image_std).view(3, 1, 1)
    values = (pixels.detach().float().cpu() * std + mean).mul(255).round().clamp(0, 255).byte()
    return [Image.fromarray(crop.permute(1, 2, 0).numpy()) for crop in values]
