"""Training: the conversations are the chat template's, and an interrupted run ends at the same weights."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from benchmarks.embedded_model import training
from benchmarks.embedded_model.architecture import BACKGROUND_WORDS, build_model
from benchmarks.embedded_model.export import export_processor, replaced_when_complete
from benchmarks.embedded_model.held_out import COMPARED, Score
from benchmarks.embedded_model.report import require_targets
from benchmarks.embedded_model.samples import IGNORED, ConversationEncoder, Lesson, sample_batch
from benchmarks.embedded_model.stages import Stage, image_loss, part_of, sight_loss, symbolic_loss, writing_loss
from benchmarks.embedded_model.vocabulary import IMAGE, words
from mmtok.tiny.questions import SceneQuestion, description
from mmtok.tiny.scenes import SceneSettings, sample_scene

STAGES = (
    Stage("sight", 3, 2, {"tower": 1e-3, "head": 1e-3}, sight_loss),
    Stage("words", 3, 2, {"language": 1e-3, "output": 1e-3}, symbolic_loss(Lesson(24))),
    Stage("alignment", 2, 2, {"projector": 1e-3, "tower": 1e-3}, writing_loss),
    Stage("tuning", 2, 2, {"projector": 1e-3, "language": 1e-3}, image_loss(Lesson())),
)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    export_processor(folder)
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def message(role, text, *parts):
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def test_training_ids_are_the_chat_template_s(processor):
    scene = sample_scene(SceneSettings(), np.random.default_rng(0))
    turns = [
        description(scene),
        SceneQuestion("Is there a red circle in the image?", "no"),
        SceneQuestion("How many?", "2"),
    ]
    image = {"type": "image", "image": scene.image()}
    chat = []
    for index, turn in enumerate(turns):
        chat += [message("user", turn.text, *([image] if index == 0 else [])), message("assistant", turn.answer)]

    ids, labels = ConversationEncoder().encode(turns, patches=144, ended=2)

    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    assert processor.apply_chat_template(chat, **options)["input_ids"][0].tolist() == ids
    asked = processor.apply_chat_template(chat[:-1], add_generation_prompt=True, **options)["input_ids"][0].tolist()
    assert asked == ids[: len(asked)]
    assert processor.decode(ids[len(asked) :]) == "2 </s>"
    assert labels[len(asked) :] == ids[len(asked) :]


def test_labels_are_the_answers():
    encoder = ConversationEncoder()
    turns = [
        SceneQuestion("Describe the image.", "a red circle"),
        SceneQuestion("Is there?", "yes"),
        SceneQuestion("How many?", "1"),
    ]
    for ended, answers in ((0, ["yes", "1"]), (1, ["yes", "</s>", "1"]), (2, ["yes", "1", "</s>"])):
        ids, labels = encoder.encode(turns, patches=4, ended=ended)
        asked = encoder.tokenizer.convert_ids_to_tokens([label for label in labels if label != IGNORED])
        assert asked == ["a", "red", "circle", "</s>", *answers]
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))


def test_training_sees_what_the_image_processor_gives(processor):
    batch = sample_batch(ConversationEncoder(), np.random.default_rng(0), 2)
    images = [scene.image() for scene in batch.scenes]
    expected = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch.pixel_values(), expected, atol=1e-6, rtol=0)


def test_a_batch_keeps_a_patch_of_every_object():
    encoder = ConversationEncoder()
    for seed in range(30):
        batch = sample_batch(encoder, np.random.default_rng(seed), 3)
        for scene, kept, ids in zip(batch.scenes, batch.kept, batch.input_ids, strict=True):
            assert kept.tolist() == sorted(set(kept.tolist()))
            assert set(scene.patch_labels()[kept]) >= set(range(len(scene.objects)))
            image = ids[batch.image_start : batch.image_start + len(kept)]
            assert (image == encoder.image_id).all()
            assert (ids == encoder.image_id).sum() == len(kept)


def test_crowded_images_keep_a_patch_of_every_object_too():
    batch = sample_batch(ConversationEncoder(), np.random.default_rng(0), 5, Lesson(most_patches=24, crowded=1.0))
    for scene, kept in zip(batch.scenes, batch.kept, strict=True):
        assert len(scene.objects) >= 8
        assert set(scene.patch_labels()[kept]) >= set(range(len(scene.objects)))


def test_images_are_read_with_few_and_with_many_patches_of_objects():
    shares = []
    for seed in range(40):
        batch = sample_batch(ConversationEncoder(), np.random.default_rng(seed), 1)
        labels = batch.scenes[0].patch_labels()
        if len(batch.kept[0]) < 40:
            shares.append((labels[batch.kept[0]] >= 0).mean() / (labels >= 0).mean())
    assert min(shares) < 3
    assert max(shares) > 6


def test_words_are_known_and_read_well(processor):
    text = "USER: Is there a red circle, and a blue star? ASSISTANT: yes</s>"
    ids = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.unk_token_id not in ids
    read = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert read == "user : is there a red circle, and a blue star? assistant : yes"
    assert processor.tokenizer.convert_ids_to_tokens(processor.tokenizer("zebra")["input_ids"]) == ["<s>", "<unk>"]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("interrupted", [("words", 1), ("words", 2), ("tuning", 0)])
def test_a_resumed_run_ends_at_the_same_weights(tmp_path, interrupted):
    name, step = interrupted
    whole = training.Run(tmp_path / "whole", snapshot_every=2, precision=torch.float32)
    broken = replace(whole, folder=tmp_path / "broken")
    expected, _ = training.train(whole, STAGES)

    calls = []

    def failing(loss):
        def fails(learner, rng, size):
            calls.append(size)
            if len(calls) > step:
                raise KeyboardInterrupt
            return loss(learner, rng, size)

        return fails

    stages = tuple(replace(stage, loss=failing(stage.loss)) if stage.name == name else stage for stage in STAGES)
    with pytest.raises(KeyboardInterrupt):
        training.train(broken, stages)
    resumed, seconds = training.train(broken, STAGES)

    assert list(seconds) == [stage.name for stage in STAGES]
    for key, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_words_are_orthogonal_and_background_words_lean_towards_the_image():
    ids = {word: index for index, word in enumerate(words())}
    embeddings = build_model(seed=0).get_input_embeddings().weight
    cosines = embeddings @ embeddings.T
    plain = [ids[word] for word in ids if word not in (IMAGE, *BACKGROUND_WORDS)]
    torch.testing.assert_close(cosines[plain][:, plain], torch.eye(len(plain)), atol=1e-5, rtol=0)
    leaning = cosines[ids[IMAGE], [ids[word] for word in BACKGROUND_WORDS]]
    torch.testing.assert_close(leaning, torch.full_like(leaning, 0.7), atol=1e-5, rtol=0)


def test_an_object_s_patch_is_written_as_its_two_words():
    learner = training.Learner(seed=0)
    batch = sample_batch(learner.encoder, np.random.default_rng(1), 1)
    written = learner.symbolic_patches(batch)[0]
    embed = learner.model.get_input_embeddings()
    labels = batch.scenes[0].patch_labels()
    for index, item in enumerate(batch.scenes[0].objects):
        expected = embed(torch.tensor(learner.encoder.ids(item.name))).sum(0)
        assert torch.equal(written[labels == index], expected.expand(int((labels == index).sum()), -1))
    background = embed(torch.tensor(learner.encoder.image_id))
    assert torch.equal(written[labels < 0], background.expand(int((labels < 0).sum()), -1))


@pytest.mark.usefixtures("one_thread")
def test_a_stage_trains_its_parts_and_no_others(tmp_path):
    run = training.Run(tmp_path, precision=torch.float32)
    before = training.Learner(run.seed).state_dict()
    after = training.train(run, STAGES[:1])[0].state_dict()
    changed = {part_of(key) for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"tower", "head"}


def test_a_snapshot_of_another_run_is_refused(tmp_path):
    run = training.Run(tmp_path, precision=torch.float32)
    training.train(run, ())
    run.snapshot.parent.mkdir(exist_ok=True)
    torch.save({"run": ["another"]}, run.snapshot)
    with pytest.raises(ValueError, match="belongs to a run with another seed"):
        training.train(run, STAGES[:1])


@pytest.mark.usefixtures("one_thread")
def test_later_stages_may_change_and_those_that_ran_may_not(tmp_path):
    run = training.Run(tmp_path, precision=torch.float32)
    sight, words = STAGES[:2]
    seen = training.train(run, (sight,))[0].state_dict()
    longer, seconds = training.train(run, (sight, replace(words, steps=1)))
    assert list(seconds) == ["sight", "words"]
    assert all(torch.equal(seen[key], value) for key, value in longer.state_dict().items() if part_of(key) == "tower")
    with pytest.raises(ValueError, match="belongs to a run with another seed, precision or stages"):
        training.train(run, (replace(sight, steps=2), words))


def test_rates_warm_up_and_fall():
    rates = [training.rate_factor(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[99] > 0.97
    assert rates[-1] == pytest.approx(0.03, abs=1e-3)


def test_a_failed_run_leaves_the_old_checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")

    def fail_half_way():
        with replaced_when_complete(folder) as unfinished:
            (unfinished / "config.json").write_text(json.dumps({"half": "written"}))
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        fail_half_way()
    assert (folder / "config.json").read_text() == "{}"
    with replaced_when_complete(folder) as unfinished:
        (unfinished / "new.json").write_text("{}")
    assert [path.name for path in folder.iterdir()] == ["new.json"]


@pytest.mark.parametrize(
    ("complete", "mmtok", "text", "refused"),
    [(0.98, 0.96, 0.95, False), (0.96, 0.96, 0.95, True), (0.98, 0.94, 0.9, True), (0.98, 0.96, 0.96, True)],
)
def test_a_model_that_does_not_see_well_is_refused(complete, mmtok, text, refused):
    def score(accuracy):
        return Score(accuracy=accuracy, f1=accuracy, yes_ratio=0.5)

    scores = {name: {"4": score(0.5)} for name in COMPARED}
    scores |= {"all tokens": {"all": score(complete)}, "MMTok": {"4": score(mmtok)}, "text rows": {"4": score(text)}}
    if refused:
        with pytest.raises(ValueError, match=r"with all tokens and .* with four chosen by MMTok"):
            require_targets(scores)
    else:
        require_targets(scores)
