"""The kernel that waits to be timed on a GPU: held to the plain loop in Triton's interpreter, and compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy
pytest.importorskip("triton", reason="the kernel is written in Triton: pip install triton")
ROOT = Path(__file__).resolve().parents[2]

SAME_PICKS = """
import torch
from fused_greedy import fused_greedy
from mmtok.hub.greedy import plain_greedy

def held_equal(matrix, available, picks):
    ours, plain = fused_greedy(matrix, available, picks), plain_greedy(matrix, available, picks)
    assert torch.equal(ours.indices, plain.indices), (ours.indices, plain.indices)
    for name in ("gains", "best", "left"):
        assert torch.allclose(getattr(ours, name), getattr(plain, name), atol=1e-6), name

generator = torch.Generator().manual_seed(0)
def drawn(*shape):
    # Multiples of 1/8 add up without rounding, so that ties are ties in any order of addition.
    return torch.randint(0, 9, shape, generator=generator) / 8.0

for items, count, height, picks in ((1, 5, 7, [5]), (3, 20, 33, [4, 9, 1]), (2, 33, 17, [8, 8])):
    matrix = drawn(items, count, height)
    held_equal(matrix, torch.ones(items, count, dtype=torch.bool), picks)
    matrix[:, 1], matrix[:, :, 2] = matrix[:, 0], 0.0
    available = torch.rand(items, count, generator=generator) < 0.8
    held_equal(matrix, available, [min(k, int(a.sum())) for k, a in zip(picks, available)])
"""

COMPILES = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fused_greedy import _greedy

types = {"available_ptr": "*i8", "picks_ptr": "*i32", "raised_ptr": "*i32", "indices_ptr": "*i64"}
sizes = {"count": "i32", "height": "i32", "steps": "i32"}
for capability in (80, 90):
    for constants in ({"COUNT": 1024, "HEIGHT": 1024, "ROWS": 16}, {"COUNT": 4096, "HEIGHT": 4096, "ROWS": 4}):
        signature = {
            name: "constexpr" if name in constants else types.get(name) or sizes.get(name, "*fp32")
            for name in _greedy.arg_names
        }
        source = ASTSource(fn=_greedy, signature=signature, constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 16})
        assert len(built.asm["cubin"]) > 1000
"""


@pytest.mark.parametrize(
    ("program", "interpreted"), [(SAME_PICKS, "1"), (COMPILES, "0")], ids=["same picks", "compiles"]
)
def test_the_kernel(program: str, interpreted: str, tmp_path: Path) -> None:
    # Triton reads the variable when it is imported, which pytest's own process may have done already.
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), *filter(None, sys.path)]),
            "TRITON_INTERPRET": interpreted,
            "TRITON_CACHE_DIR": str(tmp_path),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
