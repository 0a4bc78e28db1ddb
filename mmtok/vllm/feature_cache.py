"""The vision tower's output of recent images, so that a further question about an image costs no vision tower."""

from __future__ import annotations

from collections import OrderedDict

import torch


class FeatureCache:
    """Features by the key of their image, in host memory, least recently used first out.

    vLLM's own encoder cache holds selected tokens, which belong to one question. Here are the features before the
    projector and before any selection, which belong to the image alone. Host memory, because vLLM gives the rest of the
    device's memory to its KV cache.

    Every process of a tensor-parallel group sees the same images in the same order, so that all of them find, or miss,
    the same features; none runs the vision tower without the others.
    """

    def __init__(self, max_bytes: int) -> None:
        """Holds at most `max_bytes` of features; 0 holds none."""
        self.max_bytes = max_bytes
        self.bytes = 0
        self._features: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, key: str) -> torch.Tensor | None:
        """The features of an image, on the CPU; None where they are not here."""
        features = self._features.get(key)
        if features is not None:
            self._features.move_to_end(key)
        return features

    def put(self, key: str, features: torch.Tensor) -> None:
        """Copies the features of an image, and drops the least recently used ones as far as the space is needed."""
        size = features.numel() * features.element_size()
        if not key or key in self._features or size > self.max_bytes:
            return
        # A copy of its own: a slice would keep the memory of the whole batch.
        self._features[key] = features.to("cpu", copy=True).contiguous()
        self.bytes += size
        while self.bytes > self.max_bytes:
            _, oldest = self._features.popitem(last=False)
            self.bytes -= oldest.numel() * oldest.element_size()

    def clear(self) -> None:
        """Forgets everything, as after a change of the weights."""
        self._features.clear()
        self.bytes = 0
