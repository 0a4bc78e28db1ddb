"""Operations that the host starts on an accelerator: `python benchmarks/host_ops.py` writes results/host-ops.json.

A short prompt is bound by how many operations the host has to start, not by what they compute. They are counted, not
timed, and need no accelerator: tensors of the model say that they are on another device ("meta", which needs no driver)
and compute on the CPU. So the code takes the way of an accelerator, and every value that the host reads back, for which
it would have to wait, is seen as well. Depths are the real ones, widths small: they do not change the count.

Counted is what starts work on the device: no views, no allocations, nothing that the host does with its own tensors.
Fused attention counts as one operation, as it is on a GPU, and so does a Triton kernel.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from measure import save
from prefill import BUDGET, BUDGET_NEXT, WORDS, new_tokens, wrapped_parts
from shapes import SHAPES, Shape
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mmtok.hub import coverage, fused_greedy
from mmtok.hub.greedy import plain_greedy

DEVICE = torch.device("meta")
REST = "rest"
# Small widths at the real depths.
NARROW: dict[str, int] = {
    "hidden": 32,
    "mlp": 48,
    "heads": 2,
    "kv_heads": 2,
    "vision_hidden": 16,
    "vision_mlp": 16,
    "vision_heads": 2,
}
# What allocates, or only looks at memory in another way, starts nothing.
_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_unsafe_view"}
# What has to know values on the host before it can go on.
_READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2"}


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device, with its values, `held`, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        wrapper.held = held
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} was called without a `Device` around it.")


class Device(TorchDispatchMode):
    """The device: computes what is asked of it, and counts.

    Attributes:
        started: for each part of the model, how often each operation was started on the device.
        reads: for each part, the operations for which the host waits.
        entered: for each part, the numbers of operations and of waits before each of its calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started: dict[str, Counter[str]] = {}
        self.reads: dict[str, Counter[str]] = {}
        self.entered: dict[str, list[tuple[int, int]]] = {}
        self.part = REST
        self._quiet = False

    def moved(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model, its weights and buffers on the device."""
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, values in table.items():
                    if values is not None and not isinstance(values, OnDevice):
                        table[name] = OnDevice(values.detach())
        return model

    def counted(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose operations count for a part of the model."""

        def within(*args: Any, **kwargs: Any) -> Any:
            so_far = (sum(totals(self.started).values()), sum(totals(self.reads).values()))
            self.entered.setdefault(part, []).append(so_far)
            before, self.part = self.part, part
            try:
                return function(*args, **kwargs)
            finally:
                self.part = before

        return within

    def as_one(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs a function that the device would do in one operation."""
        self._count(self.started, name)
        before, self._quiet = self._quiet, True
        try:
            return function(*args, **kwargs)
        finally:
            self._quiet = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        ours = [leaf for leaf in given if isinstance(leaf, OnDevice)]
        target = kwargs.get("device")
        target = None if target is None else torch.device(target)
        if not ours and target != DEVICE:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        to_host = bool(ours) and target is not None and target != DEVICE
        to_host |= name == "copy_" and not isinstance(args[0], OnDevice)
        if to_host or name in _READS or (name in ("index", "index_put_") and _has_mask(args[1])):
            self._count(self.reads, name)
        elif not func.is_view and name not in _FREE:
            self._count(self.started, name)
        if target == DEVICE:
            kwargs["device"] = torch.device("cpu")
        real_args, real_kwargs = tree_map(_held, (args, kwargs))
        result = func(*real_args, **real_kwargs)
        if to_host:
            return result
        known = {id(leaf.held): leaf for leaf in ours}
        return tree_map(lambda leaf: known[id(leaf)] if id(leaf) in known else _on_device(leaf), result)

    def read(self, name: str) -> None:
        """Notes that the host waits for a value."""
        self._count(self.reads, name)

    def _count(self, counters: dict[str, Counter[str]], name: str) -> None:
        if not self._quiet:
            counters.setdefault(self.part, Counter())[name] += 1


class FusedAttention(TorchFunctionMode):
    """Counts attention as the one operation that it is on a GPU."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            attend = lambda *a, **k: _on_device(func(*tree_map(_held, a), **tree_map(_held, k)))  # noqa: E731
            return self._device.as_one("scaled_dot_product_attention", attend, *args, **kwargs)
        if func is torch.Tensor.tolist and isinstance(args[0], OnDevice):
            self._device.read("tolist")
            return args[0].held.tolist()
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            # It makes a tensor of the "meta" device itself, without its values.
            make = lambda *a, **k: OnDevice(func(*a, **{**k, "device": "cpu"}))  # noqa: E731
            return self._device.as_one("tensor", make, *args, **kwargs)
        return func(*args, **kwargs)


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, OnDevice) else leaf


def _on_device(leaf: Any) -> Any:
    return OnDevice(leaf) if isinstance(leaf, torch.Tensor) else leaf


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _kernel(device: Device) -> Callable[..., None]:
    """What stands in for the start of the Triton kernel: the same results, in one operation."""

    def compute(
        rows: Any, columns: Any, available: Any, counts: Any, indices: Any, gains: Any, covered: Any, left: Any
    ):
        path = plain_greedy(columns.held, available.held, counts.held.tolist())
        for ours, values in ((indices, path.indices), (gains, path.gains), (covered.floors, path.covered)):
            ours.held.copy_(values)
        picked = torch.zeros_like(available.held).scatter_(1, path.indices.clamp_min(0), True)
        gain = (columns.held - path.covered[:, None]).clamp_min_(0).sum(-1)
        left.held.copy_(gain.masked_fill_(picked | ~available.held, 0))

    return lambda *tensors: device.as_one("fused greedy kernel", compute, *tensors)


@torch.no_grad()
def generated(model: Any, inputs: dict[str, torch.Tensor], tokens: int, *, kernel: bool = False) -> Device:
    """The device behind a call of `generate` for so many new tokens."""
    with ExitStack() as stack:
        device = stack.enter_context(Device())
        stack.enter_context(FusedAttention(device))
        if kernel:
            stack.enter_context(patch.object(coverage, "greedy_way", lambda *sizes: "fused"))
            stack.enter_context(patch.object(fused_greedy, "_launch", _kernel(device)))
        device.moved(model)
        stack.enter_context(wrapped_parts(model, device.counted))
        new_tokens(model, {name: OnDevice(values) for name, values in inputs.items()}, tokens)
    return device


def operations(model: Any, inputs: dict[str, torch.Tensor], *, kernel: bool = False) -> dict[str, Any]:
    """What `generate` starts on the device up to the first new token, part by part, and in a decode step."""
    first = generated(model, inputs, 1, kernel=kernel)
    entered = generated(model, inputs, 3, kernel=kernel).entered["language model"]
    return {
        "first_token": totals(first.started),
        "first_token_reads": totals(first.reads),
        "decode_step": entered[2][0] - entered[1][0],
        "decode_step_reads": entered[2][1] - entered[1][1],
    }


def totals(counters: dict[str, Counter[str]]) -> dict[str, int]:
    return {part: sum(counter.values()) for part, counter in counters.items()}


def count(shape: Shape) -> dict[str, Any]:
    """One model with one image and a question: stock, and ours with the loop and with the kernel."""
    stock, ours = replace(shape, **NARROW).models(torch.bfloat16, "cpu")
    ours.config.vision_token_budget = BUDGET_NEXT if shape.next else BUDGET
    inputs = shape.inputs(1, WORDS, torch.bfloat16, "cpu")
    return {
        "model": shape.name,
        "layers": shape.layers,
        "vision_layers": shape.vision_layers,
        "stock": operations(stock, inputs),
        "mmtok, loop": operations(ours, inputs),
        "mmtok, kernel": operations(ours, inputs, kernel=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    options = parser.parse_args()
    counted = [count(SHAPES[name]) for name in options.models]
    print(save("host-ops", {"words": WORDS, "counted": counted}, "mmtok", "transformers"))


if __name__ == "__main__":
    main()
