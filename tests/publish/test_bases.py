"""Bases that are not what they should be: nothing of them runs or is followed, and the message says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import site
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint
from test_verify import IMAGES, PROCESSOR, TOKENIZER, code, edit

from mmtok.publish import Recipe, clean_process, open_base, stage, verify
from mmtok.publish.clean_process import HIDDEN, run_clean
from mmtok.publish.settings import load_processor


@pytest.fixture(scope="module")
def base_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava_checkpoint(tmp_path_factory.mktemp("base") / "llava")


@pytest.fixture
def base(base_once: Path, tmp_path: Path) -> Path:
    """A base to change."""
    return Path(shutil.copytree(base_once, tmp_path / "base"))


@pytest.mark.parametrize(
    ("file", "content", "fields"),
    [
        ("own.py", TOKENIZER, {"tokenizer_config.json": {"auto_map": {"AutoTokenizer": [None, "own.Own"]}}}),
        ("own.py", PROCESSOR, {"processor_config.json": {"auto_map": {"AutoProcessor": "own.Own"}}}),
        ("own.py", IMAGES, {"preprocessor_config.json": {"auto_map": {"AutoImageProcessor": "own.Own"}}}),
    ],
)
def test_code_of_a_base_is_neither_run_nor_published(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: str, fields: dict[str, Any]
) -> None:
    monkeypatch.setenv("MARKS", str(tmp_path))
    code(base, file, content)
    for name, added in fields.items():
        edit(base, name, **added)
    with pytest.raises(ValueError, match=r"brings code or parts of its own, .*: in \w+.json, auto_map is"):
        stage(base, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_only_files_of_the_list_reach_a_loader(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters, generate code and further templates of a base are not seen, not even by the check."""
    monkeypatch.setenv("MARKS", str(tmp_path))
    edit(base, "adapter_config.json", base_model_name_or_path="evil/repo", peft_type="LORA")
    code(base, "custom_generate/generate.py", "def generate(model, **named):\n    pass\n")
    code(base, "additional_chat_templates/rag.jinja")
    made = stage(base, tmp_path / "out")
    assert made.report["largest_logit_difference"] == 0
    assert verify(made.path, base=base).ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json", "model.safetensors", "README.md"])
def test_links_out_of_a_base_are_refused(base: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "private").write_text("secret")
    (base / name).unlink(missing_ok=True)
    (base / name).symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match=rf"{name} is a link to .*private, outside of"):
        stage(base, tmp_path / "out", check=False)


def test_links_within_a_base_are_files(base: Path, tmp_path: Path) -> None:
    (base / "LICENSE").symlink_to("README.md")
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    made = stage(base, tmp_path / "out", check=False)
    assert not (made.path / "LICENSE").is_symlink()
    assert (made.path / "LICENSE").read_text() == "---\nlicense: mit\n---\n"


def test_where_a_base_came_from_is_left_out(base: Path, tmp_path: Path) -> None:
    """`from_config` would load code from the repository that `_name_or_path` names."""
    text = json.loads((base / "config.json").read_text())["text_config"]
    edit(base, "config.json", _name_or_path="evil/repo", text_config={**text, "_name_or_path": "evil/repo"})
    edit(base, "tokenizer_config.json", name_or_path="evil/repo")
    edit(base, "processor_config.json", name_or_path="evil/repo")
    made = stage(base, tmp_path / "out", check=False)
    assert "evil" not in "".join(path.read_text() for path in made.path.glob("*.json"))
    assert verify(made.path, base=base).ok


# A field of config.json and a value that cannot be meant -> what the message names.
FIELDS: list[tuple[str, Any]] = [
    *(("vision_config", value) for value in (None, [], {}, "clip", 3)),
    *(("text_config", value) for value in ([], "llama", 3)),
    *((f"vision_config.{name}", value) for name in ("patch_size", "image_size") for value in (0, -6, "6", 1.5, [6])),
    *((f"text_config.{name}", value) for name in ("hidden_size", "num_hidden_layers") for value in (0, "x", [], {})),
    *(("image_token_index", value) for value in (-1, 10**6, "7", [7], 1.0)),
    *(("model_type", value) for value in ([], {}, 5, None, True)),
    *(("image_grid_pinpoints", value) for value in ([], [1], [[0, 24]], {"a": 1}, "24x24")),
]


@pytest.mark.parametrize(("field", "value"), FIELDS)
def test_a_field_that_cannot_be_meant_is_named(base: Path, tmp_path: Path, field: str, value: Any) -> None:
    config = json.loads((base / "config.json").read_text())
    part, _, name = field.rpartition(".")
    (config[part] if part else config)[name] = value
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"base has .*{field}"):
        open_base(base)


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("processor_config.json", []),
        ("processor_config.json", {"patch_size": "x", "processor_class": 5}),
        ("preprocessor_config.json", {"image_processor_type": ["x"]}),
        ("preprocessor_config.json", {"crop_size": "x"}),
        ("tokenizer_config.json", {"tokenizer_class": 5, "added_tokens_decoder": 3}),
        ("tokenizer_config.json", {"bos_token": [1]}),
        ("tokenizer.json", {"model": 5}),
        ("tokenizer.json", {}),
        ("chat_template.json", {"chat_template": 5}),
        ("chat_template.json", {"chat_template": "{% for"}),
        ("chat_template.json", {"chat_template": "{{ raise_exception('\x1b[2K') }}"}),
        ("generation_config.json", {"eos_token_id": "x", "max_length": []}),
        ("generation_config.json", 3),
        ("special_tokens_map.json", "x"),
        ("added_tokens.json", {"<image>": "x"}),
        ("config.json", {"model_type": "llava", "vision_config": {"model_type": ["x"]}}),
    ],
)
def test_settings_that_are_none_end_in_a_sentence(base: Path, tmp_path: Path, file: str, value: Any) -> None:
    """A ValueError, or a folder that is as good as what stock loads; never another error, and printable."""
    (base / file).write_text(json.dumps(value))
    refusal = ""
    try:
        stage(base, tmp_path / "out", check=False)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert refusal.isprintable()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
    else:
        assert verify(tmp_path / "out", base=base).ok


def test_a_card_that_is_no_text_is_no_obstacle(base: Path, tmp_path: Path) -> None:
    (base / "README.md").write_bytes(b"---\nlicense: \xff\xfe\n---\n\xff")
    assert stage(base, tmp_path / "out", check=False).files


def test_an_escape_code_in_a_name_is_shown_as_text(base: Path, tmp_path: Path) -> None:
    other = base.rename(tmp_path / "a\x1b[2Kb")
    edit(other, "config.json", model_type="llava", image_token_index=-1)
    with pytest.raises(ValueError, match=r"a\\x1b\[2Kb has image_token_index") as raised:
        stage(other, tmp_path / "out")
    assert str(raised.value).isprintable()


def change_weights(base: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


NORM = "multi_modal_projector.linear_1.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors[NORM].fill_(float("nan")), "its logits are NaN with transformers' own class"),
        (lambda tensors: tensors.update({NORM: tensors[NORM][:3].clone()}), "do not fit its config.json .*mismatched"),
        (lambda tensors: tensors.pop(NORM), f"do not fit its config.json .*1 missing keys, model.{NORM}"),
        (lambda tensors: tensors.update({"more": tensors[NORM].clone()}), "do not fit .*1 unexpected keys, more"),
    ],
)
def test_weights_of_the_base_are_said_to_be_the_bases(
    base: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    change_weights(base, change)
    with pytest.raises(ValueError, match=rf"The base .*base is at fault, not what was staged: .*{message}"):
        stage(base, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_a_processor_without_patch_size_is_named(base: Path, tmp_path: Path) -> None:
    (base / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=r"has the patch_size None in processor_config.json"):
        stage(base, tmp_path / "out")


def test_a_base_without_a_chat_template_can_be_staged(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (base / "chat_template.json").unlink()
    made = stage(base, tmp_path / "out")
    assert made.report["largest_logit_difference"] == 0
    assert "has no chat template: write its prompts yourself, with <image> where an image stands" in caplog.text
    card = (made.path / "README.md").read_text(encoding="utf-8")
    assert "apply_chat_template" not in card
    assert 'prompt = "<image>\\nWhat is on the table?"' in card


def test_a_whole_model_can_be_compared(base: Path, tmp_path: Path) -> None:
    report = stage(base, tmp_path / "out", check="full").report
    assert (report["tensors_compared"], report["layers"]) == (len(open_base(base).headers), 2)
    deep = make_llava_next_checkpoint(tmp_path / "deep")
    edit(deep, "config.json", vision_feature_select_strategy="full")
    with pytest.raises(ValueError, match=r"has vision_feature_select_strategy 'full' in config.json"):
        stage(deep, tmp_path / "other")


def test_torchvision_is_named_where_it_is_missing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Qwen2VLVideoProcessor requires the Torchvision library but it was not found")

    monkeypatch.setattr("mmtok.publish.settings.AutoProcessor.from_pretrained", missing)
    copied = open_base(base).copied_to(tmp_path / "copy")
    with pytest.raises(ValueError, match=r"need torchvision, which is not installed: run `pip install torchvision`"):
        load_processor(copied)


def test_the_clean_process_sees_what_this_one_sees_but_mmtok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH and the user site hold torch for some; only mmtok is hidden."""
    (tmp_path / "beside.py").write_text("here = True")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    program = tmp_path / "program.py"
    program.write_text(
        "import json, site, sys, beside, torch\n"
        "hidden = []\n"
        f"for name in {HIDDEN}:\n"
        "    try:\n        __import__(name)\n    except ImportError:\n        hidden.append(name)\n"
        "print(json.dumps([hidden, site.ENABLE_USER_SITE, sys.flags.isolated]))\n"
    )
    boot = clean_process._BOOT.format(hidden=HIDDEN)
    ended = run_clean(["-c", boot, str(program)])
    assert ended.returncode == 0, ended.stderr
    hidden, user_site, isolated = json.loads(ended.stdout)
    assert hidden == HIDDEN
    assert (user_site, isolated) == (site.ENABLE_USER_SITE, 0)
    assert sys.flags.isolated == 0


def test_bad_paths_are_refused(base: Path, tmp_path: Path) -> None:
    for given in (("", tmp_path / "out"), (base, "")):
        with pytest.raises(ValueError, match=r"'' is n"):
            stage(*given, Recipe())
