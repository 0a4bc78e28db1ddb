"""Qwen3-VL with experts in vLLM; its images and videos are those of Qwen3-VL."""

from __future__ import annotations

from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.model_executor.models.qwen3_vl_moe import Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeProcessingInfo
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.vllm.qwen_processor import PruningQwen3Processor
from mmtok.vllm.qwen_vl import PruningQwenMixin


@MULTIMODAL_REGISTRY.register_processor(
    PruningQwen3Processor, info=Qwen3VLMoeProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class MMTokQwen3VLMoeForConditionalGeneration(PruningQwenMixin, Qwen3VLMoeForConditionalGeneration):
    """vLLM's Qwen3-VL-MoE with pruned images and videos."""
