"""The tokenizer that a model reads questions with where none is given: of a trained checkpoint, of a Hub revision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_double import TOKEN, HubDouble
from published_models import hub_for_this_process, upload_folder
from small_checkpoints import make_llava_checkpoint
from transformers import AutoProcessor, LlavaForConditionalGeneration, Trainer, TrainingArguments

import mmtok
from mmtok.publish import stage
from mmtok.record_store import model_content
from modeling_mmtok_llava import MMTokLlavaForConditionalGeneration

REPO = "org/llava-mmtok"
PROMPT = f"USER: {'<image>' * 16}\nIs there a\nsnowboard? ASSISTANT:"


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("doors")
    return stage(make_llava_checkpoint(root / "base"), root / "staged", check=False, link_weights=False).path


@pytest.fixture(scope="module")
def inputs(staged: Path) -> dict[str, torch.Tensor]:
    tokenizer = AutoProcessor.from_pretrained(staged, trust_remote_code=True).tokenizer
    return {**tokenizer(PROMPT, return_tensors="pt"), "pixel_values": torch.randn(1, 3, 24, 24)}


def words(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[str, ...]:
    return model.select_vision_tokens(**inputs, vision_token_budget=4).images[0].words


@pytest.mark.parametrize("way", ["class", "prune", "prune with a processor"])
def test_a_checkpoint_of_a_trainer_reads_the_same_words(
    way: str, staged: Path, inputs: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Saved by the trainer alone: no processor is given to it."""
    if way == "class":
        model: Any = MMTokLlavaForConditionalGeneration.from_pretrained(staged)
    else:
        base = staged.parent / "base"
        processor = AutoProcessor.from_pretrained(base) if way == "prune with a processor" else None
        model = mmtok.prune(LlavaForConditionalGeneration.from_pretrained(base), processor)
    example = {name: values[0] for name, values in inputs.items()}
    example["labels"] = example["input_ids"]
    settings = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, save_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True
    )
    Trainer(model, settings, train_dataset=[example, example]).train()
    saved = MMTokLlavaForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-1")
    before = MMTokLlavaForConditionalGeneration.from_pretrained(staged)
    assert not torch.equal(saved.lm_head.weight, before.lm_head.weight)
    assert words(saved, inputs) == ("there", "snowboard")
    assert not [message for message in caplog.messages if "tokenizer.json" in message]


@pytest.mark.parametrize("by", ["tag", "commit", "a branch that moves"])
def test_the_tokenizer_has_the_revision_and_the_token_of_the_weights(
    by: str, staged: Path, inputs: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a private repository whose main branch has an unreadable tokenizer, without a token in the environment."""
    with hub_for_this_process(monkeypatch, tmp_path / "cache") as hub:
        monkeypatch.delenv("HF_TOKEN")
        commit = private_repository(hub, staged)
        revision = {"tag": "v1.0", "commit": commit, "a branch that moves": "stable"}[by]
        model = MMTokLlavaForConditionalGeneration.from_pretrained(REPO, revision=revision, token=TOKEN)
        branches = hub.store.repository(REPO).branches
        branches["stable"] = branches["main"]
        hub.arm()
        assert words(model, inputs) == ("there", "snowboard")
        asked = [request for request in hub.log if request.path.endswith("/tokenizer.json")]
        assert asked
        assert all(commit in request.path and request.authorized for request in asked), asked
        on_main = MMTokLlavaForConditionalGeneration.from_pretrained(REPO, token=TOKEN)
        with pytest.raises(Exception, match="Model missing"):
            words(on_main, inputs)


def private_repository(hub: HubDouble, staged: Path) -> str:
    """A repository with the tag v1.0, whose next commit has another tokenizer.json; returns the commit of the tag."""
    commit = upload_folder(hub, REPO, staged)
    repository = hub.store.repository(REPO)
    repository.tags["v1.0"], repository.branches["stable"], repository.private = commit, commit, True
    files = {path: content for path, content in hub.files(REPO).items() if path != "tokenizer.json"}
    hub.store.seed(REPO, {**files, "tokenizer.json": json.dumps({"version": "1.0"}).encode()})
    return commit


def test_the_content_of_a_repository_is_its_commit(
    staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_for_this_process(monkeypatch, tmp_path / "cache") as hub:
        commit = private_repository(hub, staged)
        assert model_content(REPO, "v1.0") == f"commit {commit}"
        assert model_content(REPO) == f"commit {hub.store.repository(REPO).branches['main']}"
