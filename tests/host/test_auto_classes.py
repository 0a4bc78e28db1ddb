"""`from mmtok import MMTok...` registers the Auto classes, so that a staged folder loads without trusting its code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from model_cases import Family
from small_checkpoints import make_llava_checkpoint
from transformers.models.auto import auto_factory

import mmtok
from mmtok.publish import stage
from mmtok.publish.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
# Whether classes that are registered win over a folder's own ones that are trusted.
REGISTERED_WIN = "explicit_local_code" in Path(auto_factory.__file__).read_text(encoding="utf-8")

PROGRAM = """
import json, sys
folder, name, trusted = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
import mmtok
import transformers
found = {"before": "mmtok" in str(list(transformers.CONFIG_MAPPING._extra_content))}
exec(f"from mmtok import {name}")
exec(f"from mmtok import {name}")  # again
source = {"trust_remote_code": True} if trusted else {}
found["config"] = type(transformers.AutoConfig.from_pretrained(folder, **source)).__module__
for each in ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
    if hasattr(transformers, each):
        model = getattr(transformers, each).from_pretrained(folder, **source)
        found[each] = [type(model).__module__, model.config.vision_token_budget]
print(json.dumps(found))
"""


def in_new_process(program: str, *arguments: Any) -> Any:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture
def folder(family: Family, tmp_path: Path) -> Path:
    """A staged folder as the code and the configuration of one are; the model has no tokenizer."""
    from mmtok.publish import published_sources

    model, _ = family.models(vision_token_budget=3)
    model.save_pretrained(tmp_path)
    entry = FAMILIES[family.name]
    for name, source in published_sources(family.name).items():
        (tmp_path / name).write_bytes(source.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": entry.auto_map}))
    return tmp_path


@pytest.mark.parametrize("suffix", ["ForConditionalGeneration", "Config"])
def test_a_staged_folder_loads_without_trusting_its_code(family: Family, folder: Path, suffix: str) -> None:
    name = family.model_class.__name__.replace("ForConditionalGeneration", suffix)
    found = in_new_process(PROGRAM, folder, name, "false")
    assert found.pop("before") is False
    assert found.pop("config") == "configuration_mmtok"
    assert found
    assert all(each == [family.model_class.__module__, 3] for each in found.values())


def test_whose_code_runs_where_the_folder_is_trusted(family: Family, folder: Path) -> None:
    found = in_new_process(PROGRAM, folder, family.model_class.__name__, "true")
    del found["before"]
    modules = [found.pop("config"), *(module for module, _ in found.values())]
    assert all(module.startswith("transformers_modules.") != REGISTERED_WIN for module in modules), modules


PROCESSOR = """
import json, sys
from transformers import AutoProcessor, pipeline
if sys.argv[2] == "registered":
    from mmtok import MMTokLlavaForConditionalGeneration
    assert type(pipeline("image-text-to-text", model=sys.argv[1]).model) is MMTokLlavaForConditionalGeneration
print(json.dumps(type(AutoProcessor.from_pretrained(sys.argv[1])).__name__))
"""


@pytest.mark.parametrize("way", ["registered", "unknown"])
def test_the_processor_asks_nothing(tmp_path: Path, way: str) -> None:
    staged = stage(make_llava_checkpoint(tmp_path / "base"), tmp_path / "staged", check=False).path
    assert in_new_process(PROCESSOR, staged, way) == "LlavaProcessor"


def test_the_classes_are_those_that_staging_names() -> None:
    for family in FAMILIES.values():
        assert family.load_class() is getattr(mmtok, family.model_class)
