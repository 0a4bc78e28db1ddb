"""Staged small models for the tests that run vLLM."""

from __future__ import annotations

from pathlib import Path

import model_runner_v2
import pytest
from chat_checkpoints import make_chat_checkpoint
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint

from mmtok.publish.recipe import Recipe
from mmtok.publish.stage import stage
from mmtok.tiny import LLAVA, QWEN, checkpoint_path

# vLLM's attention on the CPU needs heads of at least 32.
HIDDEN_SIZE = 128
# Kinds of `chat_checkpoints`: turns marked by registered tokens, and towers without CLS.
CHAT_MODELS = {
    "onevision": "llava_onevision",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl_moe",
    "qwen3_5": "qwen3_5",
    "qwen3_5_moe": "qwen3_5_moe",
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


class Folders(dict[str, Path]):
    """Staged models by name, and as `stock-` and the name what one was staged from; made when first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, name: str) -> Path:
        self[name] = self._stock(name.removeprefix("stock-")) if name.startswith("stock-") else self._staged(name)
        return self[name]

    def _staged(self, name: str) -> Path:
        stage(self[f"stock-{name}"], self.root / name, Recipe(options={"vision_token_budget": 4}), check=False)
        return self.root / name

    def _stock(self, name: str) -> Path:
        folder = self.root / "stock" / name
        if name in ("embedded", "embedded Qwen"):
            return checkpoint_path(QWEN if name == "embedded Qwen" else LLAVA)
        if name == "llava":
            return make_llava_checkpoint(folder, hidden_size=HIDDEN_SIZE)
        if name in ("next", "next-mistral"):
            backbone = "mistral" if name == "next-mistral" else "vicuna"
            return make_llava_next_checkpoint(folder, backbone=backbone, hidden_size=HIDDEN_SIZE)
        return make_chat_checkpoint(folder, CHAT_MODELS[name], hidden_size=HIDDEN_SIZE)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("models"))
