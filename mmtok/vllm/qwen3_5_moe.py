"""Qwen3.5 with experts in vLLM; its images and videos are those of Qwen3-VL, without DeepStack."""

from __future__ import annotations

from vllm.model_executor.models.qwen3_5 import Qwen3_5MoeForConditionalGeneration, Qwen3_5MoeProcessingInfo
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.vllm.qwen_processor import AnyConfigurationMixin, PruningQwen3Processor
from mmtok.vllm.qwen_vl import PruningQwenMixin


class PruningInfo(AnyConfigurationMixin, Qwen3_5MoeProcessingInfo):
    pass


@MULTIMODAL_REGISTRY.register_processor(PruningQwen3Processor, info=PruningInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class MMTokQwen3_5MoeForConditionalGeneration(PruningQwenMixin, Qwen3_5MoeForConditionalGeneration):
    """vLLM's Qwen3.5-MoE with pruned images and videos."""
