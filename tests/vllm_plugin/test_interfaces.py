"""A vLLM that lacks an interface, or calls it with other arguments, is refused in a sentence that names it."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.vllm


def test_the_installed_vllm_has_all_interfaces() -> None:
    from mmtok.vllm.interfaces import require_interfaces

    require_interfaces()


def test_a_missing_method_is_named(monkeypatch: Any) -> None:
    import vllm
    from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration

    from mmtok.vllm import models

    monkeypatch.delattr(LlavaNextForConditionalGeneration, "_merge_image_patch_embeddings")
    wanted = rf"vLLM {vllm.__version__}: there is no .*\._merge_image_patch_embeddings\. .*tested with vLLM 0\.31"
    with pytest.raises(RuntimeError, match=wanted):
        _ = models.MMTokLlavaForConditionalGeneration


def test_other_arguments_are_named(monkeypatch: Any) -> None:
    from vllm.multimodal.processing import BaseMultiModalProcessor

    from mmtok.vllm.interfaces import require_interfaces

    def apply(self: Any, inputs: Any, timing_ctx: Any, mode: str) -> None:
        raise NotImplementedError

    monkeypatch.setattr(BaseMultiModalProcessor, "apply", apply)
    with pytest.raises(
        RuntimeError, match=r"apply takes \(inputs, timing_ctx, mode\) instead of \(inputs, timing_ctx\)"
    ):
        require_interfaces()


def test_keys_without_the_options_are_noticed(monkeypatch: Any) -> None:
    from vllm.multimodal.processing import ProcessorInputs

    from mmtok.vllm.interfaces import require_interfaces

    monkeypatch.setattr(ProcessorInputs, "get_mm_hashes", lambda inputs, *arguments: {"image": ["the image alone"]})
    with pytest.raises(RuntimeError, match="leave the options of a request out"):
        require_interfaces()


def test_an_untested_release_is_named_in_the_log(monkeypatch: Any, caplog: pytest.LogCaptureFixture) -> None:
    import vllm

    from mmtok.vllm.interfaces import require_interfaces

    monkeypatch.setattr(vllm, "__version__", "0.47.1")
    require_interfaces()
    assert "this is vLLM 0.47.1; all of the interfaces" in caplog.text


def test_registering_imports_no_model_of_vllm() -> None:
    import subprocess
    import sys

    program = (
        "import sys, vllm; from mmtok.vllm import register; register(); register(); "
        "models = [f'vllm.model_executor.models.{name}' for name in ('llava', 'llava_next', 'qwen2_5_vl')]; "
        "assert not [name for name in models if name in sys.modules]; "
        "from vllm import ModelRegistry; from mmtok.vllm.models import MODULES; "
        "assert len(MODULES) == 8; assert set(MODULES) <= set(ModelRegistry.get_supported_archs())"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
