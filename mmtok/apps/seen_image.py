"""Images as the vision tower saw them: resized, cropped and cut into tiles, made back from `pixel_values`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from mmtok.hub.families import family_of

_PATCH_PIXELS = 28  # least side of a patch in an overlay, so that its frame and its bar can be told apart
LARGEST_SIDE = 2400
GAP = 12  # pixels of an overlay between two crops


@dataclass(frozen=True)
class SeenImage:
    """An image as the vision tower saw it.

    Attributes:
        crops: RGB crops, each a grid of square patches; the whole image first, then the tiles from left to right and
            from top to bottom, which have one size, or the mosaic of them.
        tiles: rows and columns of what stands beside the whole image; (0, 0) where nothing does.
        patch_size: pixels along the side of a patch.
    """

    crops: tuple[Image.Image, ...]
    tiles: tuple[int, int]
    patch_size: int

    @property
    def count(self) -> int:
        """Crops that a selection can name."""
        return len(self.crops)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The crop of a selection that each of the crops is."""
        return tuple(range(len(self.crops)))

    @property
    def grid(self) -> int:
        """Patches in a row of the whole image."""
        return self.crops[0].width // self.patch_size

    def origins(self, scale: int) -> list[tuple[int, int]]:
        """Upper left corner (x, y) of each crop in an overlay: the whole image left, the tiles as they were cut."""
        left, (width, height) = self.crops[0].width * scale, self.crops[-1].size
        right = [
            (left + 2 * GAP + column * (width * scale + GAP), row * (height * scale + GAP))
            for row in range(self.tiles[0])
            for column in range(self.tiles[1])
        ]
        return [(0, 0), *right][: len(self.crops)]

    def captions(self, scale: int) -> list[tuple[str, tuple[int, int], int]]:
        """Texts beside the crops, with their place and size in an overlay: none."""
        return []

    def scale(self) -> int:
        """How many pixels of an overlay a pixel of a crop takes along each side."""
        widths = [self.crops[0].width, *([self.crops[-1].width] * self.tiles[1])]
        wanted = -(-_PATCH_PIXELS // self.patch_size)
        return max(1, min(wanted * 2 if len(widths) == 1 else wanted, LARGEST_SIDE // sum(widths)))


def seen_images(inputs: Mapping[str, Any], config: Any, image_processor: Any) -> list[SeenImage]:
    """The images of a batch, made back from `pixel_values`.

    Args:
        inputs: of a model; `pixel_values` is (N, 3, H, W), or (N, crops, 3, H, W) with `image_sizes` (N, 2), and
            `batch_num_images` of LLaVA-OneVision, or the patches of Qwen-VL with `image_grid_thw` (N, 3).
        config: of the model.
        image_processor: gives `image_mean` and `image_std`.

    Returns:
        N images.

    Raises:
        ValueError: inputs without images, or five-dimensional `pixel_values` without `image_sizes`.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None or len(pixels) == 0:
        raise ValueError("The inputs hold no pixel_values: there is no image to show.")
    patch_size = int(config.vision_config.patch_size)
    if inputs.get("image_grid_thw") is not None:
        return _grids(pixels, torch.as_tensor(inputs["image_grid_thw"]).tolist(), config, image_processor)
    if pixels.dim() == 4:
        crops = rgb_images(pixels, image_processor)
        return [SeenImage((crop,), (0, 0), patch_size) for crop in crops]
    if inputs.get("image_sizes") is None:
        raise ValueError(f"pixel_values has shape {tuple(pixels.shape)}: give image_sizes, which say how it was cut.")
    read = _mosaic if hasattr(config, "vision_aspect_ratio") else _tiles
    sizes = torch.as_tensor(inputs["image_sizes"]).tolist()
    together = [int(count) for count in inputs.get("batch_num_images", [1] * len(sizes)) for _ in range(int(count))]
    return [
        read(image, size, config, image_processor) if count == 1 else _whole(image, config, image_processor)
        for image, size, count in zip(pixels, sizes, together, strict=True)
    ]


def _grids(pixels: torch.Tensor, grids: Sequence[Sequence[int]], config: Any, image_processor: Any) -> list[SeenImage]:
    patch = int(config.vision_config.patch_size * config.vision_config.spatial_merge_size)
    each = pixels.split([rows * columns for _, rows, columns in grids])
    images = [
        rgb_images(put_together(own, grid, config), image_processor) for own, grid in zip(each, grids, strict=True)
    ]
    return [SeenImage(tuple(image), (0, 0), patch) for image in images]


def put_together(patches: torch.Tensor, grid: Sequence[int], config: Any) -> torch.Tensor:
    """(frames, 3, H, W), the first of each pair of frames of an image or video of Qwen-VL.

    A vision token is a square of patches, so that is what a patch of the seen image is.

    Args:
        patches: (frames * rows * columns, values) in the order of the vision tokens, those of a token one after
            another, each with two frames; an image is the same frame twice.
        grid: frames, rows and columns.
        config: of the model.
    """
    patch, merged = int(config.vision_config.patch_size), int(config.vision_config.spatial_merge_size)
    frames, rows, columns = grid
    parts = patches.reshape(frames, rows // merged, columns // merged, merged, merged, 3, -1, patch, patch)
    first = parts[:, :, :, :, :, :, 0]
    return first.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(frames, 3, rows * patch, columns * patch)


def _tiles(image: torch.Tensor, size: Sequence[int], config: Any, image_processor: Any) -> SeenImage:
    rows, columns = tile_grid(size, config)
    crops = rgb_images(image[: 1 + rows * columns], image_processor)
    return SeenImage(tuple(crops), (rows, columns), int(config.vision_config.patch_size))


def _whole(image: torch.Tensor, config: Any, image_processor: Any) -> SeenImage:
    """The image alone: of several images in a sample LLaVA-OneVision reads no tiles."""
    side = read_side(config)
    return SeenImage(
        tuple(rgb_images(image[:1, :, :side, :side], image_processor)), (0, 0), config.vision_config.patch_size
    )


def _mosaic(image: torch.Tensor, size: Sequence[int], config: Any, image_processor: Any) -> SeenImage:
    """The whole image, and the mosaic of its tiles: unpadded, and shrunk where stock shrinks its tokens."""
    from transformers.models.llava_onevision.modeling_llava_onevision import unpad_image

    patch, side = int(config.vision_config.patch_size), read_side(config)
    rows, columns = tile_grid(size, config)
    tiles = image[1 : 1 + rows * columns, :, :side, :side].unflatten(0, (rows, columns))
    joined = tiles.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)
    layout = family_of(config.model_type).load_class().geometry_class(config).layout(size)
    height, width = (int(part[layout.crop == 1].max()) + 1 for part in (layout.row, layout.column))
    [whole] = rgb_images(image[:1, :, :side, :side], image_processor)
    [pixels] = rgb_images(unpad_image(joined, list(size))[None], image_processor)
    mosaic = pixels.resize((width * patch, height * patch), Image.Resampling.BILINEAR)
    return SeenImage((whole, mosaic), (1, 1), patch)


def read_side(config: Any) -> int:
    """Pixels along the side of a crop that belong to a patch; SigLIP's tower leaves a border over."""
    vision = config.vision_config
    return int(vision.image_size // vision.patch_size * vision.patch_size)


def tile_grid(size: Sequence[int], config: Any) -> tuple[int, int]:
    """Rows and columns of the tiles that an image of (height, width) is cut into."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    # Named for its width and height, it returns them in the order of (height, width) that it is given.
    rows, columns = get_anyres_image_grid_shape(
        list(size), config.image_grid_pinpoints, config.vision_config.image_size
    )
    return int(rows), int(columns)


def rgb_images(pixels: torch.Tensor, image_processor: Any) -> list[Image.Image]:
    """(crops, 3, H, W) normalised -> RGB images."""
    mean = torch.tensor(image_processor.image_mean).view(3, 1, 1)
    std = torch.tensor(image_processor.image_std).view(3, 1, 1)
    values = (pixels.detach().float().cpu() * std + mean).mul(255).round().clamp(0, 255).byte()
    return [Image.fromarray(crop.permute(1, 2, 0).numpy()) for crop in values]
