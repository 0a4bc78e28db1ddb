"""The options: kept in config.json, overridable, and refused by name and value when they make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_cases import FAMILIES, Family

from configuration_mmtok import OPTION_NAMES, MMTokLlavaConfig, PruningOptions

REFUSED = [
    *[({"vision_token_budget": value}, r"vision_token_budget is .*: give a number of tokens of at least 1")
      for value in (0, -1, 1.5, 0.0, "many", True, float("nan"), [4])],
    ({"text_coverage_weight": -1}, "text_coverage_weight is -1: give 0, or a number from 1e-6 to 1e6"),
    ({"vision_coverage_weight": float("inf")}, "vision_coverage_weight is inf"),
    ({"text_coverage_weight": 0, "vision_coverage_weight": 0}, "are both 0, which leaves nothing to cover"),
    ({"text_temperature": 0}, "text_temperature is 0: give a number from 1e-6 to 1e6"),
    ({"vision_temperature": "cold"}, "vision_temperature is 'cold'"),
    ({"padding": True}, "padding is True: give 'stock', 'exclude' or 'include'"),
    ({"padding": "crop"}, "padding is 'crop': give 'stock', 'exclude' or 'include'"),
    ({"covered_text": " "}, "covered_text is ' ': give a text with words in it"),
    ({"question_format": "USER:"}, "question_format is 'USER:': give a dictionary"),
    ({"question_format": {"user": ["USER:"]}}, "question_format is .*, with the key 'user': give some of user_turns, "),
    ({"question_format": {"user_turns": "USER:"}}, r"question_format\['user_turns'\] is 'USER:': give a list of texts"),
    ({"question_format": {"stop_words": "french"}}, r"question_format\['stop_words'\] is 'french': give 'english' or"),
]  # fmt: skip


@pytest.mark.parametrize(("pruning_options", "message"), REFUSED)
def test_nonsense_is_refused_everywhere(
    family: Family, tmp_path: Path, pruning_options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        family.config(**pruning_options)
    with pytest.raises(ValueError, match=message):
        PruningOptions(**pruning_options)
    family.config().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, **pruning_options}))
    with pytest.raises(ValueError, match=message):
        family.config_class.from_pretrained(tmp_path)


def test_a_refused_value_leaves_the_old_one(family: Family) -> None:
    config = family.config(vision_token_budget=7)
    with pytest.raises(ValueError, match="vision_token_budget is 0"):
        config.vision_token_budget = 0
    assert config.vision_token_budget == 7


def test_options_survive_saving_and_can_be_overridden(family: Family, tmp_path: Path) -> None:
    pruning_options = {
        "vision_token_budget": 0.5,
        "question_format": {"user_turns": ["USER:"], "stop_words": "english"},
    }
    config = family.config(**pruning_options)
    config.save_pretrained(tmp_path)
    assert set(OPTION_NAMES) <= set(json.loads((tmp_path / "config.json").read_text()))
    read = family.config_class.from_pretrained(tmp_path)
    assert all(getattr(read, name) == getattr(config, name) for name in OPTION_NAMES)
    overridden = family.config_class.from_pretrained(tmp_path, vision_token_budget=3)
    assert overridden.vision_token_budget == 3


def test_defaults_are_the_papers() -> None:
    options = PruningOptions()
    assert (options.text_coverage_weight, options.vision_coverage_weight) == (1.0, 0.5)
    assert (options.text_temperature, options.vision_temperature) == (0.02, 0.2)


def test_the_model_types_are_our_own() -> None:
    # A stock type would run unpruned, in silence, wherever trust_remote_code is forgotten.
    assert {name: family.config_class.model_type for name, family in FAMILIES.items()} == {
        name: f"mmtok_{name}" for name in FAMILIES
    }


def test_a_share_of_one_is_not_one_token(family: Family, tmp_path: Path) -> None:
    family.config(vision_token_budget=1.0).save_pretrained(tmp_path)
    config = family.config_class.from_pretrained(tmp_path)
    assert PruningOptions.from_config(config).budget_of(100) == 100
    assert PruningOptions.from_config(config, vision_token_budget=1).budget_of(100) == 1


def test_both_weights_cannot_become_0_one_after_the_other(family: Family) -> None:
    config = family.config(text_coverage_weight=0)
    with pytest.raises(ValueError, match="are both 0, which leaves nothing to cover"):
        config.vision_coverage_weight = 0
    assert config.vision_coverage_weight == 0.5


def test_numbers_of_numpy_are_taken_and_kept_as_pythons(tmp_path: Path) -> None:
    config = MMTokLlavaConfig(vision_token_budget=np.int64(4), text_temperature=np.float64(0.25))
    config.vision_coverage_weight = np.float32(0.5)
    config.save_pretrained(tmp_path)
    read = MMTokLlavaConfig.from_pretrained(tmp_path)
    for found in (config, read, PruningOptions.from_config(config, vision_token_budget=np.int64(4))):
        assert (found.vision_token_budget, found.text_temperature, found.vision_coverage_weight) == (4, 0.25, 0.5)
        assert type(found.vision_token_budget) is int
