"""Images as the vision tower saw them: resized, cropped and cut into tiles, made back from `pixel_values`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

_PATCH_PIXELS = 28  # least side of a patch in an overlay, so that its frame and its bar can be told apart
_LARGEST_SIDE = 2400
_GAP = 12  # pixels of an overlay between two crops


@dataclass(frozen=True)
class SeenImage:
    """An image as the vision tower saw it.

    Attributes:
        crops: square RGB crops of equal size; the whole image first, then the tiles from left to right and from top
            to bottom.
        tiles: rows and columns of tiles; (0, 0) for LLaVA-1.5, which has none.
        patch_size: pixels along the side of a patch.
    """

    crops: tuple[Image.Image, ...]
    tiles: tuple[int, int]
    patch_size: int

    @property
    def grid(self) -> int:
        """Patches along the side of a crop."""
        return self.crops[0].width // self.patch_size

    def origins(self, scale: int) -> list[tuple[int, int]]:
        """Upper left corner (x, y) of each crop in an overlay: the whole image left, the tiles as they were cut."""
        side = self.crops[0].width * scale
        right = [
            (side + 2 * _GAP + column * (side + _GAP), row * (side + _GAP))
            for row in range(self.tiles[0])
            for column in range(self.tiles[1])
        ]
        return [(0, 0), *right][: len(self.crops)]

    def scale(self) -> int:
        """How many pixels of an overlay a pixel of a crop takes along each side."""
        across = 1 + max(self.tiles)
        wanted = -(-_PATCH_PIXELS // self.patch_size)
        return max(1, min(wanted * 2 if across == 1 else wanted, _LARGEST_SIDE // (across * self.crops[0].width)))


def seen_images(inputs: Mapping[str, Any], config: Any, image_processor: Any) -> list[SeenImage]:
    """The images of a batch, made back from `pixel_values`.

    Args:
        inputs: of a model; `pixel_values` is (N, 3, H, W), or (N, crops, 3, H, W) with `image_sizes` (N, 2).
        config: of the model.
        image_processor: gives `image_mean` and `image_std`.

    Returns:
        N images.

    Raises:
        ValueError: inputs without images, or five-dimensional `pixel_values` without `image_sizes`,
            or a model of LLaVA-OneVision.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None or len(pixels) == 0:
        raise ValueError("The inputs hold no pixel_values: there is no image to show.")
    if getattr(config, "model_type", "") == "mmtok_llava_onevision":
        raise ValueError(
            "The mosaic of LLaVA-OneVision cannot be drawn: use select_vision_tokens, which gives row and column of "
            "each token."
        )
    patch_size = int(config.vision_config.patch_size)
    if pixels.dim() == 4:
        crops = _rgb(pixels, image_processor)
        return [SeenImage((crop,), (0, 0), patch_size) for crop in crops]
    if inputs.get("image_sizes") is None:
        raise ValueError(f"pixel_values has shape {tuple(pixels.shape)}: give image_sizes, which say how it was cut.")
    images = []
    for image, size in zip(pixels, torch.as_tensor(inputs["image_sizes"]).tolist(), strict=True):
        rows, columns = tile_grid(size, config)
        crops = _rgb(image[: 1 + rows * columns], image_processor)
        images.append(SeenImage(tuple(crops), (rows, columns), patch_size))
    return images


def tile_grid(size: Sequence[int], config: Any) -> tuple[int, int]:
    """Rows and columns of the tiles that LLaVA-NeXT cuts an image of (height, width) into."""
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
