"""Model cards: metadata that the Hub accepts, tables in the model's own numbers, and the mark of an untouched card."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_double import HubDouble
from huggingface_hub import ModelCard, constants

from mmtok import CODE_REPOSITORY
from mmtok.publish.card import (
    CardFacts,
    Measurements,
    edited_by_hand,
    render_card,
)
from mmtok.vllm.models import MODULES

ROOT = Path(__file__).resolve().parents[2]
FACTS = ROOT / "mmtok" / "publish" / "facts"
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def facts(**changes: Any) -> CardFacts:
    config = {
        "model_type": "mmtok_llava",
        "vision_token_budget": 64,
        "vision_config": {"image_size": 336, "patch_size": 14},
        **changes.pop("config", {}),
    }
    known: dict[str, Any] = {"code_files": 26, "release": "0.1.0", **changes}
    return CardFacts(config=config, **known)


def table_row(card: str, first: str) -> list[str]:
    (row,) = [line for line in card.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_metadata_names_the_base_and_takes_its_license_and_languages() -> None:
    card = render_card(
        facts(base_model="llava-hf/llava-1.5-7b-hf", base_metadata={"license": "llama2", "language": ["en", "de"]})
    )
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["base_model"] == "llava-hf/llava-1.5-7b-hf"
    assert metadata["base_model_relation"] == "finetune"
    assert (metadata["license"], metadata["language"]) == ("llama2", ["en", "de"])
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("transformers", "image-text-to-text")
    assert {"custom_code", "token-pruning", "arxiv:2508.18264"} <= set(metadata["tags"])


def test_a_base_without_a_hub_id_is_not_invented() -> None:
    metadata = yaml.safe_load(render_card(facts()).split("---\n")[1])
    assert not {"base_model", "base_model_relation", "license"} & set(metadata)


@pytest.mark.parametrize("base", [None, "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-v1.6-mistral-7b-hf"])
def test_cards_pass_the_hubs_validation(base: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubDouble().serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        ModelCard(render_card(facts(base_model=base, base_metadata={"license": "llama2"}))).validate()
        assert [request.status for request in hub.log] == [200]
        with pytest.raises(ValueError, match="base_model_relation"):
            ModelCard("---\nbase_model: a/b\nbase_model_relation: cousin\n---\n").validate()


def test_the_budget_table_counts_the_tokens_of_one_crop() -> None:
    card = render_card(facts())
    assert table_row(card, "`None`") == ["`None`", "576", "100 %"]
    assert table_row(card, "64 (default)") == ["64 (default)", "64", "11.1 %"]
    assert "64 of the 576 vision tokens of each crop by default" in card


def test_the_budget_table_counts_the_crops_of_llava_next() -> None:
    config = {"model_type": "mmtok_llava_next", "image_grid_pinpoints": PINPOINTS, "vision_token_budget": 0.05}
    card = render_card(facts(config=config))
    assert table_row(card, "`None`") == ["`None`", "1728", "2304", "2880", "100 %"]
    assert table_row(card, "32") == ["32", "96", "128", "160", "5.6 %"]
    assert table_row(card, "29 (default)") == ["29 (default)", "87", "116", "145", "5.0 %"]
    assert "row separators besides, up to 48 in these images; a pruned image has none" in card
    assert "a share of 0.05 of the 576 vision tokens of each crop by default" in card
    shared = render_card(facts(config={**config, "vision_token_budget": 32, "budget_scope": "image"}))
    assert "32 of the 576 vision tokens of each crop by default, shared by the crops of an image" in shared


def test_budgets_of_a_small_model_stay_below_its_tokens() -> None:
    config = {"vision_config": {"image_size": 24, "patch_size": 6}, "vision_token_budget": 64}
    card = render_card(facts(config=config))
    assert table_row(card, "8") == ["8", "8", "50.0 %"]
    assert "| 32 |" not in card
    assert "16 of the 16 vision tokens" in card


def test_figures_are_marked_as_the_papers_or_as_measured(tmp_path: Path) -> None:
    card = render_card(facts(base_model="llava-hf/llava-1.5-7b-hf"))
    assert "The paper's figures, not ours" in card
    assert table_row(card, "64")[4:5] == ["85.77"]
    assert "Nothing has been measured" in card
    results = {"machine": "a laptop", "versions": "torch 2", "source": "benchmarks/pope.py", "columns": ["POPE"]}
    (tmp_path / "results.json").write_text(json.dumps({**results, "rows": [["all", 0.9], [4, 0.8]]}))
    card = render_card(facts(measurements=Measurements.from_file(tmp_path / "results.json")))
    assert "by benchmarks/pope.py, on a laptop, torch 2" in card
    assert table_row(card, "all") == ["all", "0.9"]
    assert "paper's figures" not in card


def test_measurements_without_an_origin_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"columns": ["POPE"], "rows": []}')
    with pytest.raises(ValueError, match="lacks machine, source, versions"):
        Measurements.from_file(tmp_path / "results.json")


def test_the_top_says_what_runs_it_and_under_which_releases() -> None:
    top = render_card(facts(base_model="llava-hf/llava-1.5-7b-hf")).partition("## How to use it")[0]
    tested = json.loads((FACTS / "tested_versions.json").read_text())
    assert f"Tested with transformers {tested['oldest']} to {tested['newest']}; on another release run" in top
    assert f'pip install "transformers=={tested["newest"]}"' in top
    assert (
        "| vLLM | yes, with the plugin of the mmtok package: `pip install 'mmtok[vllm] @ git+https://github.com/mmtok/mmtok'`"
        in top
    )
    assert "| SGLang, TGI, llama.cpp, Ollama | no: they have model code of their own |" in top
    assert "run the 26 Python files of this repository" in top
    assert CODE_REPOSITORY in top
    assert f"git clone {CODE_REPOSITORY}" in (ROOT / "README.md").read_text(encoding="utf-8")
    [image] = re.findall(r"!\[.+\]\((.+)\)", top)
    assert (ROOT / image.removeprefix(f"{CODE_REPOSITORY}/raw/main/")).is_file()


def test_cards_promise_vllm_for_the_families_that_the_plugin_serves() -> None:
    assert {"MMTokLlavaForConditionalGeneration", "MMTokQwen3VLForConditionalGeneration"} < set(MODULES)
    assert "MMTokQwen2VLForConditionalGeneration" not in MODULES
    row = table_row(render_card(facts(config={"model_type": "mmtok_qwen2_vl", "vision_config": {}})), "vLLM")
    assert row == ["vLLM", "no: the plugin of the mmtok package does not serve this family yet"]
    assert table_row(render_card(facts()), "vLLM")[1].startswith("yes, with the plugin")


def test_a_card_names_every_author_of_the_paper() -> None:
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    card = render_card(facts())
    *names, last = (f"{author['given-names']} {author['family-names']}" for author in paper["authors"])
    assert f"by {', '.join(names)} and {last}." in card.partition("## How to use it")[0]
    assert f"author    = {{{authors}}}," in card
    assert f"title     = {{{paper['title']}}}," in card


def test_a_card_is_known_as_edited_once_a_letter_changed() -> None:
    card = render_card(facts())
    assert not edited_by_hand(card)
    assert not edited_by_hand(card.replace("\n", "\r\n"))
    assert edited_by_hand(card.replace("## Limits", "## Limit"))
    assert edited_by_hand(card + "\nOne more line.\n")
    assert edited_by_hand("# A card of somebody's own\n")


def test_facts_of_a_folder_count_its_code_and_read_the_bases_license(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mmtok_llava"}')
    (tmp_path / "prompt.py").write_bytes(b"# six\n")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    read = CardFacts.of_folder(tmp_path, release="0.1.0", base_folder=tmp_path)
    assert read.code_files == 1
    assert read.base_metadata["license"] == "mit"
    (tmp_path / "README.md").unlink()
    assert CardFacts.of_folder(tmp_path, release="0.1.0", base_folder=tmp_path).base_metadata == {}


def test_the_budget_table_counts_the_mosaic_of_onevision() -> None:
    """1152 x 1152 pixels are 3 x 3 tiles of 27 x 27 tokens; of more tiles the model reads no more tokens."""
    sides = [384 * count for count in range(1, 7)]
    config = {
        "model_type": "mmtok_llava_onevision",
        "vision_config": {"image_size": 384, "patch_size": 14},
        "image_grid_pinpoints": [[side, side] for side in sides],
        "vision_aspect_ratio": "anyres_max_9",
        "vision_token_budget": 0.2,
    }
    card = render_card(facts(config=config))
    assert table_row(card, "`None`") == ["`None`", "1458", "3645", "7290", "7290", "100 %"]
    assert table_row(card, "0.2 (default)")[1:3] == ["292", "729"]
    assert "a share of 0.2 of the vision tokens of each crop by default" in card
    assert "A LLaVA-OneVision checkpoint" in card
