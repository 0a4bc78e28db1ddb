"""Staged small models for the tests that run vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_checkpoints import make_chat_checkpoint
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint

import mmtok.tiny
from mmtok.publish.recipe import Recipe
from mmtok.publish.stage import stage

# vLLM's attention on the CPU needs heads of at least 32.
HIDDEN_SIZE = 128
# Kinds of `chat_checkpoints`: turns marked by registered tokens, and towers without CLS.
CHAT_MODELS = {
    "onevision": "llava_onevision",
    "qwen2_5_vl": "qwen2_5_vl",
    "interleaved": "llava, interleaved",
    "next-llama3": "llava_next, llama3",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM's own dependencies give warnings that fail our tests elsewhere."""
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.filterwarnings("default::FutureWarning"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Staged models by name, and as `stock-qwen2_5_vl` the checkpoint that one was staged from."""
    root = tmp_path_factory.mktemp("models")
    stock = {
        "llava": make_llava_checkpoint(root / "stock" / "llava", hidden_size=HIDDEN_SIZE),
        "next": make_llava_next_checkpoint(root / "stock" / "next", hidden_size=HIDDEN_SIZE),
        "next-mistral": make_llava_next_checkpoint(
            root / "stock" / "next-mistral", backbone="mistral", hidden_size=HIDDEN_SIZE
        ),
        **{
            name: make_chat_checkpoint(root / "stock" / name, kind, hidden_size=HIDDEN_SIZE)
            for name, kind in CHAT_MODELS.items()
        },
        "embedded": Path(mmtok.tiny.__file__).parent / "checkpoint",
    }
    for name, base in stock.items():
        stage(base, root / name, Recipe(options={"vision_token_budget": 4}), check=False)
    return {**{name: root / name for name in stock}, "stock-qwen2_5_vl": stock["qwen2_5_vl"]}
