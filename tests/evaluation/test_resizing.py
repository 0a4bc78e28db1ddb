"""The baseline of a smaller image: its size, and that the model reads what stock reads of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_checkpoints import make_chat_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_checkpoints import make_llava_next_checkpoint

from benchmarks.reading.architecture import build_model, export_checkpoint
from benchmarks.reading.evaluate import load_qwen
from mmtok.cli.main import main
from mmtok.evaluation import RunSettings, methods_named, run, summarize
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.questions import Question, write_questions
from mmtok.evaluation.selectors import MMTOK, RESIZED, shrunk_grid


@pytest.mark.parametrize(
    ("rows", "columns", "tokens", "expected"),
    [
        (10, 10, 25, (5, 5)),
        (10, 10, 10, (3, 3)),
        (10, 30, 30, (3, 10)),
        (4, 4, 1, (1, 1)),
        (2, 30, 6, (1, 6)),
        (40, 1, 5, (5, 1)),
    ],
)
def test_a_smaller_grid(rows: int, columns: int, tokens: int, expected: tuple[int, int]) -> None:
    assert shrunk_grid(rows, columns, tokens) == expected


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), tokens=st.integers(1, 1600))
def test_a_smaller_grid_has_at_most_so_many_tokens_and_the_shape(rows: int, columns: int, tokens: int) -> None:
    fewer, narrower = shrunk_grid(rows, columns, min(tokens, rows * columns))
    assert 1 <= fewer * narrower <= tokens
    assert fewer <= rows
    assert narrower <= columns
    if min(rows, columns) ** 2 * tokens >= rows * columns:  # no side of less than one token
        scale = min(1.0, (tokens / (rows * columns)) ** 0.5)
        assert abs(fewer - rows * scale) <= 0.5 + 1e-9
        assert columns * scale / 2 - 1 <= narrower <= columns * scale + 1


def asked(folder: Path, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """A file of questions about images of noise of (width, height)."""
    (folder / "images").mkdir()
    for number, size in enumerate(sizes):
        pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.byte().numpy()).save(folder / "images" / f"{number}.png")
    questions = [Question("q", number, f"{number}.png", "What is it?", "dog") for number in range(len(sizes))]
    write_questions(folder / "q.json", questions)
    return {"questions": [folder / "q.json"], "images": folder / "images", "output": folder / "out", "instruction": ""}


def run_resized(checkpoint: Checkpoint, model: Path, folder: Path, side: int) -> None:
    """Shares and numbers of tokens; the answers are stock's about images that were shrunk before the processor."""
    sizes = [(8 * side, 6 * side), (8 * side, 8 * side)]
    settings = RunSettings(
        model=model, budgets=[0.25, 6], methods=[MMTOK, RESIZED], max_new_tokens=4, **asked(folder, sizes)
    )
    result = run(settings, progress=False, checkpoint=checkpoint)
    cells = {(cell["method"], cell["budget"]): cell for cell in summarize(result, resamples=10)["cells"]}
    checkpoint.processor.image_processor.do_resize = False
    grids = {0.25: [(3, 4), (4, 4)], 6: [(2, 3), (2, 3)]}
    for budget, expected in grids.items():
        answers = [each for each in result.answers if (each.method, each.budget) == ("resized", budget)]
        for number, (rows, columns) in enumerate(expected):
            # The separators of Mistral 3 are read with their rows.
            assert answers[number].vision_tokens in (rows * columns, rows * columns + rows - 1)
            size = (columns * side, rows * side)
            small = Image.open(folder / "images" / f"{number}.png").resize(size, Image.Resampling.BICUBIC)
            inputs = checkpoint.inputs(["What is it?"], [small])
            written = checkpoint.model.unpruned().generate(**inputs, max_new_tokens=4, do_sample=False)
            new = written[:, inputs["input_ids"].shape[1] :]
            [text] = checkpoint.processor.batch_decode(new, skip_special_tokens=True)
            assert answers[number].text == text.strip()
        assert {("MMTok", budget), ("resized", budget)} <= cells.keys()


def test_a_run_about_smaller_images(tmp_path: Path) -> None:
    model = tmp_path / "model"
    export_checkpoint(build_model(0), model, torch.float32)
    checkpoint = load_qwen(model)
    checkpoint.processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 400}
    run_resized(checkpoint, model, tmp_path, 28)


@pytest.mark.torchvision
@pytest.mark.parametrize("kind", ["qwen3_vl", "glm4v", "mistral3"])
def test_a_run_about_smaller_images_of_other_families(kind: str, tmp_path: Path) -> None:
    model = make_chat_checkpoint(tmp_path / "model", kind)
    checkpoint = Checkpoint.load(model)
    run_resized(checkpoint, model, tmp_path, checkpoint.model.geometry.side)


@pytest.mark.torchvision
def test_compare_has_a_smaller_image_beside_each_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_chat_checkpoint(tmp_path / "model", "qwen2_5_vl")
    images = asked(tmp_path, [(60, 36), (48, 48)])["images"]
    command = ["compare", str(images), "--model", str(model), "--output", str(tmp_path / "out"), "--drawings", "0"]
    assert main([*command, "--budget", "0.5", "4", "--max-new-tokens", "2", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    for pruned, resized in zip(results["budgets"], results["resized"], strict=True):
        assert resized["budget"] == pruned["budget"]
        assert pruned["vision_tokens"] / 2 < resized["vision_tokens"] <= pruned["vision_tokens"]
    assert main([*command, "--budget", "0.5", "4", "--max-new-tokens", "2"]) == 0
    assert " resized " in capsys.readouterr().out


def test_families_of_fixed_crops_say_why_not(tmp_path: Path) -> None:
    model = make_llava_next_checkpoint(tmp_path / "model")
    [method] = methods_named(["Resized"], model)
    settings = RunSettings(model=model, budgets=[4], methods=[method], **asked(tmp_path, [(24, 24)]))
    with pytest.raises(ValueError, match=r"resized: a crop of LLaVA-NeXT has as many tokens whatever the size"):
        run(settings)
