"""The models by the names under which vLLM asks for them; none is made on a vLLM that it would not fit."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmtok.hub.families import FAMILIES
from mmtok.vllm.interfaces import require_interfaces

# Every family with a module of its model type beside this one.
MODULES = {
    family.model_class: f"mmtok.vllm.{model_type}"
    for model_type, family in FAMILIES.items()
    if find_spec(f"mmtok.vllm.{model_type}")
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
