"""Staged small models for the tests that run vLLM."""

from __future__ import annotations

from pathlib import Path

import model_runner_v2
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
    "qwen3_vl": "qwen3_vl",
    "interleaved": "llava, interleaved",
    "next-llama3": "llava_next, llama3",
}


if model_runner_v2.is_wanted():
    model_runner_v2.name_driver()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`asks`: whether the runner asks for positions. Runner 1 does on GPUs only; runner 2 does everywhere."""
    if "asks" in metafunc.fixturenames:
        metafunc.parametrize("asks", [True] if model_runner_v2.is_wanted() else [False, True])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM's own dependencies give warnings that fail our tests elsewhere."""
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.filterwarnings("default::FutureWarning"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Staged models by name, and as `stock-` and the name the checkpoint that one was staged from."""
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
    return {**{name: root / name for name in stock}, **{f"stock-{name}": folder for name, folder in stock.items()}}
