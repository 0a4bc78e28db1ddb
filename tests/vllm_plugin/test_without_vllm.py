"""Nothing of vLLM is imported by mmtok, by the published files or by the parts of the plugin that need none of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import sys
sys.modules["vllm"] = None  # an import of it fails
import {modules}
assert not [name for name in sys.modules if name.split(".")[0] == "vllm" and sys.modules[name] is not None]
"""


@pytest.mark.parametrize(
    "modules",
    [
        "mmtok, configuration_mmtok, modeling_mmtok_llava",
        "mmtok.cli.main",
        "mmtok.vllm, mmtok.vllm.models, mmtok.vllm.request, mmtok.vllm.method, mmtok.vllm.feature_cache",
    ],
)
def test_imports_nothing_of_vllm(modules: str) -> None:
    subprocess.run([sys.executable, "-c", _PROGRAM.format(modules=modules)], check=True)
