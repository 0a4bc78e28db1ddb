"""Staging: the folder, what is refused, and what a user without mmtok gets from it."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_double import HubDouble
from published_models import ASK_TWICE, hub_for_this_process, upload_folder
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceTrainer
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import hub_upload
from configuration_mmtok import OPTION_NAMES, MMTokLlavaConfig
from mmtok.publish import CheckFailed, Recipe, StagedModel, open_base, published_code, stage, verify
from mmtok.publish.clean_load import tokenizer_differences
from mmtok.publish.clean_process import HIDDEN, check_staged, run_clean
from mmtok.publish.repository import HANDLER_FILE, as_json

PUBLISHED_FILES = frozenset(published_code("llava"))


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


BASES: dict[str, Callable[[Path], Path]] = {
    "llava": lambda folder: make_llava_checkpoint(folder),
    "llava sharded, new layout": lambda folder: make_llava_checkpoint(folder, layout="new", sharded=True),
    "llava-next vicuna, float16": lambda folder: make_llava_next_checkpoint(
        folder, layout="saved", dtype=torch.float16
    ),
    "llava-next mistral sharded": lambda folder: make_llava_next_checkpoint(folder, backbone="mistral", sharded=True),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava_checkpoint(tmp_path_factory.mktemp("base") / "llava")


@pytest.fixture(scope="module")
def staged(base: Path, tmp_path_factory: pytest.TempPathFactory) -> StagedModel:
    return stage(base, tmp_path_factory.mktemp("staged") / "mm tok é", Recipe({"vision_token_budget": 4}), check=False)


def in_clean_process(program: str, *arguments: str | Path) -> tuple[str, str]:
    """What a program prints and what it says on stderr, in a process that cannot import mmtok."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({HIDDEN}))\n"
    ended = run_clean(["-c", blocked + program, *map(str, arguments)], timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout, ended.stderr


@pytest.mark.parametrize("name", BASES)
def test_a_staged_folder_is_its_base(name: str, tmp_path: Path) -> None:
    base = BASES[name](tmp_path / "base")
    made = stage(base, tmp_path / "où 1.5")
    report = made.report
    assert report["largest_logit_difference"] == 0
    assert report["kept_tokens"] <= report["prompt_tokens"]
    assert report["tensors_compared"] == sum(len(load_file(file)) for file in base.glob("*.safetensors"))
    assert made.model_class == json.loads((made.path / "config.json").read_text())["architectures"][0]
    for file in base.glob("*.safetensors"):
        assert os.path.samefile(file, made.path / file.name)
    assert set(made.files) == {path.name for path in base.iterdir()} | PUBLISHED_FILES | {"README.md"}
    assert verify(made.path, base=base).ok
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("base", "où 1.5")] == []


def test_code_is_published_byte_for_byte(staged: StagedModel) -> None:
    for name, content in published_code("llava").items():
        assert (staged.path / name).read_bytes() == content


def test_published_files_are_what_the_model_imports() -> None:
    """The table is the closure of the relative imports, and the handler, which loads the model as every user does."""
    sources, reached, waiting = published_code("llava"), set(), ["modeling_mmtok_llava.py"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        tree = ast.parse(sources[name])
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        flat = {f"{node.module}.py" for node in imports if node.level == 1}
        assert flat <= PUBLISHED_FILES, f"{name} imports {flat - PUBLISHED_FILES}"
        waiting += flat - reached
    assert reached == PUBLISHED_FILES - {HANDLER_FILE}


def test_config_keeps_every_field_of_the_base(base: Path, staged: StagedModel) -> None:
    stock = json.loads((base / "config.json").read_text())
    config = json.loads((staged.path / "config.json").read_text())
    changed = {name for name in stock if stock[name] != config[name]}
    assert changed == {"architectures", "model_type"}
    assert set(config) - set(stock) == {"auto_map", *OPTION_NAMES}
    assert config["vision_token_budget"] == staged.vision_token_budget == 4
    assert config["auto_map"]["AutoConfig"] == "configuration_mmtok.MMTokLlavaConfig"
    assert {
        config["auto_map"][name] for name in ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
    } == {"modeling_mmtok_llava.MMTokLlavaForConditionalGeneration"}
    assert MMTokLlavaConfig.from_pretrained(staged.path).question_format is None
    assert (
        json.loads((staged.path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    )


PIPELINE = """
import json, sys
from PIL import Image
from transformers import AutoModelForImageTextToText, pipeline

folder, elsewhere = sys.argv[1:]
ask = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
"""
PIPELINE += (
    ASK_TWICE
    + """
ask.model.save_pretrained(elsewhere)
ask.processor.save_pretrained(elsewhere)
print(json.dumps({"class": type(ask.model).__name__, "single": single, "batch": batch}))
"""
)
RELOAD = """
import json, sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

folder, again = sys.argv[1:]
models = {}
for path in (folder, again):
    model, report = AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True, output_loading_info=True)
    assert not any(report.values()), report
    models[path] = model.state_dict()
    processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
    print(processor.tokenizer("USER: <image>\\nIs there a dog? ASSISTANT:")["input_ids"])
assert models[folder].keys() == models[again].keys()
assert all(torch.equal(models[folder][name], models[again][name]) for name in models[folder])
for automatic in (AutoConfig, AutoModel, AutoModelForImageTextToText):
    try:
        automatic.from_pretrained(folder)
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    else:
        raise SystemExit(f"{automatic.__name__} loaded without trust_remote_code")
"""


def test_pipeline_answers_and_a_saved_copy_loads_again(staged: StagedModel, tmp_path: Path) -> None:
    again = tmp_path / "saved again"
    answers, said = in_clean_process(PIPELINE, staged.path, again)
    result = json.loads(answers.splitlines()[-1])
    assert result["class"] == "MMTokLlavaForConditionalGeneration"
    assert result["batch"] == result["single"]
    assert all(isinstance(answer, str) and answer for answer in result["single"])
    assert "not supported" not in answers + said
    assert PUBLISHED_FILES - {HANDLER_FILE} <= {path.name for path in again.iterdir()}
    # Behind the ids stands the question of transformers whether to run the code.
    first, second = in_clean_process(RELOAD, staged.path, again)[0].splitlines()[:2]
    assert first == second


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda folder: edit_json(folder / "config.json", model_type="bert"), r"has the model_type 'bert'"),
        (lambda folder: edit_json(folder / "config.json", model_type="mmtok_llava"), r"is already published"),
        (lambda folder: edit_json(folder / "config.json", auto_map={"AutoModel": "a.B"}), r"config.json, auto_map is"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"holds a list: a JSON object"),
        (lambda folder: (folder / "config.json").unlink(), r"has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"has no model.safetensors and no model.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            r"only as pytorch_model.bin",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10" * 64), r"is damaged or no safetensors"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"processor of .* cannot be used"),
        (
            lambda folder: edit_json(folder / "chat_template.json", chat_template="{{ x.y.z }}"),
            r"chat template .* cannot",
        ),
    ],
)
def test_an_unusable_base_is_refused(tamper: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    base = make_llava_checkpoint(tmp_path / "base")
    tamper(base)
    with pytest.raises(ValueError, match=message):
        stage(base, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"lm_head.weight": "../model.safetensors"}, r"names the file '../model.safetensors'"),
        ({"lm_head.weight": "model.bin"}, r"names the file 'model.bin'"),
        ({"lm_head.weight": "other.safetensors"}, r"other.safetensors is missing, although the index names it"),
        ({"no_such_tensor": "model-1.safetensors"}, r"lacks 'no_such_tensor', which the index promises"),
        ([], r"has the weight_map \[\]: give tensor and file names"),
        ({"lm_head.weight": 5}, r"names the file 5"),
    ],
)
def test_an_index_is_checked(weight_map: Any, message: str, tmp_path: Path) -> None:
    base = make_llava_checkpoint(tmp_path / "base")
    (base / "model.safetensors").rename(base / "model-1.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=message):
        open_base(base)


def test_a_base_that_is_neither_folder_nor_hub_id(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'no/such/folder' is neither a folder nor a Hub id"):
        stage("no/such/folder", tmp_path / "out")
    with pytest.raises(ValueError, match=r"revision='main' was given with the folder"):
        open_base(base, revision="main")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    with hub_for_this_process(monkeypatch, tmp_path / "cache") as serving:
        yield serving


def test_a_base_on_the_hub(base: Path, hub: HubDouble, tmp_path: Path) -> None:
    commit = upload_folder(hub, "llava-hf/small", base)
    hub.store.seed("llava-hf/small", {"config.json": b"{}"})
    made = stage("llava-hf/small", tmp_path / "out", Recipe(base_revision=commit), check=False)
    assert (made.path / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert not (made.path / "model.safetensors").is_symlink()
    card = (made.path / "README.md").read_text(encoding="utf-8")
    assert "base_model: llava-hf/small" in card
    assert commit[:12] in card
    checked = open_base("llava-hf/small", revision=commit, weights=False)
    assert (checked.repo_id, checked.commit, checked.weight_files) == ("llava-hf/small", commit, ("model.safetensors",))


def test_unusable_bases_on_the_hub_are_refused_before_their_weights_come(hub: HubDouble, tmp_path: Path) -> None:
    hub.store.seed("org/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights"})
    hub.store.seed(
        "org/pickles",
        {
            "config.json": b'{"model_type": "llava", "vision_config": {"patch_size": 6}}',
            "pytorch_model.bin": b"weights",
        },
    )
    for repo_id, message in (
        ("org/bert", r"org/bert has the model_type 'bert'"),
        ("org/pickles", r"org/pickles has its weights only as pytorch_model.bin"),
        ("org/absent", r"org/absent is not a folder, and cannot be read from the Hub"),
    ):
        with pytest.raises(ValueError, match=message):
            stage(repo_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not [request.path for request in hub.log if request.path.endswith((".safetensors", ".bin"))]


def test_no_token_is_in_what_a_failed_download_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the request had 'authorization': 'Bearer hf_abcdefghijklmnop'")

    monkeypatch.setattr("mmtok.publish.base.snapshot_download", fail)
    with pytest.raises(ValueError, match=r"cannot be read from the Hub: .*hf_\*\*\*") as raised:
        stage("org/model", tmp_path / "out")
    assert "hf_abcdefgh" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"vision_token_budget": 0}}, r"vision_token_budget is 0"),
        ({"options": {"budget": 4}}, r"no option 'budget': the options are vision_token_budget"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    settings: dict[str, Any], message: str, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        stage(base, tmp_path / "new" / "out", Recipe(**settings))
    assert list(tmp_path.iterdir()) == []


def test_only_a_staged_folder_is_overwritten(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    stage(base, out, check=False)
    with pytest.raises(ValueError, match=r"is not empty"):
        stage(base, out, check=False)
    again = stage(base, out, Recipe({"vision_token_budget": 0.5}), overwrite=True, check=False)
    assert again.vision_token_budget == 0.5
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds thesis.tex, which no stage wrote, so that it is not overwritten"):
        stage(base, out, overwrite=True, check=False)
    assert (out / "thesis.tex").read_text() == "mine"
    (out / "thesis.tex").unlink()

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("kept")
    with pytest.raises(ValueError, match=r"is not a staged folder"):
        stage(base, mine, overwrite=True)
    assert (mine / "notes.txt").read_text() == "kept"
    (tmp_path / "link").symlink_to(out)
    for target, message in (
        (base, "is the base or holds it"),
        (base.parent, "is the base or holds it"),
        (base / "out", "lies within the base"),
        (mine / "notes.txt", "is a file"),
        (tmp_path / "link", "is a link"),
    ):
        with pytest.raises(ValueError, match=message):
            stage(base, target, overwrite=True)


def test_a_failed_check_leaves_what_was_there(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = stage(base, tmp_path / "out", check=False).path
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_: Any, **__: Any) -> None:
        raise CheckFailed("The staged folder is not its base: no reason.")

    # The package exports the function of the same name as the module.
    monkeypatch.setattr(importlib.import_module("mmtok.publish.stage"), "check_staged", fail)
    with pytest.raises(CheckFailed, match="no reason"):
        stage(base, out, Recipe({"vision_token_budget": 1}), overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(CheckFailed, match="no reason"):
        stage(base, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_are_copied_on_request_and_where_links_fail(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stage(base, tmp_path / "asked", link_weights=False, check=False)

    def no_links(*_: Any) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    forced = stage(base, tmp_path / "forced", check=False)
    for made in (asked, forced):
        assert not made.linked
        assert not os.path.samefile(base / "model.safetensors", made.path / "model.safetensors")
        assert (made.path / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def damaged_copy(staged: StagedModel, base: Path, folder: Path) -> Path:
    return stage(base, folder / staged.path.name, link_weights=False, check=False).path


def checked(folder: Path, base: Path, scratch: Path, **more: Any) -> dict[str, Any]:
    found = open_base(base)
    scratch.mkdir(exist_ok=True)
    return check_staged(folder, found.copied_to(scratch / "copy of the base"), scratch, headers=found.headers, **more)


def test_the_check_finds_a_missing_tensor(base: Path, staged: StagedModel, tmp_path: Path) -> None:
    copy = damaged_copy(staged, base, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    del tensors["multi_modal_projector.linear_1.bias"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckFailed, match=r"missing keys while loading: .*multi_modal_projector.linear_1.bias"):
        checked(copy, base, tmp_path)


def test_the_check_finds_code_that_needs_mmtok(base: Path, staged: StagedModel, tmp_path: Path) -> None:
    copy = damaged_copy(staged, base, tmp_path)
    code = copy / "modeling_mmtok_llava.py"
    code.write_text(
        code.read_text(encoding="utf-8") + "\ntry:\n    import mmtok\nfinally:\n    pass\n", encoding="utf-8"
    )
    with pytest.raises(CheckFailed, match=r"import of mmtok halted"):
        checked(copy, base, tmp_path)


def test_the_check_finds_one_changed_number(base: Path, staged: StagedModel, tmp_path: Path) -> None:
    copy = damaged_copy(staged, base, tmp_path)
    assert checked(copy, base, tmp_path / "a", full=True)["tensors_compared"] == len(open_base(base).headers)
    tensors = load_file(copy / "model.safetensors")
    tensors["multi_modal_projector.linear_1.bias"][0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    for number, full in enumerate((True, False)):
        with pytest.raises(CheckFailed, match=r"with the full budget the logits differ from the base's by up to"):
            checked(copy, base, tmp_path / str(number), full=full)


def test_a_tokenizer_model_alone_becomes_a_tokenizer_json(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Path(shutil.copytree(base, tmp_path / "base"))
    (slow / "tokenizer.json").unlink()
    with (slow / "tokenizer.model").open("wb") as model:
        SentencePieceTrainer.train(
            sentence_iterator=iter(["Is there a snowboard in the image? Who walks the dog?"] * 9),
            model_writer=model,
            model_type="bpe",
            byte_fallback=True,
            vocab_size=320,
            minloglevel=2,
        )
    (slow / "added_tokens.json").write_text('{"<image>": 320, "<pad>": 321}')
    edit_json(slow / "config.json", image_token_index=320, pad_token_id=321)
    edit_json(slow / "generation_config.json", pad_token_id=321)
    made = stage(slow, tmp_path / "out", check=False)
    assert "tokenizer.json" in made.files
    assert "has no tokenizer.json" in caplog.text
    theirs, ours = AutoTokenizer.from_pretrained(slow), PreTrainedTokenizerFast.from_pretrained(made.path)
    assert tokenizer_differences(ours, theirs) == []
    assert ours("<image>\nIs it?")["input_ids"][1] == 320


def test_what_a_tokenizer_model_takes_is_named(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_sentencepiece(folder: Path, **_: Any) -> None:
        raise ImportError("`tiktoken` is required.")

    slow = Path(shutil.copytree(base, tmp_path / "base"))
    (slow / "tokenizer.json").rename(slow / "tokenizer.model")
    monkeypatch.setattr("mmtok.publish.settings.AutoProcessor.from_pretrained", without_sentencepiece)
    with pytest.raises(ValueError, match=r"`tiktoken` is required. Reading its tokenizer.model takes `pip install"):
        stage(slow, tmp_path / "out")


def test_another_tokenizer_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer whose class reads tokenizer.json in a way of its own is written out; one that cannot is refused."""
    monkeypatch.setattr(
        "mmtok.publish.settings.tokenizer_differences", lambda staged, base: ["the tokenizer gives 'x' [1]"]
    )
    with pytest.raises(ValueError, match=r"cannot be published: the tokenizer gives 'x' \[1\]"):
        stage(base, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_differences_of_tokenizers(base: Path, tmp_path: Path) -> None:
    stock, same = AutoTokenizer.from_pretrained(base), PreTrainedTokenizerFast.from_pretrained(base)
    assert tokenizer_differences(same, stock) == []
    same.padding_side = "right"
    assert tokenizer_differences(same, stock) == ["the tokenizer's padding_side is 'right', the base's 'left'"]
    shutil.copytree(base, tmp_path / "other")
    edit_json(tmp_path / "other" / "tokenizer.json", normalizer=None)
    other = PreTrainedTokenizerFast.from_pretrained(tmp_path / "other")
    assert (
        tokenizer_differences(other, stock)[0]
        == "the tokenizer gives ' ' the ids [1, 35], the base's gives [1, 314, 314]"
    )


def test_json_is_readable_and_the_same() -> None:
    content = {"ids": [1, 2], "pairs": [[1, 2], [3]], "words": ["[ 1,\n 2 ]", "é"], "floats": [1e-5, -2.5], "none": []}
    text = as_json(content)
    assert json.loads(text) == content
    assert '"ids": [1, 2]' in text
    assert "    [1, 2],\n    [3]\n" in text


def test_the_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"stop_words": ["the", "dog"]}
    out = tmp_path / "out"
    options = ["--budget", "0.25", "--padding", "exclude", "--vision-coverage-weight", "0.3", "--no-check"]
    assert hub_upload.main(["stage", str(base), str(out), *options, "--question-format", json.dumps(words)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert [config[name] for name in ("vision_token_budget", "padding", "vision_coverage_weight")] == [
        0.25,
        "exclude",
        0.3,
    ]
    assert config["question_format"] == words
    assert "budget 0.25" in capsys.readouterr().out

    assert hub_upload.main(["stage", str(base), str(out)]) == 1
    assert capsys.readouterr().err.startswith(f"hub_upload.py stage: {out} is not empty")
    for usage in (
        ["stage"],
        ["stage", "a", "b", "--budget", "-1"],
        ["stage", "a", "b", "--text-temperature", "x"],
    ):
        with pytest.raises(SystemExit, match="2"):
            hub_upload.main(["stage", *usage])
    assert "text_temperature is 'x'" in capsys.readouterr().err
    keep_all = ["--budget", "all", "--no-check", "--overwrite"]
    assert hub_upload.main(["stage", str(base), str(out), *keep_all]) == 0
    assert json.loads((out / "config.json").read_text())["vision_token_budget"] is None
