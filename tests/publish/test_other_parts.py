"""Checkpoints with other parts, and further families: staged, pushed, loaded by name, asked, pruned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_checkpoints import PARTS, make_chat_checkpoint
from hub_double import HubDouble
from published_models import ASK_TWICE, environment_of, hub_for_this_process, upload_folder
from small_checkpoints import make_llava_checkpoint
from transformers import AutoProcessor, PreTrainedTokenizerFast

from mmtok.hub.families import FAMILIES
from mmtok.hub.tokenizer_source import TokenizerSource
from mmtok.publish import Destination, Recipe, push, stage, verify
from mmtok.publish.clean_process import HIDDEN, run_clean

KINDS = [
    pytest.param(kind, marks=[pytest.mark.torchvision] if parts.needs_torchvision else [])
    for kind, parts in PARTS.items()
]

USE = """
import json, sys
sys.modules.update(dict.fromkeys(sys.argv[2].split()))
import torch
from PIL import Image
from transformers import pipeline

torch.set_num_threads(1)
ask = pipeline("image-text-to-text", model=sys.argv[1], trust_remote_code=True)
"""
USE += (
    ASK_TWICE
    + """
lengths = []
ask.model.model.language_model.register_forward_pre_hook(
    lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
)
for budget in (2, None):
    ask(text=chats[0], generate_kwargs={"max_new_tokens": 1, "vision_token_budget": budget})
print(json.dumps({"class": type(ask.model).__name__, "single": single, "batch": batch, "lengths": lengths}))
"""
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    with hub_for_this_process(monkeypatch, tmp_path / "cache") as serving:
        yield serving


def used(model: str, environment: dict[str, str]) -> dict[str, Any]:
    """What somebody without mmtok gets from a model."""
    ended = run_clean(["-c", USE, model, " ".join(HIDDEN)], environment=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_pushed_verified_loaded_by_name_and_pruned(kind: str, hub: HubDouble, tmp_path: Path) -> None:
    upload_folder(hub, "llava-hf/small", make_chat_checkpoint(tmp_path / "base", kind))
    push("llava-hf/small", Destination("org/pruned"))
    assert verify("org/pruned").problems == ()
    found = used("org/pruned", environment_of(hub, tmp_path / "user"))
    assert found["class"] == FAMILIES[kind.split(",")[0]].model_class
    assert found["batch"] == found["single"]
    assert all(isinstance(answer, str) for answer in found["single"])
    pruned, full = found["lengths"]
    assert 0 < pruned < full


@pytest.mark.parametrize("kind", KINDS)
def test_a_staged_folder_is_its_base_and_covers_the_question(kind: str, tmp_path: Path) -> None:
    staged = stage(make_chat_checkpoint(tmp_path / "base", kind), tmp_path / "staged")
    assert staged.report["largest_logit_difference"] == 0
    config = json.loads((staged.path / "config.json").read_text(encoding="utf-8"))
    template = json.loads((staged.path / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(staged.path)
    turns = [("user", "Is there a cat?"), ("assistant", "The user."), ("user", "What does the sign say?")]
    chat = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    chat[0]["content"].insert(0, {"type": "image"})
    prompt = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
    reader = TokenizerSource(name=staged.path).reader(config["question_format"], [])
    assert reader is not None
    assert reader.read(tokenizer(prompt)["input_ids"]).words == ("sign", "say")
    assert config["question_format"] is None


def test_a_tower_whose_images_have_any_size_is_refused(tmp_path: Path) -> None:
    base = make_llava_checkpoint(tmp_path / "base")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["vision_config"] = {"model_type": "pixtral", "image_size": 1024, "patch_size": 16}
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"has a vision tower of the type 'pixtral': LLaVA-1\.5 checkpoints can be staged"
    ):
        stage(base, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.torchvision
def test_defaults_and_options_of_a_family_count_when_staged(tmp_path: Path) -> None:
    base = make_chat_checkpoint(tmp_path / "base", "llava_onevision")
    assert stage(base, tmp_path / "share", check=False).vision_token_budget == 0.2
    with pytest.raises(ValueError, match="padding is 'include', which means nothing for LLaVA-OneVision"):
        stage(base, tmp_path / "out", Recipe({"padding": "include"}), check=False)


VIDEO = """
import json, sys
import torch
from transformers import pipeline

torch.set_num_threads(1)
ask = pipeline("image-text-to-text", model=sys.argv[1], trust_remote_code=True)
lengths = []
ask.model.model.language_model.register_forward_pre_hook(
    lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
)
frames = torch.randint(0, 256, (4, 3, 56, 56), dtype=torch.uint8)
content = [{"type": "video", "video": frames}, {"type": "text", "text": "where is the dog ?"}]
for budget in (2, None):
    ask(
        text=[{"role": "user", "content": content}],
        generate_kwargs={"max_new_tokens": 1, "vision_token_budget": budget},
    )
print(json.dumps(lengths))
"""


def prunes_videos(kind: str) -> bool:
    """Whether videos are pruned; frames of InternVL are images, and those of GLM-V and Gemma 4 are refused."""
    return PARTS[kind].video is not None and (kind == "internvl" or bool(FAMILIES[kind].load_class().video_arguments))


@pytest.mark.torchvision
@pytest.mark.parametrize("kind", [kind for kind in PARTS if prunes_videos(kind)])
def test_a_pipeline_answers_about_a_video(kind: str, tmp_path: Path) -> None:
    folder = stage(make_chat_checkpoint(tmp_path / "base", kind), tmp_path / "staged", check=False).path
    ended = run_clean(["-c", VIDEO, str(folder)], timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    pruned, full = json.loads(ended.stdout.splitlines()[-1])
    # Two tokens of each of four frames, or of two pairs of frames.
    assert full - pruned > 4


@pytest.mark.torchvision
def test_timestamps_of_the_processor_are_no_words(tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(make_chat_checkpoint(tmp_path / "base", "qwen3_vl"))
    tokenizer = processor.tokenizer
    texts = [{"type": "text", "text": text} for text in ("Watch 2.5", "Which sign?")]
    chat = [{"role": "user", "content": [texts[0], {"type": "video"}, texts[1]]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    frames = torch.randint(0, 256, (4, 3, 56, 56), dtype=torch.uint8)
    metadata = [{"fps": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}]
    ids = processor(text=[prompt], videos=[frames], video_metadata=metadata, do_sample_frames=False)["input_ids"]
    assert "<0.2 seconds><|vision_start|>" in tokenizer.decode(ids[0])
    reader = TokenizerSource(tokenizer).reader(None, [tokenizer.convert_tokens_to_ids("<|video_pad|>")])
    assert reader is not None
    assert reader.read(list(ids[0])).words == ("Watch", "2.5", "sign")
