"""The models by the names under which vLLM asks for them; none is made on a vLLM that it would not fit."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mmtok.vllm.interfaces import require_interfaces

MODULES = {
    "MMTokLlavaForConditionalGeneration": "mmtok.vllm.llava",
    "MMTokLlavaNextForConditionalGeneration": "mmtok.vllm.llava_next",
    "MMTokLlavaOnevisionForConditionalGeneration": "mmtok.vllm.llava_onevision",
    "MMTokQwen2_5_VLForConditionalGeneration": "mmtok.vllm.qwen2_5_vl",
    "MMTokQwen3VLForConditionalGeneration": "mmtok.vllm.qwen3_vl",
}


def __getattr__(name: str) -> Any:
    """The class of a model.

    Raises:
        RuntimeError: the installed vLLM lacks an interface that the model overrides.
    """
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_interfaces()
    return getattr(import_module(MODULES[name]), name)
