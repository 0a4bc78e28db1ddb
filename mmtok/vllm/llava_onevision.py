"""LLaVA-OneVision in vLLM, with the vision tokens that each request keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.vllm.embedding import PruningEmbeddingMixin
from mmtok.vllm.onevision_processor import PruningLlavaOnevisionInfo, PruningLlavaOnevisionProcessor


@MULTIMODAL_REGISTRY.register_processor(
    PruningLlavaOnevisionProcessor, info=PruningLlavaOnevisionInfo, dummy_inputs=LlavaOnevisionDummyInputsBuilder
)
class MMTokLlavaOnevisionForConditionalGeneration(PruningEmbeddingMixin, LlavaOnevisionForConditionalGeneration):
    """vLLM's LLaVA-OneVision with pruned images and videos."""

    def _videos(self, **kwargs: object) -> tuple[list[torch.Tensor], Sequence[Any]]:
        videos = list(self._parse_and_validate_video_input(**kwargs)["pixel_values_videos"])
        return videos, [(len(frames),) for frames in videos]

    def _packed(self, crops: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if len(size) == 1:  # a video
            return torch.cat((self.apply_pooling(crops).flatten(0, 1), self.image_newline[None]))
        return self.geometry.packed(crops, self.image_newline, [size], [len(crops)])[0]

    def _raw_packed(self, raw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if len(size) == 1:
            return self.apply_pooling(raw).flatten(0, 1)
        return self.geometry.packed(raw, raw.new_zeros(raw.shape[-1]), [size], [len(raw)])[0]
