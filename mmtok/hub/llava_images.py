"""How each model family turns pictures into vision tokens: features on both sides of the projector, crops, padding."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from .image_tokens import ImageTokens, padding_bands


class LlavaVisionMixin:
    """The pictures of LLaVA-1.5: one crop each."""

    config: Any
    model: Any
    get_image_features: Callable[..., Any]

    def _encode_images(self, image_inputs: dict[str, Any]) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
        """Vision tokens behind the projector, (T, hidden) for each picture, and (crops, tokens, d_raw) before it.

        Raises:
            ValueError: pixels that are no pictures, NaN or infinite; sizes that do not belong to them.
        """
        self._require_pictures(image_inputs)
        before: list[torch.Tensor] = []
        caller = threading.get_ident()

        def record(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            # Another thread may be using the same model; its pictures are none of ours.
            if threading.get_ident() == caller:
                before.append(args[0])

        # Not every version returns the features before the projector; the projector's own input is the same in all.
        handle = self.model.multi_modal_projector.register_forward_pre_hook(record)
        try:
            with _own_weights_at_hand(self.model):
                encoded = self.get_image_features(**image_inputs)
        finally:
            handle.remove()
        if isinstance(encoded, tuple):  # a model with return_dict=False: (last hidden state, features, ...)
            encoded = encoded[1]
        return getattr(encoded, "pooler_output", encoded), before[0]

    def _require_pictures(self, image_inputs: dict[str, Any]) -> None:
        """Raises a ValueError unless the pixels are pictures."""
        _require_pixels(image_inputs["pixel_values"], ("pictures, channels, height, width",))

    def _image_tokens(
        self, projected: Sequence[torch.Tensor], raw: torch.Tensor, image_inputs: dict[str, Any]
    ) -> list[ImageTokens]:
        """Where the tokens of each picture come from: here one crop a picture, in order."""
        return [
            ImageTokens.of(
                torch.arange(len(features)),
                crops=1,
                tokens_per_crop=len(features),
                columns=self._grid_columns(len(features)),
            )
            for features in projected
        ]

    def _grid_columns(self, tokens: int) -> int:
        """Patches in a row of a crop, 0 where `tokens` tokens are not the grid of the vision tower."""
        vision = self.config.vision_config
        image_size, patch_size = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
        if not isinstance(image_size, int) or not isinstance(patch_size, int):
            return 0
        side = image_size // patch_size
        return side if tokens in (side * side, side * side + 1) else 0

    def _padding(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(..., rows, columns) bool on the CPU, patches of (..., channels, height, width) in a band of padding."""
        bands = padding_bands(pixel_values.flatten(0, -4), self.config.vision_config.patch_size).cpu()
        return bands.view(*pixel_values.shape[:-3], *bands.shape[1:])

    def _candidates(self, images: Sequence[ImageTokens], padding: torch.Tensor) -> list[torch.Tensor]:
        """For each picture (T,) bool: False for tokens whose patch lies in a band of `padding`."""
        candidates = []
        for image, bands in zip(images, self._crops_of_images(padding, images), strict=True):
            placed = image.row >= 0
            padded = torch.zeros_like(placed)
            padded[placed] = bands[image.crop[placed], image.row[placed], image.column[placed]]
            candidates.append(~padded)
        return candidates

    def _crops_of_images(self, padding: torch.Tensor, images: Sequence[ImageTokens]) -> list[torch.Tensor]:
        """For each picture (crops, rows, columns)."""
        return list(padding.split(1))


class LlavaNextVisionMixin(LlavaVisionMixin):
    """The pictures of LLaVA-NeXT: the whole picture and up to four tiles, unpadded, with row separators."""

    pack_image_features: Callable[..., Any]

    def _require_pictures(self, image_inputs: dict[str, Any]) -> None:
        """Raises a ValueError unless the pixels are pictures in crops, and the sizes theirs."""
        pixels = image_inputs["pixel_values"]
        _require_pixels(pixels, ("crops, channels, height, width", "pictures, crops, channels, height, width"))
        sizes = image_inputs.get("image_sizes")
        if sizes is None:
            raise ValueError("image_sizes is missing: give (height, width) of each picture, as the processor does.")
        sizes = sizes.tolist() if isinstance(sizes, torch.Tensor) else [list(size) for size in sizes]
        for size in sizes:
            if len(size) != 2 or min(size) < 1:
                raise ValueError(f"image_sizes contains {size}: give (height, width) in pixels of each picture.")
        crops = [self._crop_count(size) for size in sizes]
        there, needed = (len(pixels), len(sizes)) if pixels.dim() == 5 else (len(pixels), sum(crops))
        if there != needed:
            what = "pictures" if pixels.dim() == 5 else "crops"
            raise ValueError(
                f"image_sizes has {len(sizes)} rows, which makes {needed} {what}, but pixel_values holds {there}: give "
                "one (height, width) for each picture."
            )

    def _crop_count(self, size: Sequence[int]) -> int:
        return image_size_to_num_patches(
            list(size), self.config.image_grid_pinpoints, self.config.vision_config.image_size
        )

    def _image_tokens(
        self, projected: Sequence[torch.Tensor], raw: torch.Tensor, image_inputs: dict[str, Any]
    ) -> list[ImageTokens]:
        """Where the tokens of each picture come from: packs token numbers exactly as stock packs the features."""
        sizes = image_inputs["image_sizes"]
        sizes = sizes.tolist() if isinstance(sizes, torch.Tensor) else [list(size) for size in sizes]
        strategy = image_inputs.get("vision_feature_select_strategy", self.config.vision_feature_select_strategy)
        tokens = raw.shape[1]
        crops = [self._crop_count(size) for size in sizes]
        numbers = [torch.arange(count * tokens).reshape(count, tokens, 1) for count in crops]
        packed, _ = self.pack_image_features(
            numbers, sizes, vision_feature_select_strategy=strategy, image_newline=torch.tensor([-1])
        )
        return [
            ImageTokens.of(source[:, 0], crops=count, tokens_per_crop=tokens, columns=self._grid_columns(tokens))
            for source, count in zip(packed, crops, strict=True)
        ]

    def _crops_of_images(self, padding: torch.Tensor, images: Sequence[ImageTokens]) -> list[torch.Tensor]:
        """For each picture (crops, rows, columns)."""
        counts = [int(image.crop.max()) + 1 for image in images]
        if padding.dim() == 4:
            return [crops[:count] for crops, count in zip(padding, counts, strict=True)]
        return list(padding.split(counts))


@contextmanager
def _own_weights_at_hand(module: Any) -> Iterator[None]:
    """Brings a module's own weights back while its methods are called, where accelerate has offloaded them.

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


def _require_pixels(pixel_values: torch.Tensor, layouts: Sequence[str]) -> None:
    if not isinstance(pixel_values, torch.Tensor):
        raise ValueError(f"pixel_values is a {type(pixel_values).__name__}: give a tensor.")
    if not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values has dtype {pixel_values.dtype}: give the processor's floating-point pixels.")
    if pixel_values.dim() not in {layout.count(",") + 1 for layout in layouts} or pixel_values.numel() == 0:
        wanted = " or ".join(f"({layout})" for layout in layouts)
        raise ValueError(f"pixel_values has shape {tuple(pixel_values.shape)}: give {wanted}, none of them 0.")
    finite = torch.isfinite(pixel_values)
    if not bool(finite.all()):
        bad = float(pixel_values[~finite][0])
        raise ValueError(f"pixel_values contains {bad}: check how the picture was read and normalised.")
