"""Training of the model that reads: tokens, tower, truth, stages, processes and the checkpoint."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.reading.architecture import (
    build_model,
    character_place,
    export_checkpoint,
    to_patches,
    token_ids,
    tokenizer,
    tower_features,
)
from benchmarks.reading.conversations import Encoder, Seen, answer_logits, converse
from benchmarks.reading.evaluate import QwenImageProcessor
from benchmarks.reading.learners import LanguageLearner, SightLearner, Words, sample_grid, some_dropped, write_scenes
from benchmarks.reading.truth import NONE, UNKNOWN, scene_truth
from benchmarks.training.loop import Muon, Run, Stage, train_stage
from mmtok.tiny.prints import CHARACTERS, COLORS, Print
from mmtok.tiny.questions import SHORT_ANSWER, Question
from mmtok.tiny.reading import NAMES, ReadingSettings, sample_reading_scene
from mmtok.tiny.scenes import Scene, SceneObject, draw


@pytest.fixture(scope="module")
def model() -> Qwen2_5_VLForConditionalGeneration:
    return build_model(0).eval()


def test_every_question_and_answer_is_of_whole_words() -> None:
    own = tokenizer()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scene = sample_reading_scene(ReadingSettings(), 8, 8, rng, kind="mixed")
        for turn in converse(scene, rng) if scene.objects or scene.prints else ():
            assert len(own.tokenize(turn.text)) == len(turn.text.split()) + turn.text.count("?") + (
                2 if SHORT_ANSWER in turn.text else 0
            )
            assert len(own.tokenize(turn.answer)) == (1 if turn.answer.islower() else len(turn.answer))
            assert own.decode(own.encode(turn.answer)) == turn.answer
    text = "An unknown wörd."
    assert own.decode(own.encode(text)) == text


def test_words_are_unit_vectors_and_the_same_with_and_without_a_space(
    model: Qwen2_5_VLForConditionalGeneration,
) -> None:
    weight, ids = model.get_input_embeddings().weight.detach(), token_ids()
    assert list(ids.values()) == list(range(len(weight)))
    assert torch.allclose(weight.norm(dim=1), torch.ones(len(ids)), atol=1e-5)
    assert torch.equal(weight[ids["dog"]], weight[ids["Ġdog"]])
    assert float(weight[ids["Ġdog"]] @ weight[ids["Ġanimal"]]) == pytest.approx(0.45, abs=1e-5)
    assert float(weight[ids["Ġdog"]] @ weight[ids["Ġred"]]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (5, 4)])
def test_the_tower_is_that_of_stock(model: Qwen2_5_VLForConditionalGeneration, grid: tuple[int, int]) -> None:
    rows, columns = grid
    pixels = np.random.default_rng(0).integers(0, 255, (2, 28 * rows, 28 * columns, 3)).astype(np.uint8)
    patches = to_patches(pixels)
    doubled = patches.reshape(-1, 3, 1, 196).expand(-1, -1, 2, -1).reshape(-1, 1176)
    with torch.no_grad():
        own, _ = tower_features(model, patches, rows, columns)
        stock = model.model.visual(doubled, grid_thw=torch.tensor([[1, 2 * rows, 2 * columns]] * 2))
    assert torch.allclose(own.flatten(0, 1), getattr(stock, "pooler_output", stock), atol=1e-5)


def test_places_are_counted_from_both_ends() -> None:
    assert [character_place(index, 3) for index in range(3)] == [0, 1, 3]
    assert [character_place(index, 4) for index in range(4)] == [0, 1, 2, 3]


def test_truth_of_a_print_and_an_object() -> None:
    line = Print("KX74", "blue", 0, 22.0, x=30.0, y=30.0)
    item = SceneObject("dog", "noto", 0, x=98.0, y=98.0, size=40.0)
    scene = Scene("park", (item,), ("park", 0), 0, (112, 140), (line,))
    truth = scene_truth(scene, draw(scene, grid=(4, 5)).coverage, 4, 5)
    for index, (character, (left, right)) in enumerate(zip("KX74", 30 + line.edges(), strict=True)):
        token = 5 + int((left + right) / 2 / 28)
        assert truth.places[token, index] == CHARACTERS.index(character)
        assert truth.halves[int((30 + 22 / 2) / 14), int((left + right) / 2 / 7)] == CHARACTERS.index(character)
        assert truth.colors[token, list(COLORS).index("blue")] == 1
        assert truth.kinds[token].tolist() == [1, 0]
    assert set(truth.places.unique().tolist()) <= {NONE, UNKNOWN, *(CHARACTERS.index(each) for each in "KX74")}
    assert truth.objects.argmax(0)[NAMES.index("dog")] == 3 * 5 + 3
    assert truth.objects.sum(0).count_nonzero() == 1
    assert truth.shares[[0, 4]].tolist() == [0, 0]
    # Shrunk to a quarter of the height, characters are too small to tell.
    small = scene_truth(scene, draw(scene, grid=(1, 2)).coverage, 1, 2)
    assert set(small.places.unique().tolist()) <= {NONE, UNKNOWN}


def test_tokens_are_written_as_what_they_show(model: Qwen2_5_VLForConditionalGeneration) -> None:
    words, ids = Words(model), token_ids()
    item = SceneObject("dog", "noto", 0, x=42.0, y=42.0, size=56.0)
    scene = Scene("park", (item,), ("park", 0), 0, (84, 84))
    written = words(scene_truth(scene, draw(scene, grid=(3, 3)).coverage, 3, 3))
    likest = (written @ model.get_input_embeddings().weight.T).argmax(-1)
    assert likest[4] in (ids["dog"], ids["Ġdog"])
    assert likest[8] == ids["<|image_pad|>"]


def test_conversations_are_those_of_the_template_at_the_positions_of_stock(
    model: Qwen2_5_VLForConditionalGeneration, tmp_path: Path
) -> None:
    export_checkpoint(model, tmp_path)
    processor = QwenImageProcessor(tmp_path)
    turns = [Question("What is written in red?", "KX74", "red"), Question("Is there a dog in the image?", "no", "dog")]
    content = [{"type": "image"}, {"type": "text", "text": turns[0].text}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": turns[0].answer},
        {"role": "user", "content": turns[1].text},
        {"role": "assistant", "content": turns[1].answer},
    ]
    image = Image.fromarray(np.zeros((112, 140, 3), np.uint8))
    inputs = processor(images=[image], text=[processor.apply_chat_template(messages)], return_tensors="pt")
    ids, labels, positions = Encoder().encode([Seen(torch.zeros(20, 160), 4, 5, torch.arange(20))], [turns])
    length = ids.shape[1]
    assert ids.tolist() == inputs["input_ids"][:, :length].tolist()
    stock, _ = model.model.get_rope_index(
        inputs["input_ids"], image_grid_thw=inputs["image_grid_thw"], mm_token_type_ids=inputs["mm_token_type_ids"]
    )
    assert torch.equal(positions, stock[:, :, :length])
    assert tokenizer().decode(labels[labels >= 0]) == "KX74<|im_end|>no<|im_end|>"


def test_losing_tokens_leaves_the_others_where_they_were() -> None:
    shares = torch.tensor([0.0, 0.5, 0.0, 1.0])
    tokens_of_image = torch.arange(4.0)[:, None]
    lost = 0
    for seed in range(20):
        seen = some_dropped(tokens_of_image, shares, (2, 2), np.random.default_rng(seed))
        assert {1, 3} <= set(seen.kept.tolist())
        assert seen.tokens[:, 0].tolist() == seen.kept.tolist()
        lost += len(seen.kept) < 4
    assert 0 < lost < 20


def test_grids_are_of_any_shape() -> None:
    rng = np.random.default_rng(0)
    grids = [sample_grid(rng) for _ in range(400)]
    counts = [rows * columns for rows, columns in grids]
    assert min(counts) < 10
    assert 200 < max(counts) <= 300
    assert all(max(grid) <= 4 * min(grid) for grid in grids)


@pytest.mark.parametrize("stage", ["sight", "imitate", "tune"])
def test_a_stage_learns_what_it_is_to_and_nothing_else(stage: str, tmp_path: Path) -> None:
    model = build_model(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner: SightLearner | LanguageLearner
    if stage == "sight":
        learner = SightLearner(model, 16)
    else:
        learner = LanguageLearner(model, 4, write_scenes(model, 3, [0]) if stage == "tune" else ())
    train_stage(Run(tmp_path), Stage(stage, 9, 2, 1e-3, 1e-3, warm_up=1), learner, learner.loss)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    parts = {name.split(".")[1] if name.startswith("model.") else name.split(".")[0] for name in changed}
    assert parts == ({"visual"} if stage == "sight" else {"language_model", "lm_head"})
    assert not any("embed_tokens" in name for name in changed)


def test_the_language_model_reads_what_stock_reads(model: Qwen2_5_VLForConditionalGeneration, tmp_path: Path) -> None:
    export_checkpoint(model, tmp_path, torch.float32)
    processor, encoder = QwenImageProcessor(tmp_path), Encoder()
    scene = sample_reading_scene(ReadingSettings(), 4, 6, np.random.default_rng(0), kind="signs")
    turn = Question("What is written in red?", "KX74")
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": turn.text}]}],
        add_generation_prompt=True,
    )
    inputs = processor(images=[scene.image()], text=[prompt], return_tensors="pt")
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        written, _ = tower_features(model, to_patches(draw(scene).pixels[None]), 4, 6)
        logits, _, _ = answer_logits(model, encoder, [Seen(written[0], 4, 6, torch.arange(24))], [[turn]])
        expected = stock(**inputs).logits[0, -1]
    assert torch.allclose(logits[0], expected, atol=1e-3)


def test_the_checkpoint_is_read_by_stock_qwen(model: Qwen2_5_VLForConditionalGeneration, tmp_path: Path) -> None:
    export_checkpoint(model, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 8e6
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert loaded.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(value.bfloat16().float(), loaded.state_dict()[name]), name


def test_muon_takes_the_steps_of_pytorchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    own, theirs = (nn.Parameter(torch.ones(12, 20)) for _ in range(2))
    optimizers = [
        Muon([own], lr=0.1, weight_decay=0.02),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(4):
        own.grad = torch.randn(12, 20, generator=generator)
        theirs.grad = own.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert (own - 1).abs().max() > 0.1
    assert torch.allclose(own, theirs, atol=0.01)  # theirs is computed in bfloat16


def _learn(rank: int, folder: Path, processes: int) -> None:
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    learner = nn.ModuleDict({"projector": nn.Linear(3, 2)})
    layer = learner["projector"]
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    ranks = [rank] if processes > 1 else [0, 1]

    def loss(rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, float]]:
        inputs = torch.tensor([[1.0, 2.0, 4.0], [3.0, -1.0, 0.5]])[ranks]
        return (layer(inputs) - inputs[:, :2]).square().mean(), {}

    # In bfloat16, which processors with AVX-512 would take, the last bit of a gradient shows.
    with patch("benchmarks.training.loop.compute_dtype", return_value=torch.float32):
        train_stage(Run(folder), Stage("own", 1, 3, 0.01, 0.01, warm_up=1), learner, loss)
    torch.save(learner.state_dict(), folder / f"{rank}.pt")


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """Each with a half of the batch; the first alone writes the snapshot."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    _learn(0, alone, 1)
    mp.spawn(_learn, (together, 2), nprocs=2)
    expected = torch.load(alone / "0.pt")
    for name in ("0.pt", "1.pt"):
        for key, value in torch.load(together / name).items():
            assert torch.allclose(value, expected[key], atol=1e-6)
    assert (together / "own.pt").exists()
