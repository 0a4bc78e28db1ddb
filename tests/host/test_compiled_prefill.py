"""`torch.compile` with an integer budget: one graph for the pruned prompt, one for decoding, as stock has them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from model_cases import IMAGE, IMAGE_SIZE, Family

SIZE = (IMAGE_SIZE, IMAGE_SIZE)
ROWS = [[3, SIZE, 4]]
SETTINGS: dict[str, Any] = {
    "max_new_tokens": 5,
    "do_sample": False,
    "eos_token_id": 10_000,
    "pad_token_id": 0,
    "suppress_tokens": [IMAGE],
    "cache_implementation": "static",
    "disable_compile": True,  # transformers would compile forward itself on an accelerator
}
BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.heavy)]


class Graphs:
    """A backend that counts the graphs which it is given."""

    def __init__(self, backend: str) -> None:
        self.count = 0
        self._compile = torch._dynamo.lookup_backend(backend)

    def __call__(self, module: torch.fx.GraphModule, examples: list[torch.Tensor]) -> Any:
        self.count += 1
        return self._compile(module, examples)


def compiled(model: Any, graphs: Graphs) -> Any:
    """The model with a language model that is compiled, where a graph break is an error."""
    model.model.language_model.compile(backend=graphs, fullgraph=True, dynamic=False)
    return model


def graphs_of_stock(stock: Any, calls: list[dict[str, Any]]) -> list[int]:
    """The number of graphs after each call."""
    torch.compiler.reset()
    graphs, counts = Graphs("eager"), []
    compiled(stock, graphs)
    for inputs in calls:
        stock.generate(**inputs, **SETTINGS)
        counts.append(graphs.count)
    return counts


@pytest.mark.filterwarnings("ignore:.*torch._prims_common:FutureWarning")  # of torch's own use
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_pruned_prompt_and_decoding_are_one_graph_each(family: Family, backend: str) -> None:
    plain, stock = family.models(vision_token_budget=3)
    # Another image and question of the same lengths: nothing is compiled again, but for stock's own cache, which is
    # allocated in the first call on earlier releases.
    whole = [family.inputs(ROWS, plain, seed=seed) for seed in (0, 1)]
    expected = graphs_of_stock(stock, whole)
    assert expected[0] >= 2
    torch.compiler.reset()
    model, graphs = compiled(copy.deepcopy(plain), counted := Graphs(backend)), counted
    for inputs, count in zip(whole, expected, strict=True):
        assert torch.equal(model.generate(**inputs, **SETTINGS), plain.generate(**inputs, **SETTINGS))
        assert graphs.count == count
