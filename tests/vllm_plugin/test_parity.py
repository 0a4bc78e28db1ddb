"""vLLM with the plugin against the transformers classes: tokens, prompt lengths and kept tokens of each request."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_runner_v2 import is_wanted
from vllm_engine import Case, Engine, noise, random_cases, random_video_cases

pytestmark = pytest.mark.vllm

# Folder, requests, and what the engine is given beside its defaults.
ENGINES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "LLaVA-1.5": ("llava", 60, {}),
    "LLaVA-NeXT": ("next", 60, {}),
    "LLaVA-NeXT on Mistral": ("next-mistral", 60, {}),
    "LLaVA-NeXT on Llama 3": ("next-llama3", 60, {}),
    "LLaVA with SigLIP": ("interleaved", 60, {}),
    "LLaVA-OneVision": ("onevision", 60, {}),
    "Qwen2.5-VL": ("qwen2_5_vl", 60, {}),
    "Qwen3-VL": ("qwen3_vl", 60, {}),
    "Qwen3-VL-MoE": ("qwen3_vl_moe", 60, {}),
    "the embedded model": ("embedded", 70, {}),
    "the embedded Qwen": ("embedded Qwen", 40, {}),
    "no prefix cache": ("next", 60, {"enable_prefix_caching": False}),
    "no processor cache": ("llava", 60, {"mm_processor_cache_gb": 0}),
    "no cache of features": ("next", 60, {"additional_config": {"mmtok_feature_cache_gib": 0}}),
    "prefill in chunks of 16 tokens": ("next", 60, {"max_num_batched_tokens": 16}),
    "Qwen2.5-VL, no prefix cache": ("qwen2_5_vl", 60, {"enable_prefix_caching": False}),
    "Qwen2.5-VL, no cache of features": (
        "qwen2_5_vl",
        60,
        {"additional_config": {"mmtok_feature_cache_gib": 0}, "mm_processor_cache_gb": 0},
    ),
    "Qwen2.5-VL, prefill in chunks of 16 tokens": ("qwen2_5_vl", 60, {"max_num_batched_tokens": 16}),
    "Qwen3-VL, no prefix cache": ("qwen3_vl", 60, {"enable_prefix_caching": False}),
    "Qwen3-VL, prefill in chunks of 16 tokens": ("qwen3_vl", 60, {"max_num_batched_tokens": 16}),
}
# Of which each question is about a video.
VIDEO_ENGINES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "LLaVA-OneVision": ("onevision", 60, {}),
    "LLaVA-OneVision, prefill in chunks of 16 tokens": ("onevision", 40, {"max_num_batched_tokens": 16}),
    "Qwen2.5-VL": ("qwen2_5_vl", 60, {}),
    "Qwen2.5-VL, prefill in chunks of 16 tokens": ("qwen2_5_vl", 40, {"max_num_batched_tokens": 16}),
    "Qwen2.5-VL, no prefix cache": ("qwen2_5_vl", 40, {"enable_prefix_caching": False}),
    "Qwen3-VL": ("qwen3_vl", 60, {}),
    "Qwen3-VL, prefill in chunks of 16 tokens": ("qwen3_vl", 40, {"max_num_batched_tokens": 16}),
    "Qwen3-VL, no prefix cache": ("qwen3_vl", 40, {"enable_prefix_caching": False}),
    "Qwen3-VL-MoE": ("qwen3_vl_moe", 30, {}),
}


@pytest.mark.parametrize("name", ENGINES)
def test_every_request_gets_what_transformers_gives(name: str, folders: dict[str, Path]) -> None:
    folder, requests, options = ENGINES[name]
    engine = Engine(folders[folder], **options)
    cases = random_cases(len(name), scaled(requests), engine.reference.own_options)
    assert engine.differences(cases) == []


@pytest.mark.parametrize("name", VIDEO_ENGINES)
def test_every_question_about_a_video_gets_what_transformers_gives(name: str, folders: dict[str, Path]) -> None:
    folder, requests, options = VIDEO_ENGINES[name]
    engine = Engine(folders[folder], **options)
    assert engine.differences(random_video_cases(len(name), scaled(requests))) == []


def scaled(requests: int) -> int:
    """Requests of a test: fewer where Triton's interpreter runs the kernels."""
    return requests // 6 if is_wanted() else requests


def test_leaving_the_text_out_of_the_cache_key_is_found(folders: dict[str, Path], monkeypatch: Any) -> None:
    from vllm.multimodal.processing import ProcessorInputs

    from mmtok.vllm.processor import REQUEST

    engine, words = Engine(folders["llava"]), ("dog", "red star", "people", "circle", "1 2 3")

    def cases(seed: int) -> list[Case]:
        return [Case(text, [noise((48, 48), seed)]) for text in words]

    assert engine.differences(cases(1), together=1) == []
    stock = ProcessorInputs.get_mm_hashes

    def without_text(inputs: Any, *arguments: Any) -> Any:
        given = dict(inputs.hf_processor_mm_kwargs)
        request = json.loads(given[REQUEST])
        return stock(
            replace(inputs, hf_processor_mm_kwargs={**given, REQUEST: json.dumps(request | {"text_ids": []})}),
            *arguments,
        )

    monkeypatch.setattr(ProcessorInputs, "get_mm_hashes", without_text)
    assert len(engine.differences(cases(2), together=1)) == len(words) - 1
