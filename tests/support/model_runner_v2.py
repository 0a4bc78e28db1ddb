"""Lets vLLM's model runner 2, which runs on GPUs, run on the CPU by Triton's interpreter.

vLLM has that runner for the CPU too (`vllm/v1/worker/cpu/model_runner.py`), for builds with Triton's backend for CPUs.
The interpreter runs the same kernels without one; only a driver has to be named. Start the process with `ENVIRONMENT`,
which Triton and vLLM read when they are imported.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

ENVIRONMENT = {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}


def is_wanted() -> bool:
    """Whether the process was started for model runner 2."""
    return ENVIRONMENT.items() <= os.environ.items()


def name_driver() -> None:
    """Names the driver, before vLLM is imported."""
    import triton.backends
    from triton.runtime.driver import driver

    triton.backends.backends["cpu"] = SimpleNamespace(driver=_Driver, compiler=_Compiler)
    driver.set_active(_Driver())


class _Compiler:
    """What PyTorch asks for a name where it finds a graph that it compiled before."""

    def __init__(self, target: Any) -> None:
        pass

    @staticmethod
    def supports_target(target: Any) -> bool:
        return target.backend == "cpu"

    def hash(self) -> str:
        return "interpreter"


class _Driver:
    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_device(self) -> int:
        return 0

    def get_current_target(self) -> Any:
        return SimpleNamespace(backend="cpu", arch="x86", warp_size=1)
