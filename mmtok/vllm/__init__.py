"""The vLLM plugin: vLLM loads and prunes the families that have a module here.

vLLM finds `register` by the entry point `vllm.general_plugins` and calls it in each of its processes, perhaps more than
once. Only names are registered then; the models are imported when one of them is served.
"""

from __future__ import annotations

from typing import Any

from mmtok.hub.families import FAMILIES
from mmtok.vllm.models import MODULES


def register() -> None:
    """Names the models and their configurations to vLLM and to transformers' AutoConfig.

    With the configurations known, vLLM needs no `trust_remote_code`: the installed package runs, and none of the code
    in the checkpoint's folder.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from configuration_mmtok import config_class

    known = ModelRegistry.get_supported_archs()
    for family in (each for each in FAMILIES.values() if each.model_class in MODULES):
        own: Any = config_class(family.config_class)
        AutoConfig.register(own.model_type, own, exist_ok=True)
        # vLLM settles further fields of its configuration by the name of the class: of Qwen3.5 the type of the state.
        if family.stock_class in MODELS_CONFIG_MAP:
            MODELS_CONFIG_MAP[family.model_class] = MODELS_CONFIG_MAP[family.stock_class]
        if family.model_class not in known:
            ModelRegistry.register_model(family.model_class, f"mmtok.vllm.models:{family.model_class}")
