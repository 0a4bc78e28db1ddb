"""LLaVA-NeXT in vLLM, with the vision tokens that each request keeps."""

from __future__ import annotations

import torch
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.vllm.embedding import PruningEmbeddingMixin
from mmtok.vllm.processor import PruningLlavaNextInfo, PruningLlavaNextProcessor


@MULTIMODAL_REGISTRY.register_processor(
    PruningLlavaNextProcessor, info=PruningLlavaNextInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class MMTokLlavaNextForConditionalGeneration(PruningEmbeddingMixin, LlavaNextForConditionalGeneration):
    """vLLM's LLaVA-NeXT with pruned images."""

    def _packed(self, crops: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self._merge_image_patch_embeddings(torch.tensor(size), crops, strategy="spatial_unpad")
