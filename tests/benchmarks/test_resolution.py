"""The comparison of shrinking with pruning, at a size that takes seconds, with counts worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from benchmarks.reading import resolution
from benchmarks.reading.architecture import build_model, export_checkpoint


def test_every_way_reads_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_checkpoint(build_model(0), tmp_path / "model", torch.float32)
    for name, value in (("ENLARGED", (1, 2)), ("SHARES", (0.25,)), ("CASES", {"pages": "page"}), ("SIDES", (8, 8))):
        monkeypatch.setattr(resolution, name, value)
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    threads = torch.get_num_threads()
    resolution.main(["--checkpoint", str(tmp_path / "model"), "--scenes", "2", "--rounds", "1", "--name", "small"])
    torch.set_num_threads(threads)
    results = json.loads((tmp_path / "small.json").read_text())
    once, twice = (results["answers, in %"]["pages"][enlarged] for enlarged in "12")
    text = once["all"]["prompt_tokens"] - 64
    assert twice["all"]["prompt_tokens"] == text + 256
    for found, tokens in ((once, 16), (twice, 64)):
        assert {way: told["prompt_tokens"] - text for way, told in found["0.25"].items()} == {
            "pruned": tokens,
            "shrunk, then pruned": round(0.5 * (6 if found is once else 11) ** 2),
            "shrunk": tokens,
        }
        assert found["0.25"]["shrunk"]["more_than_pruned"].keys() == found["all"]["right"].keys()
    timed = results["first token"]["pages"]["2"]
    assert timed["vision_tokens"] == 256
    assert set(timed["ms"]) == {"all", "0.25 pruned", "0.25 shrunk, then pruned", "0.25 shrunk"}
