"""LLaVA-1.5 in vLLM, with the vision tokens that each request keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder, LlavaForConditionalGeneration
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.vllm.embedding import PruningEmbeddingMixin
from mmtok.vllm.processor import PruningLlavaInfo, PruningLlavaProcessor


@MULTIMODAL_REGISTRY.register_processor(
    PruningLlavaProcessor, info=PruningLlavaInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class MMTokLlavaForConditionalGeneration(PruningEmbeddingMixin, LlavaForConditionalGeneration):
    """vLLM's LLaVA-1.5 with pruned images."""

    def _images(self, **kwargs: object) -> tuple[list[torch.Tensor], Sequence[Any]]:
        images = [pixels[None] for pixels in self._parse_and_validate_image_input(**kwargs)["pixel_values"]]
        return images, [(pixels.shape[-2], pixels.shape[-1]) for pixels in images]

    def _packed(self, crops: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return crops[0]
