"""Qwen3.5 in vLLM; its images and videos are those of Qwen3-VL, without DeepStack."""

from __future__ import annotations

from vllm.model_executor.models.qwen3_5 import Qwen3_5ForConditionalGeneration, Qwen3_5ProcessingInfo
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from mmtok.vllm.qwen_processor import AnyConfigurationMixin, PruningQwen3Processor
from mmtok.vllm.qwen_vl import PruningQwenMixin


class PruningInfo(AnyConfigurationMixin, Qwen3_5ProcessingInfo):
    pass


@MULTIMODAL_REGISTRY.register_processor(PruningQwen3Processor, info=PruningInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class MMTokQwen3_5ForConditionalGeneration(PruningQwenMixin, Qwen3_5ForConditionalGeneration):
    """vLLM's Qwen3.5 with pruned images and videos."""
