from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_checkpoints import TOKENS_PER_CROP, make_llava_checkpoint

from mmtok.apps import demo
from mmtok.apps.answering import ask, load_pipeline
from mmtok.publish import stage
from mmtok.tiny.scenes import sample_scene


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> demo.Demo:
    folder = tmp_path_factory.mktemp("demo")
    return demo.run_demo(make_llava_checkpoint(folder / "base"), folder / "demo_staged", seed=3, check=False, calls=1)


def test_three_questions_with_every_budget(shown) -> None:
    assert [len(row) for row in shown.answers] == [len(demo.BUDGETS)] * 3
    assert [question.answer for question in shown.questions][:2] == ["yes", "no"]
    for row in shown.answers:
        text = row[0].full_prompt_tokens - TOKENS_PER_CROP
        assert [answer.vision_tokens for answer in row] == [TOKENS_PER_CROP, TOKENS_PER_CROP, 8, 4]
        assert [answer.prompt_tokens for answer in row] == [text + answer.vision_tokens for answer in row]
        coverage = [answer.coverage for answer in row]
        assert coverage[0] == pytest.approx(1.0)
        assert coverage == sorted(coverage, reverse=True)


def test_the_remote_code_of_the_staged_folder_answers(shown) -> None:
    assert shown.model_class.startswith("transformers_modules.")
    assert shown.model_class.endswith("MMTokLlavaForConditionalGeneration")


def test_table_and_json_say_the_same(shown) -> None:
    table = demo.demo_table(shown)
    assert table.row_count == 12
    values = demo.as_json(shown)
    columns = [list(column.cells) for column in table.columns]
    flat = [answer for question in values["questions"] for answer in question["answers"]]
    assert columns[4] == [f"{answer['prompt_tokens']} of {answer['full_prompt_tokens']}" for answer in flat]
    assert json.loads(json.dumps(values)) == values


def test_figure_shows_every_answer(shown, tmp_path) -> None:
    titles = [axes.texts[0].get_text() for axes in shown.figure.axes if axes.texts]
    assert len(titles) == 12
    assert titles[0].startswith("all 16 tokens → ")
    shown.figure.savefig(tmp_path / "demo.png", dpi=40)
    assert Image.open(tmp_path / "demo.png").width > 300


def test_questions_are_about_the_scene() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scene = sample_scene(demo.SCENE, rng)
        present, absent, *_ = demo.demo_questions(scene, rng)
        names = {item.name for item in scene.objects}
        assert f"{present.color} {present.shape}" in names
        assert f"{absent.color} {absent.shape}" not in names


def test_a_stock_checkpoint_is_refused(tmp_path) -> None:
    base = make_llava_checkpoint(tmp_path / "stock_base")
    with pytest.raises(ValueError, match="prunes nothing: stage it first"):
        load_pipeline(base)


def test_answers_with_other_knobs(tmp_path) -> None:
    """A knob given for one call reaches both the generation and the record of what was kept."""
    staged = stage(make_llava_checkpoint(tmp_path / "base"), tmp_path / "knobs_staged", check=False)
    pipe = load_pipeline(staged.path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    plain = ask(pipe, picture, "Where is the dog?", 4, max_new_tokens=2)
    picture_alone = ask(pipe, picture, "Where is the dog?", 4, max_new_tokens=2, text_coverage_weight=0.0)
    assert float(plain.selection.text_gain.sum()) > 0
    assert float(picture_alone.selection.text_gain.sum()) == 0
    assert plain.prompt_tokens == picture_alone.prompt_tokens == plain.full_prompt_tokens - 12


def test_command_writes_the_picture(tmp_path, capsys) -> None:
    base = make_llava_checkpoint(tmp_path / "base")
    folder, output = tmp_path / "command_staged", tmp_path / "shown.png"
    demo.main(["--base", str(base), "--folder", str(folder), "--output", str(output), "--no-check", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert Path(values["picture"]) == output
    assert Image.open(output).format == "PNG"
