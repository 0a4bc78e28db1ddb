"""Images that are encoded once, however many questions, budgets and methods there are about them."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch

from mmtok.hub.images import EncodedVision
from mmtok.hub.options import ENCODING_OPTIONS

# Of LLaVA-1.5-7B in 16 bits an image takes 5.9 MB, of LLaVA-NeXT-7B with five crops 54 MB.
MEMORY_LIMIT = 2**30
_ADAPTERS = ("_active_adapter", "_disable_adapters", "merged_adapters")  # of PEFT's layers
# The arguments of images of which a row is known: that of an image, and in `batch_num_images` that of a sample; with
# `image_grid_thw` the rows of `pixel_values` are patches.
_BY_ROWS = {"pixel_values", "image_sizes", "image_grid_thw", "batch_num_images"}


class EncodedImageCache:
    """What `model.encode_images` made of the latest images, found again by the bytes of their pixels.

    What is handed out is a copy, which a caller may change. Images are encoded again where the weights that encode them
    have changed: trained, loaded, moved, merged with an adapter, or with another adapter. Several threads can share a
    cache. With other arguments of images than `pixel_values`, `image_sizes`, `image_grid_thw` and `batch_num_images`,
    images are encoded each time.

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
        self._kept: OrderedDict[bytes, EncodedVision] = OrderedDict()
        self._lock = threading.Lock()

    def inputs(self, inputs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """The inputs of a model with `encoded_images` in place of the arguments of images and videos.

        A prompt without any stays as it is. Videos are encoded each time, and what is encoded is not kept. Of the
        options of the call those of `encode_images` count.

        Raises:
            ValueError: whatever `encode_images` refuses.
        """
        visuals = {name: inputs[name] for name in self.model.visual_arguments if inputs.get(name) is not None}
        if not visuals:
            return dict(inputs)
        text = {name: values for name, values in inputs.items() if name not in self.model.visual_arguments}
        has_videos = not visuals.keys().isdisjoint(self.model.video_arguments)
        encode = self.model.encode_images if has_videos else self.encode
        own = {name: options[name] for name in ENCODING_OPTIONS & options.keys()}
        return {**text, "encoded_images": encode(**visuals, **own)}

    def encode(self, **image_inputs: Any) -> EncodedVision:
        """The images in their order; only those run through the vision tower that are not in the cache.

        Args:
            **image_inputs: of the processor: `pixel_values` (I, channels, height, width), or (I, crops, channels,
                height, width) with `image_sizes` (I, 2); of LLaVA-OneVision also `batch_num_images` (samples,); of
                Qwen-VL (patches, values) with `image_grid_thw` (I, 3); `image_scale` as in `encode_images`.

        Raises:
            ValueError: whatever `encode_images` refuses.
        """
        options = {name: image_inputs.pop(name) for name in ENCODING_OPTIONS & image_inputs.keys()}
        if image_inputs.keys() - _BY_ROWS or not all(isinstance(v, torch.Tensor) for v in image_inputs.values()):
            return self.model.encode_images(**image_inputs, **options)
        samples = _samples(image_inputs)
        weights = _state(self.model) + repr(options).encode()
        keys = [weights + _key(sample) for sample in samples]
        found: dict[bytes, EncodedVision] = {}
        with self._lock:
            for key in keys:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    found[key] = self._kept[key]
        missing = {key: sample for key, sample in zip(keys, samples, strict=True) if key not in found}
        if missing or not keys:
            # Those of no sample, which the model refuses, as they are.
            parts = {
                name: [sample[name] for sample in missing.values()] or [image_inputs[name]] for name in image_inputs
            }
            new = self.model.encode_images(**{name: torch.cat(each) for name, each in parts.items()}, **options)
            counts = [len(sample.get("image_grid_thw", sample["pixel_values"])) for sample in missing.values()]
            own = {
                key: _own(new[end - count : end])
                for key, count, end in zip(missing, counts, accumulate(counts), strict=True)
            }
            found |= own
            self._keep(own)
        return _joined([deepcopy(found[key]) for key in keys])

    def _keep(self, images: Mapping[bytes, EncodedVision]) -> None:
        with self._lock:
            self._kept.update(images)
            used = sum(_size(image) for image in self._kept.values())
            while used > self.memory_limit:
                used -= _size(self._kept.popitem(last=False)[1])


def _samples(inputs: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The inputs of each sample. It has one image, but of LLaVA-OneVision, which reads several without tiles."""
    counts = inputs.get("batch_num_images")
    pixels = inputs["pixel_values"]
    grids = inputs.get("image_grid_thw")
    split = [1] * len(pixels if grids is None else grids) if counts is None else counts.tolist()
    rows_of = dict.fromkeys(inputs, split) | {"batch_num_images": [1] * len(split)}
    if grids is not None:
        rows_of["pixel_values"] = grids.prod(1).tolist()
    parts = {name: values.split(rows_of[name]) for name, values in inputs.items()}
    return [{name: rows[number] for name, rows in parts.items()} for number in range(len(split))]


def _state(model: Any) -> bytes:
    """What tells the weights in front of the language model, and the scale of images, from those before a change.

    For each tensor its place, its version, which counts changes in place, and some of its values, which also show a
    change that is not counted, such as that of merged adapters; for each module the adapters that are at work.
    """
    content, seen = hashlib.sha256(), []
    content.update(repr(getattr(getattr(model, "config", None), "image_scale", None)).encode())
    for name, part in getattr(model, "model", model).named_children():
        if name == "language_model":
            continue
        for module in part.modules():
            adapters = [getattr(module, each, None) for each in _ADAPTERS]
            content.update(f"{module.training} {adapters}".encode())
        for tensor in (*part.parameters(), *part.buffers()):
            content.update(f"{tensor.data_ptr()} {tensor._version} {tensor.dtype} {tensor.device}".encode())
            if tensor.numel() and not tensor.is_meta:
                seen.append(tensor.detach().flatten()[:: max(tensor.numel() // 8, 1)].double().sum().to("cpu"))
    content.update(torch.stack(seen).numpy().tobytes() if seen else b"")
    return content.digest()


def _key(sample: Mapping[str, torch.Tensor]) -> bytes:
    """What tells a sample from the others: its sizes and its pixels, without the crops that fill up a batch."""
    pixels = sample["pixel_values"]
    if pixels.dim() == 5:
        filled = pixels.flatten(2).any(2).any(0)
        pixels = pixels[:, : int(filled.nonzero().max()) + 1] if bool(filled.any()) else pixels[:, :0]
    content = hashlib.sha256(pixels.detach().cpu().contiguous().view(torch.uint8).numpy())
    sizes = sample.get("image_grid_thw", sample.get("image_sizes"))
    content.update(f"{tuple(pixels.shape)} {pixels.dtype} {None if sizes is None else sizes.tolist()}".encode())
    return content.digest()


def _own(image: EncodedVision) -> EncodedVision:
    """The image with tensors of its own: a view would keep those of its whole batch."""
    return deepcopy(image, {number: tokens.clone() for number, tokens in _tensors(image).items()})


def _tensors(image: EncodedVision) -> dict[int, torch.Tensor]:
    """The vision tokens by `id`: those before the projector are the same before padding is removed and after."""
    before = {} if image.before_unpadding is None else _tensors(image.before_unpadding)
    deepstack = [tokens for layers in image.deepstack or () for tokens in layers]
    return before | {id(tokens): tokens for tokens in (*image.projected, *image.raw, *deepstack)}


def _size(image: EncodedVision) -> int:
    return sum(tokens.numel() * tokens.element_size() for tokens in _tensors(image).values())


def _joined(images: Sequence[EncodedVision]) -> EncodedVision:
    """One batch of several; of the class of the first, which a model with remote code has loaded itself."""
    candidates = [image.candidates for image in images]
    before = [image.before_unpadding for image in images]
    deepstack = [image.deepstack for image in images]
    return replace(
        images[0],
        projected=[tokens for image in images for tokens in image.projected],
        raw=[tokens for image in images for tokens in image.raw],
        layouts=[layout for image in images for layout in image.layouts],
        candidates=None if None in candidates else [mask for masks in candidates if masks for mask in masks],
        deepstack=None if None in deepstack else [layers for each in deepstack if each for layers in each],
        before_unpadding=None if None in before else _joined([each for each in before if each is not None]),
    )
