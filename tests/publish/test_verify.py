"""What `verify` finds in staged folders and published repos, held against what the loaders of transformers run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_checkpoints import make_chat_checkpoint
from hub_double import HubDouble
from published_models import BASE, TARGET, hub_for_this_process, upload_folder
from small_checkpoints import VICUNA_TEMPLATE, make_llava_checkpoint, make_llava_next_checkpoint

import hub_upload
from configuration_mmtok import OPTION_NAMES
from mmtok.hub.families import FAMILIES
from mmtok.hub.prune import stock_class_of
from mmtok.publish import PublishError, Recipe, Verification, published_code, stage, verify
from mmtok.publish.clean_process import run_clean
from mmtok.publish.repository import LICENSE_FILES, ORIGINS, leads_away, shown

LOADERS = Path(__file__).parents[1] / "support" / "marked_loaders.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava_checkpoint(tmp_path_factory.mktemp("base") / "small-llava")


@pytest.fixture(scope="module")
def staged_once(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage(base, tmp_path_factory.mktemp("staged") / "model", check=False, link_weights=False).path


@pytest.fixture
def staged(staged_once: Path, tmp_path: Path) -> Path:
    """A staged folder to change."""
    return Path(shutil.copytree(staged_once, tmp_path / "model"))


@pytest.fixture
def hub(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    with hub_for_this_process(monkeypatch, tmp_path / "cache") as serving:
        upload_folder(serving, BASE, base)
        yield serving


def edit(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**there, **fields}), encoding="utf-8")


# Code that leaves a mark where it runs: beside the folder that holds it, in a file of the folder's name.
MARK = """
import os
open(os.environ["MARKS"] + "/{case}", "w").close()
"""


def code(folder: Path, path: str, content: str = "") -> None:
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text(MARK.format(case=folder.name) + content, encoding="utf-8")


TOKENIZER = "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast):\n    pass\n"
PROCESSOR = "from transformers import LlavaProcessor\nclass Own(LlavaProcessor):\n    pass\n"
IMAGES = "from transformers import CLIPImageProcessor\nclass Own(CLIPImageProcessor):\n    pass\n"
PIPELINE = "from transformers import ImageTextToTextPipeline\nclass Own(ImageTextToTextPipeline):\n    pass\n"
GENERATE = "def generate(model, *arguments, **named):\n    return named['input_ids']\n"


def with_own_tokenizer(folder: Path) -> None:
    code(folder, "own.py", TOKENIZER)
    edit(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.Own"]}, tokenizer_class="Own")


def with_own_processor(folder: Path) -> None:
    code(folder, "own.py", PROCESSOR)
    edit(folder, "processor_config.json", auto_map={"AutoProcessor": "own.Own"})


def with_own_images(folder: Path) -> None:
    code(folder, "own.py", IMAGES)
    edit(folder, "preprocessor_config.json", auto_map={"AutoImageProcessor": "own.Own"})


def with_own_pipeline(folder: Path) -> None:
    code(folder, "own.py", PIPELINE)
    own = {"image-text-to-text": {"impl": "own.Own", "pt": ["AutoModelForImageTextToText"], "type": "multimodal"}}
    edit(folder, "config.json", custom_pipelines=own)


def with_other_model(folder: Path) -> None:
    code(folder, "own.py", "from .modeling_mmtok_llava import MMTokLlavaForConditionalGeneration as Own\n")
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    edit(folder, "config.json", auto_map=dict.fromkeys(auto_map, "own.Own") | {"AutoConfig": auto_map["AutoConfig"]})


def with_more_code(folder: Path) -> None:
    with (folder / "coverage.py").open("a", encoding="utf-8") as file:
        file.write(MARK.format(case=folder.name))


def replaced(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / path).read_text(encoding="utf-8")
        assert old in text
        (folder / path).write_text(text.replace(old, new), encoding="utf-8")

    return change


def flipped(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(content))


# Name -> the change, and what names it among the problems. Those of RUNS leave the mark with stock loaders.
TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "generate": (
        lambda f: code(f, "custom_generate/generate.py", GENERATE),
        "custom_generate/generate.py has no place",
    ),
    "tokenizer": (with_own_tokenizer, "tokenizer_config.json: auto_map is"),
    "processor": (with_own_processor, "processor_config.json: auto_map is"),
    "images": (with_own_images, "preprocessor_config.json: auto_map is"),
    "pipeline": (with_own_pipeline, "config.json: custom_pipelines is"),
    "model": (with_other_model, "auto_map in config.json names other code"),
    "module": (with_more_code, "coverage.py is not the released"),
    "tokenizer of another repository": (
        lambda f: edit(f, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil/repo--own.Own"]}),
        "tokenizer_config.json: auto_map is",
    ),
    "nested auto_map": (
        lambda f: edit(f, "processor_config.json", image_processor={"auto_map": {"AutoImageProcessor": "a/b--c.D"}}),
        "processor_config.json: image_processor.auto_map is",
    ),
    "nested in config": (
        # The rest of the part stays: without it loaders would make a language model of the default size.
        replaced("config.json", '"text_config": {', '"text_config": {"auto_map": {"AutoConfig": "a/b--c.D"},'),
        "config.json: text_config.auto_map is",
    ),
    "kernel": (lambda f: edit(f, "config.json", _attn_implementation="evil/kernel"), "_attn_implementation is"),
    "kernel of one part": (
        lambda f: edit(f, "config.json", attn_implementation={"": "evil/kernel@main:fn"}),
        "config.json: attn_implementation is",
    ),
    "quantised": (
        lambda f: edit(f, "config.json", quantization_config={"quant_method": "x"}),
        "quantization_config is",
    ),
    "adapter": (
        lambda f: edit(f, "adapter_config.json", base_model_name_or_path="evil/repo", peft_type="LORA"),
        "adapter_config.json has no place",
    ),
    "origin": (lambda f: edit(f, "config.json", _name_or_path="evil/repo"), "config.json: _name_or_path is"),
    "other weights": (
        lambda f: edit(f, "config.json", transformers_weights="other.safetensors"),
        "config.json: transformers_weights is",
    ),
    "other configuration": (
        lambda f: edit(f, "config.json", configuration_files=["config.4.0.0.json"]),
        "config.json: configuration_files is",
    ),
    "other tokenizer file": (
        lambda f: edit(f, "tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.0.0.json"]),
        "fast_tokenizer_files is",
    ),
    "file elsewhere": (
        lambda f: edit(f, "tokenizer_config.json", vocab_file="/etc/passwd"),
        "tokenizer_config.json: vocab_file is '/etc/passwd'",
    ),
    "address": (
        lambda f: edit(f, "generation_config.json", anything="https://evil/x"),
        "generation_config.json: anyth",
    ),
    "audio": (
        lambda f: edit(f, "processor_config.json", audio_tokenizer={"audio_tokenizer_name_or_path": "evil/repo"}),
        "processor_config.json: audio_tokenizer is",
    ),
    "template": (replaced("chat_template.json", "ASSISTANT", "Obey"), "chat_template.json is not what this release"),
    "template file": (lambda f: (f / "chat_template.jinja").write_text("x"), "chat_template.jinja is not what this"),
    "templates": (
        lambda f: code(f, "additional_chat_templates/rag.jinja"),
        "additional_chat_templates/rag.jinja has no",
    ),
    "tokenizer table": (
        replaced("tokenizer.json", '"USER"', '"USERS"'),
        "tokenizer.json is not what this release makes",
    ),
    "generation": (lambda f: edit(f, "generation_config.json", num_beams=9), "generation_config.json is not what"),
    "pixels": (lambda f: edit(f, "preprocessor_config.json", image_mean=[0, 0, 0]), "preprocessor_config.json is not"),
    "field of the base": (
        lambda f: edit(f, "config.json", projector_hidden_act="relu"),
        "config.json is not what this",
    ),
    "option": (lambda f: edit(f, "config.json", vision_token_budget=-3), "config.json: vision_token_budget is -3"),
    "type": (
        lambda f: edit(f, "config.json", model_type=["mmtok_llava"]),
        "config.json has the model_type ['mmtok_llava']",
    ),
    "flipped bit": (flipped, "model.safetensors: not the weights of"),
    "an index beside the weights": (
        lambda f: edit(f, "model.safetensors.index.json", weight_map={"a": "other.safetensors"}),
        "model.safetensors.index.json has no place",
    ),
    "further weights": (
        lambda f: shutil.copy(f / "model.safetensors", f / "extra.safetensors"),
        "extra.safetensors has no",
    ),
    "pickle": (lambda f: (f / "pytorch_model.bin").write_bytes(b""), "pytorch_model.bin has no place"),
    "compiled": (
        lambda f: code(f, "__pycache__/coverage.cpython-311.pyc"),
        "__pycache__/coverage.cpython-311.pyc has no",
    ),
    "library": (lambda f: (f / "coverage.abi3.so").write_bytes(b""), "coverage.abi3.so has no place"),
    "case": (lambda f: (f / "Coverage.py").write_text(""), "Coverage.py has no place"),
    "nested": (lambda f: code(f, "model/config.json"), "model/config.json has no place"),
    "link": (lambda f: (f / "LICENSE").symlink_to(f / "config.json"), "LICENSE is a link"),
    "link out": (lambda f: (f / "LICENSE").symlink_to("/etc/hostname"), "is a link to"),
    "fifo": (lambda f: os.mkfifo(f / "vocab.json"), "is not a regular file"),
    "missing code": (lambda f: (f / "prompt.py").unlink(), "prompt.py is missing."),
    "missing setting": (lambda f: (f / "generation_config.json").unlink(), "generation_config.json is missing; "),
    "no JSON": (lambda f: (f / "generation_config.json").write_text("[]"), "generation_config.json holds a list"),
    "deep JSON": (
        lambda f: (f / "generation_config.json").write_text("[" * 10**6),
        "generation_config.json is not JSON",
    ),
    "escape codes": (lambda f: (f / "a\x1b[2K\r.py").write_text(""), "a\x1b[2K\r.py has no place"),
}
RUNS = {"generate", "tokenizer", "processor", "images", "model", "module"}


def tampered(name: str, staged: Path, folder: Path) -> Path:
    copy = Path(shutil.copytree(staged, folder / name.replace(" ", "_")))
    TAMPERED[name][0](copy)
    return copy


@pytest.mark.parametrize("name", TAMPERED)
def test_every_change_is_a_problem_by_name(name: str, base: Path, staged_once: Path, tmp_path: Path) -> None:
    found = verify(tampered(name, staged_once, tmp_path), base=base)
    assert any(TAMPERED[name][1] in problem for problem in found.problems), found.problems
    assert "It is NOT what mmtok 0.1.0 publishes" in found.describe()
    assert all(line.isprintable() for line in found.describe(verbose=True).splitlines())


def test_what_runs_foreign_code_is_never_what_is_published(staged_once: Path, tmp_path: Path) -> None:
    """Every loader, on every tampered folder: where code of the folder leaves its mark, `verify` had a problem."""
    marks, folders = tmp_path / "marks", {"untouched": Path(shutil.copytree(staged_once, tmp_path / "untouched"))}
    marks.mkdir()
    folders |= {name: tampered(name, staged_once, tmp_path) for name in TAMPERED if name != "fifo"}
    named = [str(folder) for folder in folders.values()]
    ended = run_clean([str(LOADERS), *named], environment={"MARKS": str(marks)}, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    loaded = json.loads(ended.stdout.splitlines()[-1])
    assert loaded[str(folders["untouched"])] == []  # every loader works there
    ran = {path.name for path in marks.iterdir()}
    assert {name.replace(" ", "_") for name in RUNS} == ran
    assert not [name for name, folder in folders.items() if folder.name in ran and verify(folder).ok]


def test_a_staged_folder_is_as_released(base: Path, staged: Path) -> None:
    found = verify(staged)
    assert found.ok, found.problems
    assert {file.path for file in found.files if file.kind == "code"} == set(published_code("llava"))
    assert found.pruning_options["vision_token_budget"] == 64
    assert found.origin == "Not compared: settings and weights, as the card names no base; --base BASE compares them."
    found = verify(staged, base=base)
    assert found.ok, found.problems
    assert {file.found for file in found.files if file.kind == "settings"} == {"what this release makes of the base"}
    assert [file.found for file in found.files if file.kind == "weights"] == ["sha256 of the base's"]
    assert len(found.describe().splitlines()) <= 8
    assert found.describe().endswith("It is what mmtok 0.1.0 publishes.")


# What a stage may write, beside the defaults.
WRITTEN: dict[str, list[Any]] = {
    "vision_token_budget": [1, 10**6, 0.5, 1.0, None],
    "budget_scope": ["image", "video"],
    "text_coverage_weight": [0, 1e-6, 1e6],
    "vision_coverage_weight": [0.0, 3],
    "text_coverage_depth": [8],
    "text_temperature": [1e-6, 10],
    "vision_temperature": [0.3],
    "padding": ["exclude", "include"],
    "coverage_target": [0.5],
    "image_scale": [0.5],
    "covered_text": ["yes/no", "~/x", "../x", "https://a/b", "a--b", "a \u202eb\n", "org/kernel@main"],
    "question_format": [
        {"user_turns": ["USER:"], "assistant_turns": ["ASSISTANT:"], "other_turns": ["owner/name@main", "/INST"]},
        {"instructions": ["Answer yes/no.", "../x"], "stop_words": ["https://a"]},
    ],
}


def test_every_option_is_written() -> None:
    assert list(WRITTEN) == list(OPTION_NAMES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, marks=[pytest.mark.torchvision] if name == "image_scale" else [])
        for name in WRITTEN
        for value in WRITTEN[name]
    ],
)
def test_what_a_stage_writes_is_as_released(name: str, value: Any, tmp_path: Path) -> None:
    if name == "image_scale":
        base = make_chat_checkpoint(tmp_path / "base", "qwen2_5_vl")
    elif name == "padding":
        base = make_llava_next_checkpoint(tmp_path / "base")
    else:
        base = make_llava_checkpoint(tmp_path / "base")
    found = verify(stage(base, tmp_path / "out", Recipe({name: value}), check=False).path, base=base)
    assert found.ok, found.problems


def with_licence(folder: Path) -> None:
    for name in LICENSE_FILES:
        (folder / name).write_text("Do what you want.")


BASES: dict[str, Callable[[Path], Any]] = {
    "no template": lambda f: (f / "chat_template.json").unlink(),
    "another template": lambda f: edit(
        f,
        "chat_template.json",
        chat_template=VICUNA_TEMPLATE.replace("': '", "'>> '").replace("'ASSISTANT:'", "'ASSISTANT>>'"),
    ),
    "a licence": with_licence,
    "an origin": lambda f: edit(
        f,
        "config.json",
        _name_or_path="other/repo",
        text_config={**json.loads((f / "config.json").read_text())["text_config"], "_name_or_path": "a/b"},
    ),
    "a generation": lambda f: edit(f, "generation_config.json", temperature=0.5, do_sample=True),
    "an odd number": lambda f: edit(f, "config.json", initializer_range=1e-5, anything=[1.0, 2, 1e300]),
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("sharded", [False, True])
def test_what_a_stage_makes_of_a_base_is_as_released(name: str, sharded: bool, tmp_path: Path) -> None:
    base = make_llava_checkpoint(tmp_path / "base", sharded=sharded)
    BASES[name](base)
    found = verify(stage(base, tmp_path / "out", check=False).path, base=base)
    assert found.ok, found.problems


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({}, None),
        ({"images": 4, "decode_seconds": 3}, None),
        ({"images": 0}, "config.json: The limit images is 0"),
        ({"auto_map": "a/b--c.D"}, "config.json: handler_limits.auto_map is 'a/b--c.D', which leads out"),
        (["a/b"], "config.json: handler_limits is ['a/b']: give an object"),
    ],
)
def test_limits_of_the_handler_are_an_operators(base: Path, staged: Path, limits: Any, problem: str | None) -> None:
    edit(staged, "config.json", handler_limits=limits)
    problems = verify(staged, base=base).problems
    assert any(each.startswith(problem) for each in problems) if problem else not problems, problems


def test_the_report_has_ten_lines_at_most(staged: Path) -> None:
    for number in range(40):
        (staged / f"own{number}.py").write_text("")
    report = verify(staged).describe()
    assert len(report.splitlines()) <= 10
    assert "40 problems, 37 of them not shown: mmtok verify --verbose shows all." in report
    assert "own39.py" in verify(staged).describe(verbose=True)


def test_a_handler_may_be_missing_but_not_another(staged: Path) -> None:
    (staged / "handler.py").write_text("pass")
    assert verify(staged).problems == ("handler.py is not the released file.",)
    (staged / "handler.py").unlink()
    assert verify(staged).ok


def test_a_snapshot_of_the_cache_is_links_to_its_blobs(staged: Path, tmp_path: Path) -> None:
    repo, blobs = tmp_path / "models--org--x" / "snapshots" / "abc", tmp_path / "models--org--x" / "blobs"
    repo.mkdir(parents=True)
    shutil.move(staged, blobs)
    for file in blobs.iterdir():
        (repo / file.name).symlink_to(f"../../blobs/{file.name}")
    assert verify(repo).ok, verify(repo).problems


def test_what_git_and_the_client_keep_is_not_read(staged: Path) -> None:
    for path in (".git/config", ".cache/huggingface/download/x.metadata"):
        (staged / path).parent.mkdir(parents=True)
        (staged / path).write_text("")
    assert verify(staged).ok


def test_a_stock_checkpoint_is_none_of_ours(base: Path) -> None:
    problems = verify(base).problems
    assert "config.json has the model_type 'llava', which is none of mmtok's." in problems
    assert "modeling_mmtok_llava.py is missing." in problems


def published(hub: HubDouble, staged: Path, metadata: str) -> Verification:
    (staged / "README.md").write_text(f"---\n{metadata}\n---\n# A card of somebody's own\n")
    upload_folder(hub, TARGET, staged)
    return verify(TARGET)


def test_a_repo_is_held_against_the_commit_that_its_card_names(hub: HubDouble, staged: Path) -> None:
    commit = hub.store.repository(BASE).branches["main"]
    found = published(hub, staged, f"base_model: {BASE}\nbase_model_revision: {commit}")
    assert found.ok, found.problems
    assert found.commit == hub.store.repository(TARGET).branches["main"]
    assert found.origin == f"Settings and weights compared with {BASE} at {commit}."
    assert verify(staged).ok  # a folder too
    hub.store.seed(TARGET, {"model.safetensors": b"other weights"})
    assert verify(TARGET).problems == (f"model.safetensors: not the weights of {BASE} at {commit}.",)
    assert verify(TARGET, revision=found.commit).ok
    flipped(staged)
    assert verify(staged).problems == (f"model.safetensors: not the weights of {BASE} at {commit}.",)


def test_other_weights_than_those_of_a_base_without_a_commit_are_only_mentioned(hub: HubDouble, staged: Path) -> None:
    commit = hub.store.repository(BASE).branches["main"]
    edit(staged, "generation_config.json", num_beams=2)
    hub.store.seed(TARGET, {})
    flipped(staged)
    found = published(hub, staged, f"base_model: {BASE}")
    assert found.ok, found.problems
    assert found.origin == f"Settings and weights held beside, as the card names no commit, {BASE} at {commit}."
    assert f"1 file: NOT those of {BASE} at {commit}" in found.describe()


def test_weights_that_are_no_large_file_are_compared_too(hub: HubDouble, staged: Path, base: Path) -> None:
    (staged / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    upload_folder(hub, TARGET, staged)
    assert any("model.safetensors: not the weights" in problem for problem in verify(TARGET, base=base).problems)


def test_only_small_files_are_downloaded(hub: HubDouble, staged: Path) -> None:
    upload_folder(hub, TARGET, staged)
    hub.arm()
    verify(TARGET, base=BASE)
    assert not any(request.path.endswith("model.safetensors") for request in hub.log)


@pytest.mark.parametrize(
    ("metadata", "origin"),
    [
        ("base_model: gpt2", "Not compared: settings and weights. The Hub does not know the repository"),
        ("base_model: [a/b, c/d]", r"Not compared: settings and weights, as the card names the base ['a/b', 'c/d']"),
        ("base_model: ../x", r"Not compared: settings and weights, as the card names the base '../x'"),
        (f"base_model: {BASE}\nbase_model_revision: a..b", "'a..b' is not a name for a revision"),
        ("base_model: [", "the card names no base"),
        ("- base_model", "the card names no base"),
    ],
)
def test_a_card_of_somebodys_own_is_reported_on(hub: HubDouble, staged: Path, metadata: str, origin: str) -> None:
    found = published(hub, staged, metadata)
    assert found.ok, found.problems
    assert origin in found.origin


def test_what_cannot_be_read_is_an_error(hub: HubDouble, staged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PublishError, match="does not know the repository"):
        verify("org/absent")
    upload_folder(hub, TARGET, staged)
    with pytest.raises(PublishError, match="404"):
        verify(TARGET, revision="v9")
    with pytest.raises(ValueError, match="only a Hub id has revisions"):
        verify(staged, revision="main")
    with pytest.raises(ValueError, match="is neither a folder nor a Hub id"):
        verify("../elsewhere")
    with pytest.raises(ValueError, match="is neither a folder nor a Hub id"):
        verify("")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        verify(staged, base=staged.parent)
    assert hub_upload.main(["verify", "org/absent"]) == 1
    assert "hub_upload.py verify: The Hub does not know the repository" in capsys.readouterr().err


def test_findings_as_json(staged: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hub_upload.main(["verify", str(staged), "--base", str(base), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["pruning_options"]["budget_scope"] == "crop"
    assert {file["kind"] for file in found["files"]} == {"code", "settings", "weights", "card"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"bos_token": "a/b", "added_tokens_decoder": {"3": {"content": "x/y"}}, "chat_template": "a/b"}, []),
        ({"_attn_implementation": "sdpa", "auto_map": None, "size": {"height": 24}}, []),
        ({"cache_implementation": "hybrid", "x_implementation": "hybrid"}, ["x_implementation is 'hybrid'"]),
        ({"cache_implementation": "org/kernel"}, ["cache_implementation is 'org/kernel'"]),
        ({"a": [{"b": "owner/name@main"}]}, ["a.0.b is 'owner/name@main'"]),
        ({"a": "..\\x"}, [r"a is '..\\x'"]),
        ({"a\x1b[2K": "~/x"}, [r"a\x1b[2K is '~/x'"]),
    ],
)
def test_which_values_lead_away(content: dict[str, Any], found: list[str]) -> None:
    assert leads_away("tokenizer_config.json", content) == found


def test_texts_are_shown_in_one_printable_line() -> None:
    assert shown("a\x1b[2K\r\n\u202eb é") == r"a\x1b[2K\r\n\u202eb é"


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.is_available()])
def test_fields_of_a_family_s_configuration_lead_nowhere(model_type: str) -> None:
    config = stock_class_of(FAMILIES[model_type].load_class()).config_class()
    written = json.loads(config.to_json_string(use_diff=False))
    assert leads_away("config.json", written, allowed=ORIGINS) == []


def test_a_size_of_a_kernel_is_a_number() -> None:
    content = {"conv_kernel_size": 4, "pooling_kernel_size": "org/kernel", "kernel_config": 4, "use_kernels": True}
    found = [each.partition(" is ")[0] for each in leads_away("config.json", content)]
    assert found == ["pooling_kernel_size", "kernel_config", "use_kernels"]
