"""The later selection rules: the plain one equals ours, swaps never cover less, the image comes first."""

from __future__ import annotations

import pytest
import torch

from benchmarks.objects.held_out import USUAL
from benchmarks.quality.crop_sharing import BestNominee, OneObjective
from benchmarks.quality.crops_reader import CLUTTERED, make_crops_checkpoint
from benchmarks.quality.later_rules import LaterRule, Rows, staged, swapped
from benchmarks.quality.runs import drawn
from benchmarks.quality.token_sizes import Merged, biased_generate, log_sizes, owners
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.encoded import EncodedBatch
from mmtok.evaluation.pruned_generation import generate_by_selector
from mmtok.evaluation.selectors import CropView
from mmtok.hub.coverage import coverage_value, greedy_coverage
from mmtok.hub.objective import coverage_matrix
from mmtok.tiny import checkpoint_path


def crop(seed: int) -> CropView:
    generator = torch.Generator().manual_seed(seed)
    text, vision, raw = (torch.randn(count, 6, generator=generator) for count in (3, 12, 12))
    return CropView(text=text, vision=vision, raw_vision=raw, row=torch.arange(12) // 4, column=torch.arange(12) % 4)


@pytest.mark.parametrize("seed", range(5))
def test_without_a_rule_the_picks_are_greedy_maximisation(seed: int) -> None:
    view = crop(seed)
    wanted = greedy_coverage(coverage_matrix(view.text, view.vision, view.raw_vision), 5).indices
    assert torch.equal(LaterRule("greedy").select(view, 5).indices, wanted)


@pytest.mark.parametrize("seed", range(5))
def test_swaps_cover_at_least_as_much_and_no_single_swap_is_left(seed: int) -> None:
    matrix = torch.rand(7, 9, generator=torch.Generator().manual_seed(seed))
    picked = swapped(matrix, [0, 1, 2])
    value = coverage_value(matrix, torch.tensor(picked))
    assert value >= coverage_value(matrix, torch.tensor([0, 1, 2]))
    for place in range(3):
        for other in set(range(9)) - set(picked):
            exchanged = [*picked[:place], other, *picked[place + 1 :]]
            assert coverage_value(matrix, torch.tensor(exchanged)) <= value * (1 + 1e-5)


def test_the_image_comes_before_the_text() -> None:
    text = torch.tensor([[0.0, 0.0, 0.9, 0.1]])
    vision = torch.tensor([[0.5, 0.0, 0.0, 0.1], [0.0, 0.4, 0.0, 0.1]])
    assert staged(text, vision, 3, 0.9, text_picks=0) == [0, 1, 2]
    assert staged(text, vision, 3, 0.5, text_picks=0) == [0, 2, 1]
    assert staged(text, vision, 3, 0.9, text_picks=1) == [2, 0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_the_crop_with_the_best_nominee_gets_the_token(seed: int) -> None:
    views = [crop(10 * seed + number) for number in range(3)]
    kept = BestNominee("nominee").select_together(views, 2)
    matrices = [torch.cat(Rows.of(view, {}).weighted) for view in views]
    best = [matrix.new_zeros(len(matrix)) for matrix in matrices]
    wanted: list[list[int]] = [[], [], []]
    for _ in range(3 * 2):
        gains = [(matrix - had[:, None]).clamp_min(0).sum(0) for matrix, had in zip(matrices, best, strict=True)]
        owner = max(range(3), key=lambda number: float(gains[number].max()))
        wanted[owner].append(int(gains[owner].argmax()))
        best[owner] = torch.maximum(best[owner], matrices[owner][:, wanted[owner][-1]])
    assert [picks.indices.tolist() for picks in kept] == wanted


def test_one_objective_chooses_from_the_tokens_of_all_crops() -> None:
    views = [crop(1), crop(2)]
    joined = CropView(
        text=views[0].text,
        vision=torch.cat([view.vision for view in views]),
        raw_vision=torch.cat([view.raw_vision for view in views]),
        row=torch.arange(24),
        column=torch.arange(24),
    )
    wanted = LaterRule("greedy").select(joined, 10).indices
    first, second = OneObjective("one").select_together(views, 5)
    assert sorted(first.indices.tolist() + (second.indices + 12).tolist()) == sorted(wanted.tolist())


def test_one_objective_is_the_model_s_own_shared_budget(tmp_path) -> None:
    checkpoint = Checkpoint.load(make_crops_checkpoint(checkpoint_path(), tmp_path / "reader"))
    inputs = checkpoint.inputs(["Is there a dog in the image?"] * 2, [i.image for i in drawn(CLUTTERED, 2, 5, scale=2)])
    encoded = EncodedBatch.of(checkpoint.model, inputs, (), [0, 0])
    for budget in (8, 1):
        own = checkpoint.model.select_vision_tokens(**inputs, vision_token_budget=budget, budget_scope="image")
        assert torch.equal(encoded.pruned(checkpoint.model, OneObjective("one"), budget).kept, own.kept_mask)


def test_a_budget_above_a_crop_s_tokens_is_not_spent_on_others() -> None:
    kept = BestNominee("nominee").select_together([crop(1), crop(2)], 50)
    assert [len(picks.indices) for picks in kept] == [12, 12]


def test_a_dropped_token_belongs_to_the_kept_one_that_it_is_most_alike() -> None:
    raw = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.2], [2.0, 0.1], [0.0, 3.0]])
    assert owners(raw, torch.tensor([1, 0])).tolist() == [1, 0, 1, 1, 0]
    # Of equal tokens that are both kept, each owns itself.
    assert owners(raw[[0, 0, 1]], torch.tensor([0, 1])).tolist()[:2] == [0, 1]


def test_merging_keeps_the_mean_of_what_belongs_together() -> None:
    view = crop(3)
    kept, merged = LaterRule("greedy").select(view, 4).indices, Merged("merging").select(view, 4)
    owner = owners(view.raw_vision, kept)
    assert merged.indices.tolist() == kept.tolist()
    assert merged.raw_vision is not None
    for number in range(4):
        torch.testing.assert_close(merged.raw_vision[number], view.raw_vision[owner == number].mean(0))
    half = Merged("half", share=0.5).select(view, 4).raw_vision
    torch.testing.assert_close(half, (merged.raw_vision + view.raw_vision[kept]) / 2)


def test_without_a_bias_the_answers_are_those_of_generate() -> None:
    checkpoint, rule = Checkpoint.load(checkpoint_path()), LaterRule("greedy")
    questions = ["What animal is in the image?", "Is there a dog in the image?"]
    inputs = checkpoint.inputs(questions, [item.image for item in drawn(USUAL, 2, seed=5)])
    encoded = EncodedBatch.of(checkpoint.model, inputs, (), [0, 0])
    for budget in (4, 144):
        pruned = encoded.pruned(checkpoint.model, rule, budget)
        bias = log_sizes(encoded, pruned, rule, budget)
        wanted, _ = generate_by_selector(checkpoint, inputs, encoded, rule, budget, 3)
        assert biased_generate(checkpoint, pruned, torch.zeros_like(bias), 3) == wanted
        assert bias[pruned.vision_slots].exp().round().sum() == 2 * 144
    assert not bias.any()
