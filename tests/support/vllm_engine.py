"""A vLLM engine in this process beside the transformers model of the same folder, and what each kept of every request.

vLLM reads its own settings from the environment while it is imported, so this module sets them first.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # a test looks at the model
}


@dataclass(frozen=True)
class Case:
    """One request: a chat about images with its options."""

    question: str
    images: Sequence[Image.Image]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a request: new tokens, tokens in the prompt, and for each pruned image the places that were kept."""

    tokens: list[int]
    prompt_length: int
    kept: list[list[int]] | None


class Engine:
    """vLLM with a model, and what it selected so far."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.model = llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
        self.selected: dict[str, list[int]] = {}
        self.tower_runs: list[int] = []
        self._watch()

    def _watch(self) -> None:
        """Notes what the embedding step of this one model object is asked and returns."""
        from mmtok.vllm import embedding

        select, tower = embedding.kept_flags, self.model._image_pixels_to_features

        def noted_tower(vision_tower: Any, pixels: torch.Tensor) -> torch.Tensor:
            self.tower_runs.append(len(pixels))
            return tower(vision_tower, pixels)

        self.model._image_pixels_to_features = noted_tower

    def answers(self, cases: Sequence[Case], prompts: Sequence[str], new_tokens: int = 8) -> list[Any]:
        from vllm import SamplingParams

        requests = [
            {
                "prompt": prompt,
                "multi_modal_data": {"image": list(case.images)},
                "mm_processor_kwargs": case.options,
            }
            for case, prompt in zip(cases, prompts, strict=True)
        ]
        parameters = SamplingParams(temperature=0, max_tokens=new_tokens)
        return self.llm.generate(requests, parameters, use_tqdm=False)
