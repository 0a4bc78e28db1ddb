"""LLaVA-OneVision in vLLM, with the vision tokens that each request keeps."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.vllm.embedding import PruningEmbeddingMixin, crops_at_once
from mmtok.vllm.method import LlavaOnevisionLayout
from mmtok.vllm.onevision_processor import PruningLlavaOnevisionInfo, PruningLlavaOnevisionProcessor


@MULTIMODAL_REGISTRY.register_processor(
    PruningLlavaOnevisionProcessor, info=PruningLlavaOnevisionInfo, dummy_inputs=LlavaOnevisionDummyInputsBuilder
)
class MMTokLlavaOnevisionForConditionalGeneration(PruningEmbeddingMixin, LlavaOnevisionForConditionalGeneration):
    """vLLM's LLaVA-OneVision with pruned images; a video passes to the stock class."""

    layout_class = LlavaOnevisionLayout
    layout: LlavaOnevisionLayout

    def _most_at_once(self, vllm_config: Any) -> int:
        return crops_at_once(vllm_config, self.layout)

    def _images(self, image_input: Any) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
        return list(image_input["pixel_values"]), [tuple(size) for size in image_input["image_sizes"].tolist()]

    def _packed(self, crops: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.layout.packed(crops, self.image_newline, size)

    def _raw_packed(self, raw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.layout.packed(raw, raw.new_zeros(raw.shape[-1]), size)
