"""The count of operations: checked by hand, and with it what ours starts beside stock, which stays within bounds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import host_ops
from host_ops import Device, FusedAttention, OnDevice
from shapes import SHAPES


def test_what_is_started_and_what_is_waited_for() -> None:
    device = Device()
    with device, FusedAttention(device):
        values = OnDevice(torch.arange(6.0).view(2, 3))
        doubled = (values.view(3, 2).t() * 2).add_(1)  # views start nothing
        sent = torch.ones(2, 3).to(doubled.device)
        torch.nn.functional.scaled_dot_product_attention(*[doubled[None]] * 3)
        host = torch.ones(4) + torch.ones(4)  # the host's own
        assert float(doubled.sum() + sent.sum()) == 42.0
        assert doubled.cpu().tolist() == [[1.0, 5.0, 9.0], [3.0, 7.0, 11.0]]
        assert device.counted("lost", lambda: values[values > 2])().shape == (3,)
    assert type(host) is torch.Tensor
    attention = {"scaled_dot_product_attention": 1}
    assert device.started["rest"] == {"mul": 1, "add_": 1, "_to_copy": 1, "sum": 2, "add": 1, **attention}
    assert device.started["lost"] == {"gt": 1}
    assert device.reads["rest"] == {"_local_scalar_dense": 1, "_to_copy": 1}
    assert device.reads["lost"] == {"index": 1}


@pytest.mark.parametrize("name", ["LLaVA-1.5-7B", "LLaVA-NeXT-7B"])
def test_selection_and_packing_start_few_operations_and_wait_for_none(name: str) -> None:
    counted = host_ops.count(SHAPES[name].reduced(2))
    stock, ours = counted["stock"]["first_token"], counted["mmtok, kernel"]["first_token"]
    assert ours["selection"] + ours["packing"] <= 80
    assert not {"selection", "packing"} & counted["mmtok, kernel"]["first_token_reads"].keys()
    for part in ("vision tower", "projector", "language model"):
        assert ours[part] == stock[part]
    assert counted["mmtok, kernel"]["decode_step"] == counted["stock"]["decode_step"]
    assert counted["mmtok, kernel"]["decode_step_reads"] == counted["stock"]["decode_step_reads"]
    # Without the kernel, a few more for each pick.
    budget = host_ops.BUDGET_NEXT if SHAPES[name].next else host_ops.BUDGET
    assert counted["mmtok, loop"]["first_token"]["selection"] <= ours["selection"] + 9 * budget
