"""The images and videos of LLaVA-OneVision: an image with a mosaic of its tiles, shrunk by stock; pooled frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from .host import projected_features
from .images import EncodedVision, ImageTokens
from .llava_images import (
    checked_sizes,
    encode,
    grid_columns,
    own_weights_loaded,
    padding_of,
    require_crops,
    require_pixels,
)


def encode_llava_onevision(model: Any, inputs: Mapping[str, Any], *, padding: bool) -> EncodedVision:
    """The images of LLaVA-OneVision: crop 0 is the whole image and crop 1 the mosaic of its tiles.

    Stock puts the tiles together, unpads the mosaic, shrinks it bilinearly where it is large, and ends each row with a
    separator. Its own packing does the same with the features before the projector, so that both sides agree. Without
    tiles (several images in a sample) there is crop 0 alone, with a separator at its end.

    Args:
        model: a `LlavaOnevisionForConditionalGeneration`.
        inputs: `pixel_values` (crops, channels, height, width) or (images, crops, channels, height, width),
            `image_sizes` (images, 2), `batch_num_images` (samples,), and further arguments of `get_image_features`.
        padding: whether to find the tokens of padding; stock takes it off the mosaic itself.

    Raises:
        ValueError: pixels that are no images, NaN or infinite; sizes or numbers that do not belong to them.
    """
    pixels = inputs["pixel_values"]
    require_pixels(pixels, ("crops, channels, height, width", "images, crops, channels, height, width"))
    # Read here, so that nothing waits for the vision tower later.
    sizes = checked_sizes(inputs.get("image_sizes"))
    crops = _crop_counts(model.config, sizes, inputs.get("batch_num_images"))
    require_crops(pixels, crops)
    bands = _whole_image_bands(padding_of(model.config, pixels), crops) if padding else None
    inputs = {**inputs, "image_sizes": torch.tensor(sizes)}
    # The outer get_image_features of transformers 4.57 does not know batch_num_images.
    outputs, raw, _ = encode(model, model.model.multi_modal_projector, inputs, model.model.get_image_features)
    layouts = llava_onevision_layouts(model.model, sizes, crops, raw.shape[1])
    candidates = None if bands is None else [whole_candidates(*each) for each in zip(layouts, bands, strict=True)]
    raws = packed_images(model.model, raw, raw.new_zeros(raw.shape[-1]), sizes, crops)
    return EncodedVision(projected_features(outputs), raws, layouts, candidates, outputs=outputs)


def encode_llava_onevision_videos(model: Any, inputs: Mapping[str, Any]) -> EncodedVision:
    """The videos of LLaVA-OneVision, one crop a frame.

    Stock pools the projected tokens of each frame, and ends the video with a separator. Its own pooling does the same
    with the features before the projector.

    Args:
        model: a `LlavaOnevisionForConditionalGeneration`.
        inputs: `pixel_values_videos` (videos, frames, channels, height, width) and further arguments of
            `get_video_features`.

    Raises:
        ValueError: pixels that are no videos, NaN or infinite.
    """
    pixels, stock = inputs["pixel_values_videos"], model.model
    require_pixels(pixels, ("videos, frames, channels, height, width",), "pixel_values_videos")
    videos, frames = pixels.shape[:2]
    # The method of transformers 4.57 has no defaults; the name of the pixels differs between releases.
    names = ("vision_feature_layer", "vision_feature_select_strategy")
    arguments = {name: inputs.get(name, getattr(model.config, name)) for name in names}
    outputs, raw, _ = encode(model, stock.multi_modal_projector, arguments, partial(model.get_video_features, pixels))
    pooled = stock.apply_pooling(raw)
    tokens = pooled.shape[1]
    projected = projected_features(outputs, "get_video_features")
    if len(projected[0]) == frames * tokens:
        # Before 5.23 the separator is put behind the features by stock's forward.
        with own_weights_loaded(stock):
            separator = stock.image_newline[None].to(projected[0])
        projected = [torch.cat((own, separator)) for own in projected]
    layout = llava_onevision_video_layout(frames, tokens)
    raws = pooled.reshape(videos, frames * tokens, -1).unbind()
    return EncodedVision(projected, raws, [layout] * videos, video_outputs=outputs)


def llava_onevision_video_layout(frames: int, tokens: int) -> ImageTokens:
    """Where the tokens of a video come from: of each frame so many, pooled, and a separator at the end."""
    return ImageTokens.of(
        torch.cat((torch.arange(frames * tokens), torch.tensor([-1]))),
        crops=frames,
        tokens_per_crop=tokens,
        columns=math.isqrt(tokens),
        is_video=True,
    )


def packed_images(
    model: Any,
    features: torch.Tensor,
    separator: torch.Tensor,
    sizes: Sequence[Sequence[int]],
    crops: Sequence[int],
) -> list[torch.Tensor]:
    """For each image (T, d), its tokens as they stand in the prompt.

    Args:
        model: has the `config` and the `pack_image_features` of stock's `LlavaOnevisionModel`.
        features: (all crops, tokens, d), images one after another.
        separator: (d,), ends each row of a mosaic, or an image without tiles.
        sizes: (height, width) of each image in pixels.
        crops: number of crops of each image.
    """
    ratio = model.config.vision_aspect_ratio
    split = features.split(list(crops))
    return model.pack_image_features(split, sizes, image_newline=separator, vision_aspect_ratio=ratio)[0]


def llava_onevision_layouts(
    model: Any, sizes: Sequence[Sequence[int]], crops: Sequence[int], tokens: int
) -> list[ImageTokens]:
    """Where the tokens of images come from; known without their features.

    Args:
        model, sizes, crops: as for `packed_images`.
        tokens: of a crop, in front of the projector.
    """
    separators = packed_images(model, torch.zeros(sum(crops), tokens, 1), torch.ones(1), sizes, crops)
    columns = grid_columns(model.config, tokens)
    return [_layout(each[:, 0] > 0.5, tokens, columns) for each in separators]


def _layout(separator: torch.Tensor, tokens: int, columns: int) -> ImageTokens:
    """Where the T tokens of an image come from; `source` counts the packed tokens, separators included.

    Args:
        separator: (T,) bool, the row separators.
        tokens: of the whole image, which come first.
        columns: of its grid, 0 where the tokens form none.
    """
    whole = ImageTokens.of(torch.arange(tokens), crops=1, tokens_per_crop=tokens, columns=columns)
    place = torch.arange(len(separator))
    mosaic = place - tokens
    # Every row of the mosaic has its separator at the end, so the first one says how long the rows are. Of a very long
    # and narrow image stock leaves no row.
    width = int(separator[tokens:].long().argmax()) + 1 if bool(separator.any()) else 1
    none = separator[tokens:]

    def joined(first: torch.Tensor, behind: torch.Tensor) -> torch.Tensor:
        return torch.cat((first, behind[tokens:].masked_fill(none, -1)))

    return ImageTokens(
        joined(whole.source, place),
        joined(whole.crop, torch.ones_like(place)),
        joined(whole.row, mosaic // width),
        joined(whole.column, mosaic % width),
        len(separator),
    )


def whole_candidates(layout: ImageTokens, bands: torch.Tensor) -> torch.Tensor:
    """(T,) bool on the CPU: False for tokens of the whole image whose patch lies in `bands`, (rows, columns)."""
    whole = (layout.crop == 0) & (layout.row >= 0)
    padded = torch.zeros_like(whole)
    padded[whole] = bands[layout.row[whole], layout.column[whole]]
    return ~padded


def _whole_image_bands(padding: torch.Tensor, crops: Sequence[int]) -> list[torch.Tensor]:
    """For each image (rows, columns), of its first crop."""
    if padding.dim() == 4:
        return [bands[0] for bands in padding]
    return [bands[0] for bands in padding.split(list(crops))]


def _crop_counts(config: Any, sizes: Sequence[Sequence[int]], numbers: Any) -> list[int]:
    """Crops of each image: only the one image of a sample has tiles.

    Args:
        config: of the model.
        sizes: (height, width) of each image.
        numbers: images of each sample; None where every image has tiles.

    Raises:
        ValueError: the numbers do not add up to the images.
    """
    alone = [True] * len(sizes)
    if numbers is not None:
        numbers = [int(number) for number in numbers]
        if sum(numbers) != len(sizes):
            raise ValueError(
                f"batch_num_images is {numbers}, which makes {sum(numbers)} images, but image_sizes has {len(sizes)} "
                "rows: give the number of images of each sample."
            )
        alone = [number == 1 for number in numbers for _ in range(number)]
    side = config.vision_config.image_size
    return [
        image_size_to_num_patches(list(size), config.image_grid_pinpoints, side) if tiled else 1
        for size, tiled in zip(sizes, alone, strict=True)
    ]
