"""Qwen3-VL in vLLM, with the vision tokens that each request keeps, their features of DeepStack and their positions."""

from __future__ import annotations

from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.vllm.qwen_processor import PruningQwen3Processor
from mmtok.vllm.qwen_vl import PruningQwenMixin


@MULTIMODAL_REGISTRY.register_processor(
    PruningQwen3Processor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class MMTokQwen3VLForConditionalGeneration(PruningQwenMixin, Qwen3VLForConditionalGeneration):
    """vLLM's Qwen3-VL with pruned images and videos."""
