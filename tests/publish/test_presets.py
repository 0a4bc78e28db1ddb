"""Which options a preset sets for which model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from model_cases import Family

from mmtok.cli.arguments import add_call_options, call_pruning_options
from mmtok.evaluation import methods_named
from mmtok.evaluation.selectors import ModelPruning
from mmtok.hub.options import PAPER_OPTIONS, SPREAD_OPTIONS, PruningOptions, is_meaningful
from mmtok.publish.recipe import PRESETS, preset_options


def config_of(model_type: str, folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def test_a_stock_and_a_staged_model_get_the_same(family: Family, tmp_path: Path) -> None:
    model_type = family.config_class.model_type
    for preset in PRESETS:
        stock, staged = (
            preset_options(preset, config_of(name, tmp_path))
            for name in (model_type.removeprefix("mmtok_"), model_type)
        )
        assert stock == staged
        [method] = methods_named([preset.title()], tmp_path)
        assert isinstance(method, ModelPruning)
        assert method.name == preset
        assert {name: method.options[name] for name in stock} == stock


def test_the_paper_is_the_same_on_every_model_but_for_what_means_nothing_there(family: Family, tmp_path: Path) -> None:
    options = preset_options("paper", config_of(family.name, tmp_path))
    own = set(family.config_class.default_options)
    nothing = [
        name for name, value in PAPER_OPTIONS.items() if not is_meaningful(name, value, family.model_class.own_options)
    ]
    assert {name for name in options if options[name] != PAPER_OPTIONS[name]} <= {*nothing, *own}
    assert all(options[name] == getattr(PruningOptions(), name) for name in nothing)
    differing = {name for name, value in PAPER_OPTIONS.items() if value != getattr(PruningOptions(), name)}
    assert differing == {"padding"}


def test_what_is_ahead_in_our_measurements_is_recommended(family: Family, tmp_path: Path) -> None:
    options = preset_options("recommended", config_of(family.name, tmp_path))
    defaults = PruningOptions(**family.config_class.default_options)
    differing = {name: value for name, value in options.items() if value != getattr(defaults, name)}
    measured = {"llava_next": {"budget_scope": "image"}, "qwen2_5_vl": SPREAD_OPTIONS}
    assert differing == measured.get(family.name, {})
    assert options.keys() == PAPER_OPTIONS.keys()


def test_a_command_without_a_model_gets_the_preset_for_the_embedded_one() -> None:
    parser = argparse.ArgumentParser()
    add_call_options(parser)
    options = parser.parse_args(["--preset", "paper", "--text-temperature", "0.5"])
    options.model, options.revision = "tiny", None
    expected = {**PAPER_OPTIONS, "text_temperature": 0.5}
    assert call_pruning_options(options) == expected


def test_what_no_preset_is_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"cannot be pruned\. There is no family for the model_type 'bert': choose from llava, llava_next",
    ):
        preset_options("paper", config_of("bert", tmp_path))
    with pytest.raises(ValueError, match=r"There is no preset 'fast': choose from paper, recommended\."):
        preset_options("fast", tmp_path)
