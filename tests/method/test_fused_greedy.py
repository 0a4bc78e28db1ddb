"""The kernel of the greedy loop: where it runs, and, in Triton's interpreter, that it picks what the loop picks."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmtok.hub import fused_greedy
from mmtok.hub.coverage import greedy_way
from mmtok.hub.greedy import GreedyPath, plain_greedy

ROOT = Path(__file__).resolve().parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

SAME_PICKS = """
import torch
from mmtok.hub import coverage, fused_greedy
from mmtok.hub.greedy import lazy_greedy, plain_greedy

generator = torch.Generator().manual_seed(0)

def drawn(*shape):
    # Multiples of 1/8 add up without rounding, so that ties are ties in any order of addition.
    return torch.randint(0, 9, shape, generator=generator) / 8.0

def selected(way, *arguments, **deep):
    coverage.greedy_way = lambda *sizes: way
    return coverage.greedy_coverage(*arguments, **deep)

def whole(low, high):
    return int(torch.randint(low, high, (), generator=generator))

for case in range(40):
    items, count, height = whole(1, 4), whole(2, 40), whole(1, 50)
    matrix = drawn(items, height, count)
    if case % 3 == 1:
        matrix[..., whole(0, count)], matrix[:, whole(0, height)] = matrix[..., 0].clone(), 0.0
    budgets = torch.randint(1, count + 2, (items,), generator=generator) if case % 2 else whole(1, count + 1)
    candidates = torch.rand(items, count, generator=generator) < 0.8 if case % 3 else None
    deep = {"deep_rows": whole(0, height + 1), "depth": whole(2, 6)} if case % 4 > 1 else {}
    if case % 4 == 3:
        deep["depth"] = torch.randint(1, 9, (items, deep["deep_rows"]), generator=generator)
    kernel = selected("fused", matrix, budgets, candidates, **deep)
    for way in ("plain", "lazy"):
        for name, one, other in zip(kernel._fields, kernel, selected(way, matrix, budgets, candidates, **deep)):
            assert torch.equal(one, other), (case, way, name, one, other)

# Where gains are not multiples, they are equal but for rounding.
matrix = torch.rand(2, 50, 60, generator=generator)
kernel, plain = selected("fused", matrix, 9), selected("plain", matrix, 9)
for name in ("gains", "coverage", "upper_bound"):
    assert torch.allclose(getattr(kernel, name), getattr(plain, name), rtol=1e-5), name

for sizes in ((48, 64, True, False), (48, 64, False, False), (300, 32, True, False), (48, 64, True, True)):
    assert fused_greedy._agrees(torch.device("cpu"), *sizes), sizes
"""

COMPILES = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mmtok.hub.fused_greedy import _greedy

types = {"available_ptr": "*u8", "picks_ptr": "*i32", "raised_ptr": "*i32", "indices_ptr": "*i64"}
sizes = {"count": "i32", "height": "i32", "steps": "i32", "levels": "i32", "deep_rows": "i32"}
for capability in (80, 90):
    for constants in (
        {"DEEP": False, "COUNT": 1024, "HEIGHT": 1024, "ROWS": 16},
        {"DEEP": True, "COUNT": 1024, "HEIGHT": 1024, "ROWS": 16},
        {"DEEP": False, "COUNT": 4096, "HEIGHT": 4096, "ROWS": 4},
    ):
        signature = {
            name: "constexpr" if name in constants else types.get(name) or sizes.get(name, "*fp32")
            for name in _greedy.arg_names
        }
        source = ASTSource(fn=_greedy, signature=signature, constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 16})
        assert len(built.asm["cubin"]) > 1000
"""


@pytest.fixture(autouse=True)
def no_answers_kept() -> Iterator[None]:
    fused_greedy._agrees.cache_clear()
    yield
    fused_greedy._agrees.cache_clear()


def wrong_gains(*arguments: Any) -> GreedyPath:
    path = plain_greedy(*arguments)
    return path._replace(gains=path.gains + 0.125)


def refused(*arguments: Any) -> GreedyPath:
    raise RuntimeError("no such instruction")


@pytest.mark.parametrize(
    ("kernel", "agrees", "said"),
    [
        (plain_greedy, True, None),
        (wrong_gains, False, "computes other gains than the plain loop"),
        (refused, False, "failed with RuntimeError: no such instruction"),
    ],
)
def test_a_device_is_asked_once(
    kernel: Any, agrees: bool, said: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr(fused_greedy, "fused_greedy", lambda *given: calls.append(given) or kernel(*given))
    with caplog.at_level(logging.WARNING):
        assert [fused_greedy._agrees(CPU, 64, 64, True, True) for _ in range(3)] == [agrees] * 3
    assert len(calls) == 1
    assert [said in record.getMessage() for record in caplog.records] == ([] if said is None else [True])
    assert tuple(calls[0][0].shape[1:]) == (64, 48)


def test_memory_that_is_short_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def short(*given: Any) -> GreedyPath:
        calls.append(1)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(fused_greedy, "triton", object())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(fused_greedy, "_difference", short)
    assert not fused_greedy.runs_on(CUDA, 576, 588)
    assert not fused_greedy.runs_on(CUDA, 576, 588)
    assert len(calls) == 2


def test_where_the_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_greedy, "_agrees", lambda *sizes: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(fused_greedy, "triton", object())
    assert greedy_way(CUDA, 588, 576, 64) == "fused"
    assert greedy_way(CUDA, 2900, 2880, 160) == "fused"
    for rows, columns in ((588, 31), (31, 576), (588, 4097), (4097, 576)):
        assert greedy_way(CUDA, rows, columns, 8) == "plain"
    assert greedy_way(CUDA, 588, 576, 0) == "plain"
    for other in ("mps", "xpu", "meta"):
        assert greedy_way(torch.device(other), 588, 576, 64) == "plain"
    assert [greedy_way(CPU, rows, columns, 32) for rows, columns in ((150, 144), (588, 576))] == ["plain", "lazy"]
    with monkeypatch.context() as patch:
        patch.setattr(torch.version, "hip", "6.4")
        assert greedy_way(CUDA, 588, 576, 64) == "plain"
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert greedy_way(CUDA, 588, 576, 64) == "plain"
    monkeypatch.setattr(fused_greedy, "triton", None)
    assert greedy_way(CUDA, 588, 576, 64) == "plain"


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("program", "interpreted"), [(SAME_PICKS, "1"), (COMPILES, "0")], ids=["same picks", "compiles"]
)
def test_the_kernel(program: str, interpreted: str, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="the kernel is written in Triton: pip install triton")
    # Triton reads the variable when it is imported, which pytest's own process may have done already.
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "TRITON_INTERPRET": interpreted,
            "TRITON_CACHE_DIR": str(tmp_path),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
