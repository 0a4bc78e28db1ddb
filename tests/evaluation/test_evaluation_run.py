"""A whole run on small random checkpoints: what is answered, resumed, shared out and refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint
from tokenizers.processors import TemplateProcessing

from mmtok.cli.main import main
from mmtok.evaluation import FULL, RunSettings, run, summarize, table
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.encoded import EncodedBatch, cls_attention, language_attention
from mmtok.evaluation.questions import Question, write_questions
from mmtok.evaluation.runner import generate_by_model, generate_by_selector
from mmtok.evaluation.selectors import METHODS, MMTOK, CropView, Kept, ModelPruning, Selector, UniformGrid
from mmtok.hub.coverage import greedy_coverage
from mmtok.hub.objective import coverage_matrix
from mmtok.publish import stage

ROOT = Path(__file__).resolve().parents[2]
MAKERS: dict[str, Any] = {"llava": make_llava_checkpoint, "llava_next": make_llava_next_checkpoint}
SIZES = [(24, 24), (48, 24), (40, 44)]
TEXTS = ["Is there a dog in the image?", "What is the colour of the car?", "How many people are there?"]


@pytest.fixture(scope="module", params=sorted(MAKERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(MAKERS[request.param](tmp_path_factory.mktemp("checkpoint") / request.param))


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint.load(folder)


@pytest.fixture(scope="module")
def inputs(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return checkpoint.inputs(TEXTS, [image(seed, size) for seed, size in enumerate(SIZES)])


def image(seed: int, size: tuple[int, int]) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def test_a_batch_begins_as_its_prompts_alone(folder: Path) -> None:
    """The template writes the first token, as Gemma's and Mistral's do, and their tokenizers would write it again."""
    own = Checkpoint.load(folder)
    tokenizer, begin = own.processor.tokenizer, own.processor.tokenizer.eos_token
    tokenizer.bos_token = begin
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.eos_token_id)]
    )
    own.processor.chat_template = begin + own.processor.chat_template
    together, alone = (own.inputs(TEXTS[:1] * count, [image(0, SIZES[0])] * count) for count in (2, 1))
    assert together["input_ids"].tolist() == alone["input_ids"].tolist() * 2
    assert alone["input_ids"][0].tolist().count(tokenizer.eos_token_id) == 1


@pytest.fixture
def settings(tmp_path: Path, folder: Path) -> RunSettings:
    """Two files of three questions about three images."""
    (tmp_path / "images").mkdir()
    for seed, size in enumerate(SIZES):
        image(seed, size).save(tmp_path / "images" / f"{seed}.png")
    for task, labels in (("exists", ["yes", "no", "yes"]), ("color", ["red", "blue", "red"])):
        write_questions(
            tmp_path / f"{task}.json",
            [Question(task, number, f"{number}.png", TEXTS[number], label) for number, label in enumerate(labels)],
        )
    return RunSettings(
        model=folder,
        questions=[tmp_path / "exists.json", tmp_path / "color.json"],
        images=tmp_path / "images",
        budgets=[4, 2],
        output=tmp_path / "out",
        methods=[MMTOK, UniformGrid()],
        batch_size=2,
        max_new_tokens=3,
    )


def test_what_the_processor_cuts_off_is_said(
    settings: RunSettings, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LLaVA-1.5's centre crop; LLaVA-NeXT reads all of an image in tiles."""
    run(settings)
    said = "Of 2 of 3 images the model sees the middle square alone."
    assert (said in capsys.readouterr().err) == (folder.name == "llava")


class CoverageSelector(Selector):
    """MMTok again, by way of the selector interface."""

    name = "coverage"

    def select(self, crop: CropView, budget: int) -> Kept:
        return Kept(greedy_coverage(coverage_matrix(crop.text, crop.vision, crop.raw_vision), budget).indices)


@pytest.mark.parametrize("budget", [1, 3, 16])
def test_a_selector_reaches_the_model_as_the_models_own_pruning_does(
    checkpoint: Checkpoint, inputs: dict[str, torch.Tensor], budget: int
) -> None:
    encoded = EncodedBatch.of(checkpoint.model, inputs, (), [0, 1, 2])
    by_selector = generate_by_selector(checkpoint, inputs, encoded, CoverageSelector(), budget, 6)
    assert by_selector == generate_by_model(checkpoint, inputs, MMTOK, budget, 6)


def test_all_tokens_of_a_selector_are_the_full_prompt(checkpoint: Checkpoint, inputs: dict[str, torch.Tensor]) -> None:
    encoded = EncodedBatch.of(checkpoint.model, inputs, (), [0, 1, 2])
    full = generate_by_model(checkpoint, inputs, None, None, 6)
    assert generate_by_selector(checkpoint, inputs, encoded, UniformGrid(), 16, 6) == full


def test_merged_features_take_the_place_of_the_tokens_own(
    checkpoint: Checkpoint, inputs: dict[str, torch.Tensor]
) -> None:
    class Doubled(Selector):
        name = "doubled"

        def select(self, crop: CropView, budget: int) -> Kept:
            return Kept(torch.tensor([5, 2]), 2 * crop.raw_vision[[5, 2]])

    encoded = EncodedBatch.of(checkpoint.model, inputs, (), [0, 1, 2])
    pruned = encoded.pruned(checkpoint.model, Doubled(), 2)
    view = encoded.crops[0].view
    expected = checkpoint.model.model.multi_modal_projector(2 * view.raw_vision[[2, 5]])
    ids = pruned.input_ids
    assert ids is not None
    place = torch.nonzero(ids[0] == checkpoint.model.config.image_token_id)[:2, 0]
    torch.testing.assert_close(pruned.inputs_embeds[0, place], expected)


def test_cls_attention_is_the_towers_own(checkpoint: Checkpoint, inputs: dict[str, torch.Tensor]) -> None:
    model = checkpoint.model
    tower = model.model.vision_tower
    pixels = inputs["pixel_values"].reshape(-1, *inputs["pixel_values"].shape[-3:])
    with torch.no_grad(), cls_attention(model) as record:
        tower(pixels, output_hidden_states=True)
    ours = record.per_token(16)
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        weights = tower(pixels, output_attentions=True).attentions[model.config.vision_feature_layer]
    tower.set_attn_implementation(before)
    torch.testing.assert_close(ours["cls_attention"], weights[:, :, 0, 1:].mean(1))
    assert ours["keys"].shape == (len(pixels), 16, 8)


def test_language_attention_is_the_last_tokens_in_the_second_layer(
    checkpoint: Checkpoint, inputs: dict[str, torch.Tensor]
) -> None:
    model = checkpoint.model
    with torch.no_grad():
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        before = model.model.language_model.config._attn_implementation
        ours = language_attention(model, {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]})
        assert model.model.language_model.config._attn_implementation == before
        model.model.language_model.set_attn_implementation("eager")
        output = model.model.language_model(
            inputs_embeds=embeds, attention_mask=inputs["attention_mask"], output_attentions=True
        )
        model.model.language_model.set_attn_implementation(before)
    torch.testing.assert_close(ours, output.attentions[1][:, :, -1].mean(1))
    assert torch.all(ours[inputs["attention_mask"] == 0] == 0)


def test_a_run_answers_everything_with_the_tokens_it_names(settings: RunSettings) -> None:
    result = run(settings, progress=False)
    assert len(result.answers) == 6 * (1 + 2 * 2)
    crops = {"llava": [1, 1, 1], "llava_next": [3, 3, 5]}[Path(settings.model).name]
    for answer in result.answers:
        if answer.budget is not None:
            assert answer.vision_tokens == answer.budget * crops[answer.question_id]
    found = summarize(result, resamples=50)
    assert {task: values["metric"] for task, values in found["tasks"].items()} == {"exists": "f1", "color": "accuracy"}
    assert [(cell["method"], cell["budget"]) for cell in found["cells"]] == [
        (FULL, None),
        ("MMTok", 4),
        ("MMTok", 2),
        ("uniform", 4),
        ("uniform", 2),
    ]
    assert table(found).count("\n") == 5


def test_all_methods_run_side_by_side(settings: RunSettings) -> None:
    everything = RunSettings(**{**vars(settings), "methods": tuple(METHODS.values()), "budgets": [3], "limit": 1})
    assert len(run(everything, progress=False).answers) == 2 * (1 + len(METHODS))


def test_an_interrupted_run_goes_on_and_ends_alike(settings: RunSettings) -> None:
    whole = run(settings, progress=False)
    path = Path(settings.output) / "00000.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:8]) + lines[8][:20])  # cut within the ninth line
    again = run(settings, progress=False)
    assert again == whole
    assert sorted(path.read_text().splitlines(keepends=True)) == sorted(lines)


def test_each_image_is_encoded_once_for_all_questions_and_budgets(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    load = Checkpoint.load

    def counting(*args: Any, **kwargs: Any) -> Checkpoint:
        checkpoint = load(*args, **kwargs)
        encode = checkpoint.model.encode_images

        def encode_images(**inputs: torch.Tensor) -> Any:
            counted.append(len(inputs["pixel_values"]))
            return encode(**inputs)

        monkeypatch.setattr(checkpoint.model, "encode_images", encode_images)
        return checkpoint

    monkeypatch.setattr(Checkpoint, "load", counting)
    run(settings, progress=False)
    assert sum(counted) == len(SIZES)  # of two files with three questions each, at two budgets with two methods


def test_a_finished_run_loads_no_model(settings: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(settings, progress=False)
    monkeypatch.setattr(Checkpoint, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    assert run(settings, progress=False) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction": "Be brief."}, "holds the answers of another run: instruction was .*Be brief"),
        ({"methods": [ModelPruning("MMTok", {"vision_coverage_weight": 2.0})]}, "methods 'MMTok' was"),
    ],
    ids=["instruction", "method"],
)
def test_an_output_folder_of_another_run_is_refused(
    settings: RunSettings, change: dict[str, Any], message: str
) -> None:
    run(settings, progress=False)
    with pytest.raises(ValueError, match=message):
        run(RunSettings(**{**vars(settings), **change}), progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": [0]}, "vision_token_budget is 0"),
        ({"budgets": [True]}, "vision_token_budget is True"),
        ({"budgets": [1.0]}, "The budget 1.0 is all tokens, which are measured in any case"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"limit": 0}, "limit is 0: give at least 1"),
        ({"methods": [UniformGrid(), UniformGrid()]}, "Two methods are called 'uniform'"),
        ({"questions": ["a/x.json", "b/x.json"]}, "Two question files have the same name"),
    ],
    ids=["zero", "bool", "all", "batch", "limit", "methods", "questions"],
)
def test_settings_out_of_range_are_refused(settings: RunSettings, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunSettings(**{**vars(settings), **change})


def test_missing_images_are_named_before_the_model_is_loaded(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(settings.images) / "1.png").unlink()
    monkeypatch.setattr(Checkpoint, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"exists.json, line 2: the image '1\.png' is not in "):
        run(settings, progress=False)


def test_other_weights_under_the_same_name_are_another_run(settings: RunSettings) -> None:
    run(settings, progress=False)
    path = Path(settings.model) / "model.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        with pytest.raises(ValueError, match="of another run: model was"):
            run(settings, progress=False)
    finally:
        path.write_bytes(before)


def test_a_model_of_another_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="There is no family for the model_type 'bert': choose from llava, "):
        Checkpoint.load(tmp_path)


def test_a_staged_folder_is_loaded_without_a_question(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """transformers would ask on the terminal whether remote code may run, but the classes are ours."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "n")
    staged = stage(folder, tmp_path / f"asked_{folder.name}", check=False).path
    loaded = Checkpoint.load(staged)
    assert not asked
    assert type(loaded.model).__module__ == "modeling_mmtok_llava"


def test_a_staged_folder_is_loaded_without_a_warning(folder: Path, tmp_path: Path) -> None:
    """In a process of its own: transformers' registries are this one's."""
    staged = stage(folder, tmp_path / f"quiet_{folder.name}", check=False).path
    code = f"from mmtok.evaluation.checkpoint import Checkpoint; Checkpoint.load({str(staged)!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "You are using a model of type" not in ended.stderr


def command(settings: RunSettings, output: Path) -> list[str]:
    return [
        *("eval", "--model", str(settings.model), "--questions", *map(str, settings.questions)),
        *("--images", str(settings.images), "--budget", "4", "2", "--methods", "mmtok", "uniform"),
        *("--output", str(output), "--batch-size", "2", "--max-new-tokens", "3"),
    ]


def test_the_command_writes_results_and_refuses_in_a_sentence(
    settings: RunSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(settings, tmp_path / "out")) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["cells"][0]["method"] == FULL
    assert re.search(r"^MMTok +2 +\d+\.\d ", capsys.readouterr().out, re.MULTILINE)
    assert main([*command(settings, tmp_path / "out"), "--methods", "magic"]) == 1
    assert "There is no method 'magic': choose from MMTok" in capsys.readouterr().err


@pytest.mark.heavy
def test_two_processes_answer_what_one_does(settings: RunSettings, tmp_path: Path) -> None:
    alone = run(settings, progress=False)
    # Without a GPU, --multi_gpu still is what starts several processes on one machine.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*launch, "mmtok", *command(settings, tmp_path / "parallel")],
        check=True,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=300,
    )
    written = sorted((tmp_path / "parallel").glob("*.jsonl"))
    assert [path.name for path in written] == ["00000.jsonl", "00001.jsonl"]
    shared = run(RunSettings(**{**vars(settings), "output": tmp_path / "parallel"}), progress=False)
    assert shared == alone


def test_options_of_the_command_line_are_one_more_method(settings, tmp_path, capsys) -> None:
    given = ["--vision-coverage-weight", "0", "--text-temperature", "5"]
    assert main([*command(settings, tmp_path / "out"), *given]) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [cell["method"] for cell in results["cells"]][-1] == "given"
    assert "\ngiven  " in printed
    assert main([*command(settings, tmp_path / "out"), "--vision-coverage-weight", "1"]) == 1
    assert "another run" in capsys.readouterr().err


def test_the_command_takes_shares_and_all_where_it_runs_and_json(settings, tmp_path, capsys) -> None:
    arguments = command(settings, tmp_path / "out")
    start, end = arguments.index("--budget") + 1, arguments.index("--methods")
    arguments[start:end] = ["all", "0.25", "2"]
    assert main([*arguments, "--device", "cpu", "--dtype", "float32", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [cell["budget"] for cell in results["cells"]] == [None, 0.25, 2, 0.25, 2]
    read = [cell["vision_tokens"] for cell in results["cells"]]
    assert read[1] == read[3] <= read[0] / 3
