"""What pruning asks of an accelerator while it works: nothing. The meta device holds no values, so that every look at
one is an error there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import torch
from model_cases import FAMILIES, Family, Row
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from configuration_mmtok import PruningOptions


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of several devices: CUDA refuses most of them, and waits for the others."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in tree_leaves((args, kwargs or {})) if isinstance(value, torch.Tensor)]
        devices = {value.device.type for value in given if value.dim() > 0}
        assert len(devices) <= 1, f"{func} on {devices}"
        return func(*args, **(kwargs or {}))


SIZE, WIDE = (24, 24), (24, 48)
ROWS = [[3, SIZE, 4], [5, SIZE, 1, WIDE, 2]]
SETTINGS: list[dict[str, Any]] = [
    {"vision_token_budget": 3},
    {"vision_token_budget": 0.25},
    {"vision_token_budget": 40},
    {"vision_token_budget": 3, "budget_scope": "image"},
    {"vision_token_budget": 3, "padding": "exclude"},
    {
        "vision_token_budget": 3,
        "text_temperature": 1.0,
        "vision_coverage_weight": 4.0,
    },
]


def on_meta(
    family: Family, pruning_options: dict[str, Any], *, masked: bool = True, rows: Sequence[Row] = ROWS
) -> tuple[Any, Any]:
    """A prompt pruned on the CPU, and pruned where everything that an accelerator would hold has no values."""
    model, _ = family.models()
    inputs = family.inputs(rows, model)
    options = PruningOptions.from_config(model.config, **family.options(**pruning_options))
    ids, mask, inputs = inputs["input_ids"], inputs["attention_mask"], family.images(inputs) | family.videos(inputs)
    mask = mask if masked else None
    prompt = model.read_prompt(ids, None, mask, videos="pixel_values_videos" in inputs)
    with torch.no_grad():
        expected = model.prune_prompt(prompt, None, dict(inputs), options)
        encoded = model.encode_images(**inputs)
        model.to("meta")
        away = replace(
            encoded,
            projected=[tokens.to("meta") for tokens in encoded.projected],
            raw=[tokens.to("meta") for tokens in encoded.raw],
            deepstack=encoded.deepstack and [[layer.to("meta") for layer in layers] for layers in encoded.deepstack],
        )
        there = replace(prompt, input_ids=ids.to("meta"), attention_mask=None if mask is None else mask.to("meta"))
        with OneDevice():
            return expected, model.prune_prompt(there, away, {}, options)


@pytest.mark.parametrize("pruning_options", SETTINGS, ids=lambda pruning_options: ", ".join(map(str, pruning_options)))
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
def test_nothing_is_read_back_between_the_features_and_the_pruned_prompt(
    family: Family, pruning_options: dict[str, Any], masked: bool
) -> None:
    if not family.counts_on_host:
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
            on_meta(family, pruning_options, masked=masked)
        return
    expected, found = on_meta(family, pruning_options, masked=masked)
    assert found.inputs_embeds.device.type == "meta"
    for name in ("input_ids", "inputs_embeds", "attention_mask", "kept", "readable", "vision_slots"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        assert ours is None or (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_nothing_of_a_video_is_read_back(name: str) -> None:
    video = (3, *SIZE)
    expected, found = on_meta(
        FAMILIES[name], {"vision_token_budget": 2}, rows=[[3, video, 4], [5, SIZE, 1, video, 2, SIZE, 2]]
    )
    assert found.inputs_embeds.device.type == "meta"
    assert found.inputs_embeds.shape == expected.inputs_embeds.shape


def test_an_adaptive_budget_has_to_look(family: Family) -> None:
    # The same check finds a look where there is one: how many picks reach the target is in the features.
    with pytest.raises(Exception, match=r"meta tensor|item\(\)"):
        on_meta(family, {"vision_token_budget": 3, "coverage_target": 0.9})


@pytest.mark.parametrize("use_cache", [True, False])
def test_vision_tokens_leave_the_loop_once_a_cache_holds_them(
    family: Family, monkeypatch: pytest.MonkeyPatch, use_cache: bool
) -> None:
    model, _ = family.models()
    inputs = family.inputs(ROWS, model)
    carried = []
    forward = type(model).forward

    @wraps(forward)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        carried.append(kwargs["generation_step"].reads_prompt)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", watched)
    model.generate(**inputs, vision_token_budget=3, max_new_tokens=4, use_cache=use_cache)
    assert carried == [True] + [not use_cache] * 3
