"""`mmtok doctor` reports no problem where there is none, and names the check that fails."""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import Any

import pytest
import torch

from mmtok.apps.doctor import makers
from mmtok.cli.main import main
from mmtok.hub.families import FAMILIES
from mmtok.hub.prompt import PrunedPrompt
from mmtok.hub.pruned_model import PrunedModel


def test_everything_is_right_here(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    # transformers' messages do not reach the root logger.
    logging.getLogger("transformers").addHandler(caplog.handler)
    assert main(["doctor", "--device", "cpu", "--json"]) == 0
    logging.getLogger("transformers").removeHandler(caplog.handler)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    # Stock's Qwen3.5 names the kernels that are not installed.
    assert [each for each in warned if "is falling back to its reference PyTorch implementation" not in each] == []
    told = json.loads(capsys.readouterr().out)
    assert told["right"] is True
    titles = {family.title: family for family in FAMILIES.values() if family.is_available()}
    checked = Counter(check["model"].partition(" ")[2] for check in told["checks"])
    # Where tokens see each other in both directions, a prefill in chunks is refused.
    assert checked == {title: 11 - family.load_class().sees_both_ways for title, family in titles.items()}


def test_a_fault_is_found_and_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    packed = PrunedModel.pack_prompt

    def last_token_lost(self: Any, *args: Any) -> PrunedPrompt:
        pruned = packed(self, *args)
        pruned.inputs_embeds.mul_(torch.linspace(0.5, 1.0, pruned.length)[None, :, None])
        return pruned

    monkeypatch.setattr(PrunedModel, "pack_prompt", last_token_lost)
    monkeypatch.setattr("mmtok.apps.doctor.makers", lambda: {"embedded": makers()["embedded LLaVA-1.5"]})
    assert main(["doctor", "--device", "cpu"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert any("Wrong: " in line for line in told)
    assert {"right" in line for line in told if "logits with full budget" in line} == {False}
    assert {"right" in line for line in told if "logits with pruning off" in line} == {True}


def test_what_needs_torchvision_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmtok.apps.doctor.is_torchvision_available", lambda: False)
    monkeypatch.setattr("mmtok.apps.doctor.makers", dict)
    assert main(["doctor", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    for title in ("LLaVA-OneVision", "Qwen2.5-VL", "Qwen3-VL"):
        assert f"{title}: its processor needs torchvision, which is missing: run pip install torchvision" in told
    assert "LLaVA-NeXT: its processor" not in told
    assert "no image or video is read" in told
    assert "Right: all 0 checks hold; what was not checked stands above." in told
