"""`from mmtok import MMTok...` registers the Auto classes, so that a staged folder loads without trusting its code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from model_cases import FAMILIES
from small_checkpoints import make_llava_checkpoint
from transformers.models.auto import auto_factory

import mmtok
from mmtok.hub.families import FAMILIES as PUBLISHED
from mmtok.publish import published_code, stage
from mmtok.publish.repository import auto_map

ROOT = Path(__file__).resolve().parents[2]
# Whether classes that are registered win over a folder's own ones that are trusted.
REGISTERED_WIN = "explicit_local_code" in Path(auto_factory.__file__).read_text(encoding="utf-8")
LOADERS = ["AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"]

PROGRAM = """
import json, sys
folders, trusted, loaders = map(json.loads, sys.argv[1:])
import mmtok
import transformers
assert "mmtok" not in str(list(transformers.CONFIG_MAPPING._extra_content))
source = {"trust_remote_code": True} if trusted else {}
found = {}
for name, folder in folders.items():
    exec(f"from mmtok import {name}")
    exec(f"from mmtok import {name}")  # again
    loaded = [type(transformers.AutoConfig.from_pretrained(folder, **source))]
    for each in loaders:
        if hasattr(transformers, each):
            model = getattr(transformers, each).from_pretrained(folder, **source)
            assert model.config.vision_token_budget == 3
            loaded.append(type(model))
    found[name] = [f"{each.__module__}.{each.__name__}" for each in loaded]
print(json.dumps(found))
"""


def in_new_process(program: str, *arguments: Any) -> Any:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "custom code" not in ended.stdout  # transformers asks there whether to trust it
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """For each model class a staged folder as its code and its configuration are; the models have no tokenizer."""
    for family in FAMILIES.values():
        model, _ = family.models(vision_token_budget=3)
        model.save_pretrained(tmp_path / family.name)
        for name, content in published_code(family.name).items():
            (tmp_path / family.name / name).write_bytes(content)
        path = tmp_path / family.name / "config.json"
        leads_to = auto_map(PUBLISHED[family.name])
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": leads_to}))
    return {family.model_class.__name__: str(tmp_path / family.name) for family in FAMILIES.values()}


@pytest.mark.parametrize(("suffix", "loaders"), [("ForConditionalGeneration", LOADERS), ("Config", LOADERS[:1])])
def test_staged_folders_load_without_trusting_their_code(
    folders: dict[str, str], suffix: str, loaders: list[str]
) -> None:
    asked = {name.replace("ForConditionalGeneration", suffix): folder for name, folder in folders.items()}
    found = in_new_process(PROGRAM, json.dumps(asked), "false", json.dumps(loaders))
    for name, family in zip(asked, FAMILIES.values(), strict=True):
        config, *models = found[name]
        assert config == f"configuration_mmtok.{family.config_class.__name__}"
        assert set(models) == {f"{family.model_class.__module__}.{family.model_class.__name__}"}


def test_whose_code_runs_where_folders_are_trusted(folders: dict[str, str]) -> None:
    found = in_new_process(PROGRAM, json.dumps(folders), "true", json.dumps(LOADERS[:1]))
    loaded = [name for names in found.values() for name in names]
    assert len(found) == len(FAMILIES)
    assert all(name.startswith("transformers_modules.") != REGISTERED_WIN for name in loaded), loaded


PROCESSOR = """
import json, sys
from transformers import AutoProcessor, pipeline
from mmtok import MMTokLlavaForConditionalGeneration
assert type(pipeline("image-text-to-text", model=sys.argv[1]).model) is MMTokLlavaForConditionalGeneration
print(json.dumps(type(AutoProcessor.from_pretrained(sys.argv[1])).__name__))
"""


def test_pipeline_and_processor_ask_nothing(tmp_path: Path) -> None:
    staged = stage(make_llava_checkpoint(tmp_path / "base"), tmp_path / "staged", check=False).path
    assert in_new_process(PROCESSOR, staged) == "LlavaProcessor"


def test_the_classes_are_those_that_staging_names() -> None:
    for family in PUBLISHED.values():
        assert family.load_class() is getattr(mmtok, family.model_class)
