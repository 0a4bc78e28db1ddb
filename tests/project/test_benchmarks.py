"""The benchmarks run at small sizes, and count what can be counted by hand."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import measure  # noqa: E402
import prefill  # noqa: E402
import selection  # noqa: E402
from shapes import SHAPES, Shape  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from benchmarks import fidelity, journeys, video_memory  # noqa: E402
from mmtok.cli.main import COMMANDS  # noqa: E402
from mmtok.hub.options import PAPER_OPTIONS  # noqa: E402
from mmtok.tiny import checkpoint_path  # noqa: E402

TINY: dict[str, Any] = {
    "hidden": 16,
    "mlp": 24,
    "heads": 2,
    "layers": 2,
    "kv_heads": 2,
    "vision_layers": 2,
    "vision_hidden": 8,
    "vision_mlp": 8,
    "vision_heads": 2,
    "patch_size": 42,
}


def test_functions_take_turns_and_ratios_are_those_of_the_rounds() -> None:
    calls: list[str] = []
    times = measure.side_by_side({name: partial(calls.append, name) for name in "ab"}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert [len(values) for values in times.values()] == [2, 2]
    assert measure.times_faster({"a": [4.0, 2.0, 9.0], "b": [1.0, 1.0, 3.0]}, "a") == {"b": 3.0}
    assert measure.milliseconds({"a": [0.003, 0.001, 0.002]}) == {"a": 2.0}


def test_the_plain_loop_and_every_installed_library_agree() -> None:
    case = selection.compare(2, 48, 6, "image", partial(measure.side_by_side, seconds=0))
    assert case["same_picks_as_plain"]["mmtok"]
    assert case["same_picks_as_plain"]["mmtok, from rows"]
    assert all(abs(ratio - 1) < 1e-5 for ratio in case["coverage_over_plain"].values())
    with_text = selection.compare(2, 48, 6, "clusters", partial(measure.side_by_side, seconds=0), words=3)
    assert with_text["same_picks_as_plain"]["mmtok"]


def test_a_whole_video_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmtok.hub.selection._MOST_HELD", 0)
    found = video_memory.measured(6, 10, budget=2, hidden=8, raw=6)
    assert (found["tokens"], found["kept"]) == (60, 12)
    # All rows are read to normalise them, then with 8 text rows to begin, and again for the first pick.
    assert found["rows_read_per_token"] >= (60 + 68 + 68) / 60 - 0.01
    assert 0 < found["megabytes_before"] <= found["megabytes_at_most"]


@pytest.mark.parametrize("is_next", [False, True])
def test_one_tiny_model_end_to_end(is_next: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill, "BUDGET", 6)
    monkeypatch.setattr(prefill, "BUDGET_NEXT", 3)
    options = argparse.Namespace(device="cpu", answers=[2, 4], rounds=1, seconds=0.0)
    shape = Shape("tiny", is_next, **TINY)
    case = prefill.measure(shape, 2, options)
    kept = 15 if is_next else 6
    stock = 64 * 5 + 16 if is_next else 64
    assert case["prompt_tokens"] == {"stock": stock + prefill.WORDS, "mmtok": kept + prefill.WORDS}
    assert case["cache_bytes"]["mmtok"] == 2 * shape.cache_bytes(kept + prefill.WORDS)
    assert set(case["phases_ms"]["mmtok"]) == {
        *("vision tower", "projector", "selection", "packing", "language model", "rest")
    }
    assert "selection" not in case["phases_ms"]["stock"]


def test_what_does_not_fit_costs_no_other_case(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_small_ones(shape: Shape, batch: int, options: argparse.Namespace) -> dict[str, Any]:
        if batch > 8:
            raise torch.OutOfMemoryError
        return {"model": shape.name, "batch": batch}

    written: dict[str, Any] = {}
    monkeypatch.setattr(prefill, "measure", measure_small_ones)
    monkeypatch.setattr(prefill, "save", lambda name, results, *_: written.update(results) or name)
    monkeypatch.setattr(sys, "argv", ["prefill.py", "--models", "LLaVA-1.5-7B", "--batches", "1", "32", "8"])
    prefill.main()
    assert [case["batch"] for case in written["measured"]] == [1, 8]
    assert written["out_of_memory"] == [["LLaVA-1.5-7B", 32]]


def test_models_share_their_weights_and_the_stock_one_is_stock() -> None:
    stock, ours = Shape("tiny", False, **TINY).models(torch.float32, "cpu")
    assert type(stock).__name__ == "LlavaForConditionalGeneration"
    assert all(a is b for a, b in zip(stock.parameters(), ours.parameters(), strict=True))


def test_sizes_of_the_real_shapes() -> None:
    shape = SHAPES["LLaVA-NeXT-13B"]
    # 40 layers, keys and values of 5120 each, in two bytes.
    assert shape.cache_bytes(1) == 40 * 2 * 5120 * 2
    # The published packing of a 672 x 672 image.
    assert shape.image_tokens == 2928
    assert SHAPES["LLaVA-1.5-7B"].image_tokens == 576
    assert shape.reduced(2).layers == 2
    assert shape.reduced(None) is shape


def test_the_preset_paper_has_the_picks_of_the_restated_reference() -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path())
    model = fidelity.random_model("llava", tokenizer)
    inputs = fidelity.pixels_of(fidelity.random_image((336, 336), 0), "llava")
    asked = (model, tokenizer, "Is there a dog in the image?", inputs, 8)
    assert fidelity.compare(*asked, **PAPER_OPTIONS) == 1.0
    assert fidelity.compare(*asked, **{**PAPER_OPTIONS, "vision_coverage_weight": 20.0}) < 1.0


def test_a_journey_goes_on_behind_a_step_that_fails(tmp_path: Path) -> None:
    """Commands with their exit codes and what they printed last; a server is used, and stopped."""
    (tmp_path / "user").mkdir()
    serve = f"{sys.executable} -m http.server --bind 127.0.0.1 {journeys.PORT}"
    steps = [
        journeys.Step("say", "echo first; echo last"),
        journeys.Step("fail", "exit 3"),
        journeys.Step("serve", serve, lambda address: {"status": journeys.opened(f"{address}/none")[0]}),
        journeys.Step("no server", "false", lambda address: {"status": 200}),
    ]
    found = list(journeys.follow(steps, tmp_path / "user", dict(os.environ)))
    assert [each["exit code"] for each in found] == [0, 3, 0, 1]
    assert found[0]["last"] == "last"
    assert found[2]["found"]["status"] == 404
    assert "found" not in found[3]


def test_a_journey_has_every_command() -> None:
    words = {word for step in journeys.STEPS for word in step.command.split()}
    assert set(COMMANDS) - words == {"stage-generate", "push-generate"}
