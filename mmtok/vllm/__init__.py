"""The vLLM plugin: vLLM loads and prunes MMTok LLaVA, LLaVA-NeXT, LLaVA-OneVision and Qwen2.5-VL.

vLLM finds `register` by the entry point `vllm.general_plugins` and calls it in each of its processes, perhaps more than
once. Only names are registered then; the models are imported when one of them is served.
"""

from __future__ import annotations

from mmtok.vllm.models import MODULES


def register() -> None:
    """Names the models and their configurations to vLLM and to transformers' AutoConfig.

    With the configurations known, vLLM needs no `trust_remote_code`: the installed package runs, and none of the code
    in the checkpoint's folder.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from configuration_mmtok import (
        MMTokLlavaConfig,
        MMTokLlavaNextConfig,
        MMTokLlavaOnevisionConfig,
        MMTokQwen2_5_VLConfig,
        MMTokQwen3VLConfig,
    )

    for config_class in (
        MMTokLlavaConfig,
        MMTokLlavaNextConfig,
        MMTokLlavaOnevisionConfig,
        MMTokQwen2_5_VLConfig,
        MMTokQwen3VLConfig,
    ):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    known = ModelRegistry.get_supported_archs()
    for name in MODULES:
        if name not in known:
            ModelRegistry.register_model(name, f"mmtok.vllm.models:{name}")
