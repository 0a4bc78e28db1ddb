"""Images that are encoded once, however many questions, budgets and methods there are about them."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmtok.hub.encoded_images import EncodedImages

# Of LLaVA-1.5-7B in 16 bits an image takes 5.9 MB, of LLaVA-NeXT-7B with five crops 30 MB.
MEMORY_LIMIT = 2**30


class EncodedImageCache:
    """What `model.encode_images` made of the latest images, found again by the bytes of their pixels.

    Several threads can share a cache.

    Args:
        model: a model with MMTok pruning.
        memory_limit: bytes of vision tokens that are kept; images that were not asked for the longest go first, and 0
            keeps none.

    Raises:
        ValueError: a negative limit.
    """

    def __init__(self, model: Any, memory_limit: int = MEMORY_LIMIT) -> None:
        if memory_limit < 0:
            raise ValueError(f"memory_limit is {memory_limit}: give a number of bytes of at least 0.")
        self.model = model
        self.memory_limit = memory_limit
        self._kept: OrderedDict[bytes, EncodedImages] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor | None = None) -> EncodedImages:
        """The images in their order; only those run through the vision tower that are not in the cache.

        Args:
            pixel_values: (I, channels, height, width) or (I, crops, channels, height, width), of the processor.
            image_sizes: (I, 2), of LLaVA-NeXT.

        Raises:
            ValueError: whatever `encode_images` refuses.
        """
        inputs = {"pixel_values": pixel_values} | ({} if image_sizes is None else {"image_sizes": image_sizes})
        keys = [_key(pixel_values[number], image_sizes, number) for number in range(len(pixel_values))]
        found: dict[bytes, EncodedImages] = {}
        with self._lock:
            for key in keys:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    found[key] = self._kept[key]
        missing = {key: number for number, key in enumerate(keys) if key not in found}
        if missing or not keys:
            new = self.model.encode_images(**_rows(inputs, list(missing.values())))
            found |= {key: _own(new[number]) for number, key in enumerate(missing)}
            self._keep({key: found[key] for key in missing})
        return _joined([found[key] for key in keys])

    def _keep(self, images: Mapping[bytes, EncodedImages]) -> None:
        with self._lock:
            self._kept.update(images)
            used = sum(_size(image) for image in self._kept.values())
            while used > self.memory_limit:
                used -= _size(self._kept.popitem(last=False)[1])


def _key(pixels: torch.Tensor, sizes: torch.Tensor | None, number: int) -> bytes:
    """What tells an image from the others: its size and its pixels, without the crops that fill up a batch."""
    if pixels.dim() == 4:
        filled = pixels.flatten(1).any(1)
        pixels = pixels[: int(filled.nonzero().max()) + 1] if bool(filled.any()) else pixels[:0]
    content = hashlib.sha256(pixels.detach().cpu().contiguous().view(torch.uint8).numpy())
    content.update(f"{tuple(pixels.shape)} {pixels.dtype} {None if sizes is None else sizes[number].tolist()}".encode())
    return content.digest()


def _rows(inputs: Mapping[str, torch.Tensor], numbers: Sequence[int]) -> dict[str, torch.Tensor]:
    return {name: values[list(numbers)] for name, values in inputs.items()}


def _own(image: EncodedImages) -> EncodedImages:
    """The image with tensors of its own: a view would keep those of its whole batch."""
    return EncodedImages(
        [tokens.clone() for tokens in image.projected],
        [tokens.clone() for tokens in image.raw],
        image.layouts,
        image.candidates,
    )


def _size(image: EncodedImages) -> int:
    return sum(tokens.numel() * tokens.element_size() for tokens in (*image.projected, *image.raw))


def _joined(images: Sequence[EncodedImages]) -> EncodedImages:
    candidates = [image.candidates for image in images]
    return EncodedImages(
        [tokens for image in images for tokens in image.projected],
        [tokens for image in images for tokens in image.raw],
        [layout for image in images for layout in image.layouts],
        None if None in candidates else [mask for masks in candidates if masks is not None for mask in masks],
    )
