"""Qwen2.5-VL in vLLM, with the vision tokens that each request keeps, at their positions in time, height and width."""

from __future__ import annotations

from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.vllm.qwen_processor import PruningQwen2_5Processor
from mmtok.vllm.qwen_vl import PruningQwenMixin


@MULTIMODAL_REGISTRY.register_processor(
    PruningQwen2_5Processor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class MMTokQwen2_5_VLForConditionalGeneration(PruningQwenMixin, Qwen2_5_VLForConditionalGeneration):
    """vLLM's Qwen2.5-VL with pruned images and videos."""
