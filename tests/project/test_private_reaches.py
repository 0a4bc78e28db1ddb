"""Evaluation, applications, the vLLM plugin and benchmarks use a model through its public methods alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["mmtok/evaluation", "mmtok/apps", "mmtok/cli", "mmtok/vllm", "benchmarks"]
# An attribute with an underscore of something that is called a model, such as `self.model._encode(...)` or `stock._x`.
REACH = re.compile(r"\b(?:\w*model|stock|ours|pruned_model)\._(?!_)\w+")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("projected, raw = model._encode_images(inputs)", True),
        ("checkpoint.model._filler_id()", True),
        ("base_model._select(prompt)", True),
        ("model.config._attn_implementation", False),
        ("model.encode_images(**inputs)", False),
        ("type(model).__name__, model.__dict__", False),
        ("configuration_model_name = 1", False),
    ],
)
def test_the_pattern_finds_private_reaches(line: str, found: bool) -> None:
    assert bool(REACH.search(line)) is found


def test_models_are_used_through_public_methods() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 60
    reaches = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        if REACH.search(line)
    ]
    assert not reaches
