"""With an integer budget the selection compiles into one graph, and selects what it selects otherwise."""

from __future__ import annotations

import pytest
import torch

from mmtok.hub.coverage import GreedySelection, greedy_coverage
from mmtok.hub.objective import coverage_matrix


def selected(text: torch.Tensor, vision: torch.Tensor, raw: torch.Tensor, budget: int) -> GreedySelection:
    matrix = coverage_matrix(text, vision, raw, check_values=False)
    return greedy_coverage(matrix, budget, deep_rows=text.shape[1], depth=2, check_values=False)


@pytest.mark.filterwarnings("ignore:.*torch._prims_common:FutureWarning")  # of torch's own use
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.heavy)])
def test_one_graph(backend: str) -> None:
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 8), (30, 8), (30, 6))
    features = [torch.randn(2, *shape, generator=generator) for shape in shapes]
    compiled = torch.compile(selected, fullgraph=True, backend=backend)
    found, expected = compiled(*features, 6), selected(*features, 6)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.count, expected.count)
    torch.testing.assert_close(tuple(found), tuple(expected))
