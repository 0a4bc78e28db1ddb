"""The images of LLaVA-1.5 and LLaVA-NeXT: features on both sides of the projector, crops, padding."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from .host import projected_features
from .images import EncodedVision, ImageTokens, padding_bands


def encode_llava(model: Any, inputs: Mapping[str, Any], *, padding: bool) -> EncodedVision:
    """The images of LLaVA-1.5, one crop each.

    Args:
        model: a `LlavaForConditionalGeneration`.
        inputs: `pixel_values` (images, channels, height, width) and further arguments of `get_image_features`.
        padding: whether to find the tokens of padding.

    Raises:
        ValueError: pixels that are no images, NaN or infinite.
    """
    pixels = inputs["pixel_values"]
    require_pixels(pixels, ("images, channels, height, width",))
    bands = padding_of(model.config, pixels).split(1) if padding else None
    outputs, raw, _ = encode(model, model.model.multi_modal_projector, inputs)
    projected = projected_features(outputs)
    layouts = [llava_layout(model.config, len(tokens)) for tokens in projected]
    raws = raw.flatten(0, -2).split([len(tokens) for tokens in projected])
    return EncodedVision(projected, raws, layouts, candidates_outside(layouts, bands), outputs=outputs)


def encode_llava_next(model: Any, inputs: Mapping[str, Any], *, padding: bool) -> EncodedVision:
    """The images of LLaVA-NeXT: the whole image and up to four tiles, unpadded, with row separators.

    Args:
        model: a `LlavaNextForConditionalGeneration`.
        inputs: `pixel_values` (crops, channels, height, width) or (images, crops, channels, height, width),
            `image_sizes` (images, 2) and further arguments of `get_image_features`.
        padding: whether to find the tokens of padding.

    Raises:
        ValueError: pixels that are no images, NaN or infinite; sizes that do not belong to them.
    """
    pixels, sizes = inputs["pixel_values"], inputs.get("image_sizes")
    require_pixels(pixels, ("crops, channels, height, width", "images, crops, channels, height, width"))
    # Read here, so that nothing waits for the vision tower later.
    sizes = checked_sizes(sizes)
    crops = [crop_count(model.config, size) for size in sizes]
    require_crops(pixels, crops)
    bands = _bands_of_images(padding_of(model.config, pixels), crops) if padding else None
    inputs = {**inputs, "image_sizes": torch.tensor(sizes)}
    outputs, raw, every = encode(model, model.model.multi_modal_projector, inputs)
    tokens = raw.shape[1]
    strategy = inputs.get("vision_feature_select_strategy") or model.config.vision_feature_select_strategy
    layouts, lengths = llava_next_layouts(model, sizes, tokens, strategy), [count * tokens for count in crops]
    raws = raw.flatten(0, -2).split(lengths)
    whole = _next_layouts(model.config, [torch.arange(length) for length in lengths], crops, tokens)
    before = EncodedVision(every.flatten(0, -2).split(lengths), raws, whole, candidates_outside(whole, bands))
    candidates = candidates_outside(layouts, bands)
    return EncodedVision(projected_features(outputs), raws, layouts, candidates, before, outputs)


def llava_layout(config: Any, tokens: int) -> ImageTokens:
    """Where the tokens of a LLaVA-1.5 image come from; known without its features."""
    return ImageTokens.of(torch.arange(tokens), crops=1, tokens_per_crop=tokens, columns=grid_columns(config, tokens))


def llava_next_layouts(model: Any, sizes: Sequence[Sequence[int]], tokens: int, strategy: str) -> list[ImageTokens]:
    """Where the tokens of LLaVA-NeXT images come from; known without their features.

    Args:
        model: has the stock model's `config` and `pack_image_features`.
        sizes: (height, width) of each image in pixels.
        tokens: of a crop, in front of the projector.
        strategy: `vision_feature_select_strategy`.
    """
    crops = [crop_count(model.config, size) for size in sizes]
    # Packs token numbers exactly as stock packs the features.
    numbers = [torch.arange(count * tokens).reshape(count, tokens, 1) for count in crops]
    packed, _ = model.pack_image_features(
        numbers, sizes, vision_feature_select_strategy=strategy, image_newline=torch.tensor([-1])
    )
    return _next_layouts(model.config, packed, crops, tokens)


def _next_layouts(config: Any, sources: Sequence[torch.Tensor], crops: Sequence[int], tokens: int) -> list[ImageTokens]:
    """Layouts of images whose tokens have these numbers among the tokens of their crops."""
    columns = grid_columns(config, tokens)
    return [
        ImageTokens.of(source.flatten(), crops=count, tokens_per_crop=tokens, columns=columns)
        for source, count in zip(sources, crops, strict=True)
    ]


def encode(
    model: Any,
    projector: torch.nn.Module,
    inputs: Mapping[str, Any],
    get_features: Callable[..., Any] | None = None,
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """What `get_image_features` returns, and the projector's input (crops, tokens, d_raw) and output (.., hidden).

    Not every release returns the features before the projector; the projector's own input is the same in all.

    Args:
        model: the model that the images are for.
        projector: its projector.
        inputs: arguments of `get_features`.
        get_features: another method in place of `model.get_image_features`.
    """
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    caller = threading.get_ident()

    def record(_module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        # Another thread may be using the same model; its images are none of ours.
        if threading.get_ident() == caller:
            seen.append((args[0], output))

    handle = projector.register_forward_hook(record)
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


def grid_columns(config: Any, tokens: int) -> int:
    """Patches in a row of a crop, 0 where `tokens` tokens are not the grid of the vision tower."""
    vision = config.vision_config
    image_size, patch_size = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not isinstance(image_size, int) or not isinstance(patch_size, int):
        return 0
    side = image_size // patch_size
    return side if tokens in (side * side, side * side + 1) else 0


def padding_of(config: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """(..., rows, columns) bool on the CPU, patches of (..., channels, height, width) in a band of padding."""
    bands = padding_bands(pixel_values.flatten(0, -4), config.vision_config.patch_size).cpu()
    return bands.view(*pixel_values.shape[:-3], *bands.shape[1:])


def _bands_of_images(padding: torch.Tensor, crops: Sequence[int]) -> Sequence[torch.Tensor]:
    """For each image (crops, rows, columns)."""
    if padding.dim() == 4:
        return [bands[:count] for bands, count in zip(padding, crops, strict=True)]
    return padding.split(list(crops))


def candidates_outside(
    layouts: Sequence[ImageTokens], padding: Sequence[torch.Tensor] | None
) -> Sequence[torch.Tensor] | None:
    """For each image (T,) bool: False for tokens whose patch lies in a band of `padding`, (crops, rows, columns)."""
    if padding is None:
        return None
    candidates = []
    for layout, bands in zip(layouts, padding, strict=True):
        placed = layout.row >= 0
        padded = torch.zeros_like(placed)
        padded[placed] = bands[layout.crop[placed], layout.row[placed], layout.column[placed]]
        candidates.append(~padded)
    return candidates


def crop_count(config: Any, size: Sequence[int]) -> int:
    return image_size_to_num_patches(list(size), config.image_grid_pinpoints, config.vision_config.image_size)


def checked_sizes(sizes: Any) -> list[list[int]]:
    """(height, width) of each image.

    Raises:
        ValueError: none were given, or one is no size.
    """
    wanted = "give (height, width) of each image in pixels, as the processor does"
    return table_of("image_sizes", sizes, wanted, lambda size: len(size) == 2 and min(size) >= 1)


def table_of(name: str, rows: Any, wanted: str, fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Rows of whole numbers, given as a tensor, an array or a sequence of sequences.

    Args:
        name: of the argument.
        rows: what was given; None where it is missing.
        wanted: what to give, for the message.
        fits: whether a row is what is wanted.

    Raises:
        ValueError: it is missing, no table of whole numbers, or holds a row that does not fit.
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

    Args:
        pixel_values: of images or videos.
        layouts: the names of its dimensions.
        name: of the argument.
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
