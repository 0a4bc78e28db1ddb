"""The Python examples of the cards, with a tokenizer that pads on the right: batches are answered as single calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from misuse_cases import edit_json
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint

from mmtok.publish import Recipe, stage, stage_generate
from mmtok.publish.clean_process import run_clean

PROGRAM = str(Path(__file__).parents[1] / "support" / "published_use.py")
NAMES = {"llava-hf/llava-1.5-7b-hf": "base", "ORGANISATION/NAME": "made", "ORGANISATION/MODEL": "made"}


def run_examples(made: Path, base: Path) -> dict[str, Any]:
    """What the examples of a card print, with folders in place of repositories."""
    card = (made / "README.md").read_text(encoding="utf-8")
    for name, folder in NAMES.items():
        card = card.replace(name, str({"base": base, "made": made}[folder]))
    (made.parent / "card.md").write_text(card, encoding="utf-8")
    ended = run_clean([PROGRAM, "cards", str(made.parent / "card.md")], timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return dict(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("make", [make_llava_checkpoint, make_llava_next_checkpoint])
def test_a_batch_of_two_lengths_is_answered_as_its_prompts_alone(make: Any, template: bool, tmp_path: Path) -> None:
    base = make(tmp_path / "base")
    edit_json(base / "tokenizer_config.json", padding_side="right")
    if not template:
        (base / "chat_template.json").unlink()
    made = stage(base, tmp_path / "made", Recipe({"vision_token_budget": 4}), check=False).path
    found = run_examples(made, base)
    assert len(found["printed"]) == 2
    assert all(found["printed"])
    assert len(set(found["lengths"])) == 2
    assert found["batch"] == found["single"]
    assert found["batch"][0] != found["batch"][1]  # the budgets say different things


def test_the_examples_of_the_custom_generate_card_run(tmp_path: Path) -> None:
    base = make_llava_checkpoint(tmp_path / "base")
    edit_json(base / "tokenizer_config.json", padding_side="right")
    found = run_examples(stage_generate(tmp_path / "made", check=False).path, base)
    by_model, by_pipeline = found["printed"]
    assert by_model == by_pipeline
