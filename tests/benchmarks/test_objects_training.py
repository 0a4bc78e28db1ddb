"""Training of the model of everyday objects: targets, conversations, the loop, and the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoProcessor, LlavaForConditionalGeneration

from benchmarks.objects.architecture import (
    build_model,
    export_checkpoint,
    object_vectors,
    token_ids,
    tokenizer,
    vision_features,
)
from benchmarks.objects.conversations import (
    IGNORED,
    ConversationEncoder,
    converse,
    patches_towards,
    seen_part,
    spread_patches,
)
from benchmarks.objects.language import imitated_patches, seen_labels
from benchmarks.objects.sight import NAME_INDEX, patch_targets
from benchmarks.objects.tuning import WrittenScene, counted
from benchmarks.training.loop import (
    LAST_RATE,
    Run,
    Stage,
    compute_dtype,
    make_optimizers,
    mixed_precision,
    rate_factor,
    train_only,
    train_stage,
)
from mmtok.tiny.catalogue import CATEGORIES, NAMES, OBJECTS
from mmtok.tiny.questions import SHORT_ANSWER, Question
from mmtok.tiny.scenes import GRID, Drawing, Scene, SceneObject


def scene_of(*names: str) -> Scene:
    return Scene("park", tuple(SceneObject(name, "own", 0, 40, 40, 40) for name in names), ("park", 0), seed=0)


def test_rates_rise_fall_and_cool_down() -> None:
    stage = Stage("own", 0, 60, rate=1.0, matrix_rate=1.0, warm_up=10, horizon=100, cool_down=20)
    assert rate_factor(stage, 0) == pytest.approx(0.1)
    assert rate_factor(stage, 20) == pytest.approx(LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + np.cos(0.2 * np.pi)))
    assert rate_factor(stage, 50) == pytest.approx(0.5 * (LAST_RATE + (1 - LAST_RATE) * 0.5))
    assert rate_factor(replace(stage, horizon=0, cool_down=0), 59) < 0.03


def test_an_interrupted_stage_reaches_the_same_weights(tmp_path: Path) -> None:
    stage = Stage("own", 5, 6, rate=0.01, matrix_rate=0.01, warm_up=1)

    def learner() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4)]), "projector": nn.Linear(4, 4)})

    def run(folder: Path, stop_at: int | None = None) -> nn.Module:
        module = learner()

        def loss(rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, float]]:
            if stop_at is not None and done >= stop_at / stage.steps:
                raise KeyboardInterrupt
            inputs = torch.from_numpy(rng.standard_normal((3, 4), dtype=np.float32))
            return (module["layers"][0](inputs) - inputs).square().mean() + module["projector"](inputs).sum(), {}

        train_stage(Run(folder, snapshot_every=2), stage, module, loss)
        return module

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop_at=3)
    resumed = run(tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    stage = replace(stage, rate=0.02)
    with pytest.raises(ValueError, match="belongs to a run with another seed or stage"):
        run(tmp_path / "parts")


def test_hidden_matrices_go_to_muon_and_frozen_ones_nowhere() -> None:
    model = build_model(0)
    train_only(model, ("language_model.layers", "lm_head"))
    others, matrices = make_optimizers(Stage("own", 0, 1, 1e-3, 1e-3), model)
    shapes = {tuple(p.shape) for group in matrices.param_groups for p in group["params"]}
    assert shapes == {(128, 128), (384, 128), (128, 384)}
    assert not model.get_input_embeddings().weight.requires_grad
    assert {p.ndim for p in others.param_groups[1]["params"]} == {1}


def test_words_lean_towards_their_category_and_are_unit_vectors() -> None:
    model, ids = build_model(3), token_ids()
    weight = model.get_input_embeddings().weight.detach()
    assert torch.allclose(weight.norm(dim=1), torch.ones(len(ids)), atol=1e-5)
    for name, kind in OBJECTS.items():
        for category in CATEGORIES:
            cosine = float(weight[ids[name.split()[0]]] @ weight[ids[category]])
            assert cosine == pytest.approx(0.45 if kind.category == category else 0, abs=1e-5)
    assert torch.equal(weight, build_model(3).get_input_embeddings().weight)
    vectors = object_vectors(model)
    assert vectors.shape == (len(NAMES) + 1, 128)
    assert torch.equal(vectors[-1], torch.nn.functional.normalize(weight[ids["<image>"]], dim=-1))


def test_features_are_those_that_llava_reads() -> None:
    model = build_model(0).eval()
    pixels = torch.randn(2, 3, 144, 144, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        assert torch.allclose(vision_features(model, pixels), states[-2][:, 1:], atol=1e-5)


def test_patches_are_graded_by_coverage_relative_to_the_best_patch() -> None:
    coverage = np.zeros((2, GRID**2), np.float32)
    coverage[0, :4] = 1.0, 0.5, 0.03, 0.0
    coverage[1, 3:5] = 0.2, 0.1
    targets = patch_targets(scene_of("dog", "spoon"), Drawing(np.zeros((1, 1, 3), np.uint8), coverage))
    assert targets.objects[[0, 1, 3, 4]].tolist() == [NAME_INDEX[name] for name in ("dog", "dog", "spoon", "spoon")]
    assert np.allclose(targets.shares[:4], [1, 0.5 + 0.25 / 0.9, 0, 1], atol=1e-5)
    assert 0.3 < targets.shares[4] < targets.shares[3]
    assert seen_labels(scene_of("dog", "spoon"), targets)[:6].tolist() == [0, 0, -1, 1, 1, -1]


def test_kept_patches_show_every_object_first() -> None:
    labels = np.full(40, -1)
    labels[[3, 4, 5]], labels[20], labels[30] = 0, 1, 2
    for seed in range(30):
        rng = np.random.default_rng(seed)
        kept = spread_patches(labels, 3, rng)
        assert sorted(labels[kept]) == [0, 1, 2]
        assert len(spread_patches(labels, 40, rng)) == 40
        liking = np.zeros(40, np.float32)
        liking[4] = 1
        towards = patches_towards(liking, labels, 3, rng)
        assert 4 in towards
        assert sorted(labels[towards]) == [0, 1, 2]
        assert np.array_equal(towards, np.unique(towards))


def test_nothing_is_asked_about_what_is_not_seen() -> None:
    scene = scene_of("dog", "kite", "cat", "pizza")
    labels = np.array([1, 2, 1, -1])
    assert seen_part(scene, labels).names == ("kite", "cat")
    for seed in range(40):
        turns = converse(scene, labels, np.random.default_rng(seed), asked="dog")
        for turn in turns:
            question = turn.text.removesuffix("\n" + SHORT_ANSWER)
            assert not any(f" {hidden} " in question for hidden in ("dog", "pizza", "food"))
            if question.startswith("How many"):
                assert turn.answer == "2"
            if question.startswith("What animal"):
                assert turn.answer == "cat"


def test_conversations_are_encoded_in_the_form_of_the_chat_template() -> None:
    encoder = ConversationEncoder()
    turns = [Question("Is there a dog in the image?", "yes"), Question("Describe the image.", "a hot dog")]
    encoded = encoder.encode([turns], 2, np.random.default_rng(0))
    said = "<s> user : <image> <image> is there a dog in the image ? assistant : yes </s> user : describe the image ."
    tokens = tokenizer().convert_ids_to_tokens(encoded.input_ids[0].tolist())
    assert tokens == [*said.split(), *["assistant", ":", "a", "hot", "dog", "</s>"]]
    assert encoded.input_ids[0, encoded.image_start] == encoder.image
    learned = encoded.labels[0][encoded.labels[0] != IGNORED]
    answers = [token for token in tokenizer().convert_ids_to_tokens(learned.tolist()) if token != "</s>"]
    assert answers == ["yes", "a", "hot", "dog"]


def test_imitated_patches_are_close_to_what_they_stand_for() -> None:
    vectors = object_vectors(build_model(0))
    objects, shares = np.full((4, 50), 7), np.ones((4, 50), np.float32)
    patches = imitated_patches(vectors, objects, shares, np.random.default_rng(0))
    nearest = (patches @ vectors.T).argmax(-1)
    assert 0.8 < float((nearest == 7).float().mean()) < 1


def test_the_checkpoint_is_read_by_stock_llava(tmp_path: Path) -> None:
    model = build_model(1).eval()
    export_checkpoint(model, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 8e6
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(value.half().float(), loaded.state_dict()[name]), name
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a kite?"}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    inputs = processor(images=np.zeros((144, 144, 3), np.uint8), text=prompt, return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_index).sum()) == GRID**2
    assert "<unk>" not in processor.batch_decode(inputs["input_ids"])[0]


def test_a_count_is_asked_for_first_and_lost_objects_are_not_counted() -> None:
    scene = scene_of("dog", "kite", "cat")
    labels = np.full(GRID**2, -1)
    labels[:3] = 0, 1, 2
    owners, empty = np.maximum(labels, 0), labels < 0
    written = WrittenScene(scene, torch.arange(GRID**2)[:, None].bfloat16(), labels, empty, owners)
    rng = np.random.default_rng(0)
    patches, left = written.without(np.array([1]), rng)
    assert left[:3].tolist() == [0, -1, 2]
    assert patches[0] == 0
    assert patches[1] >= 3
    first = converse(scene, left, rng, counted=True)[0]
    assert first.text.startswith("How many objects are in the image?")
    assert first.answer == "2"


@pytest.mark.parametrize("count", [4, 30, GRID**2])
def test_the_objects_of_the_patches_that_are_seen_are_counted(count: int) -> None:
    scene = scene_of("dog", "kite", "cat")
    owners = np.arange(GRID**2) % 6  # half of the patches are empty
    empty = owners > 2
    labels = np.where(empty, -1, owners)
    # A patch is written as the number of its object.
    written = WrittenScene(scene, torch.from_numpy(labels)[:, None].bfloat16(), labels, empty, np.minimum(owners, 2))
    answers = set()
    for seed in range(30):
        patches, turns = counted(written, count, np.random.default_rng(seed))
        assert patches.shape == (count, 1)
        assert turns[0].text.startswith("How many objects are in the image?")
        assert turns[0].answer == str(len(set(patches[:, 0].tolist()) - {-1}))
        answers.add(turns[0].answer)
    assert answers == {"1", "2", "3"}


def test_bfloat16_is_used_where_the_processor_is_fast_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.ones(2, 2)
    for capability, dtype in (("AVX512", torch.bfloat16), ("AVX2", torch.float32), ("DEFAULT", torch.float32)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=capability: name)
        with mixed_precision():
            assert (matrix @ matrix).dtype == compute_dtype() == dtype
