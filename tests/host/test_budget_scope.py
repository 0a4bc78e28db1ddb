"""`budget_scope="image"`: one selection for all crops of an image, with the sum of their budgets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import Family, question_embeddings

from mmtok.hub.coverage import greedy_coverage
from mmtok.hub.images import EncodedVision, Layout
from mmtok.hub.objective import coverage_matrix
from mmtok.hub.options import PruningOptions
from mmtok.hub.selection import crops_of, select

BUDGET = 3
SHARED: dict[str, Any] = {"vision_token_budget": BUDGET, "budget_scope": "image"}
ROWS = [[3, (48, 48), 4], [2, (24, 48), 5], [4, (24, 24), 2], [1, (30, 20), 3, (50, 50), 4]]


@torch.no_grad()
def test_the_tokens_of_all_crops_are_covered_and_chosen_from_together(family: Family) -> None:
    model, _ = family.models()
    inputs = family.inputs(ROWS, model)
    shared = model.select_vision_tokens(**inputs, **SHARED)
    by_crop = model.select_vision_tokens(**inputs, vision_token_budget=BUDGET)
    prompt = model.read_prompt(inputs["input_ids"], None, inputs["attention_mask"])
    text, mask = question_embeddings(model, prompt)
    prompt, encoded = model.arrange(prompt, model.encode_images(**family.images(inputs)))
    options = PruningOptions.from_config(model.config)
    temperatures = ("text_temperature", "vision_temperature")
    settings = {name: getattr(options, name) for name in temperatures}
    for number, (image, own) in enumerate(zip(shared.images, by_crop.images, strict=True)):
        tokens = torch.nonzero(encoded.layouts[number].crop >= 0)[:, 0]
        words = text[image.batch_row][mask[image.batch_row]]
        raw = encoded.raw[number][encoded.layouts[number].source[tokens]]
        matrix = coverage_matrix(
            words, encoded.projected[number][tokens], raw, vision_weight=options.vision_coverage_weight, **settings
        )
        wanted = tokens[greedy_coverage(matrix, len(own.indices)).indices]
        assert image.indices[image.pick_order.argsort()].tolist() == wanted.tolist()
        if len(encoded.layouts[number].crop.unique()) == 1:
            assert torch.equal(image.indices, own.indices)
    several = [crops for layout in encoded.layouts if (crops := len(layout.crop[layout.crop >= 0].unique())) > 1]
    assert bool(several) == (family.crops > 1)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(family: Family) -> None:
    model, _ = family.models()
    rows = [row for row in ROWS if len(row) == 3]
    inputs = family.inputs(rows, model)
    together = model.generate(**inputs, **SHARED, max_new_tokens=4, do_sample=False)[:, -4:]
    for number in range(len(rows)):
        alone = family.single(inputs, number, slice(number, number + 1))
        assert torch.equal(
            model.generate(**alone, **SHARED, max_new_tokens=4, do_sample=False)[0, -4:], together[number]
        )


@torch.no_grad()
def test_the_language_model_reads_the_chosen_tokens_in_the_order_of_the_prompt(family: Family) -> None:
    model, _ = family.models()
    inputs = family.inputs([[3, (48, 48), 4]], model)
    kept = model.select_vision_tokens(**inputs, **SHARED)
    output = model(**inputs, **SHARED)
    assert torch.equal(output.kept_mask, kept.kept_mask)
    every = model(**inputs, vision_token_budget=1.0, budget_scope="image")
    assert torch.equal(every.logits, model(**inputs, vision_token_budget=None).logits)


def test_a_staged_configuration_carries_the_scope(family: Family, tmp_path: Any) -> None:
    family.config(**SHARED).save_pretrained(tmp_path)
    assert family.config_class.from_pretrained(tmp_path).budget_scope == "image"


def test_budgets_and_candidates_of_the_crops_are_added_up() -> None:
    source = torch.tensor([0, 1, 2, -1, 3, 4, 5, 6, 7, -1])
    layout = Layout.of(source, crops=2, tokens_per_crop=4, columns=2)
    allowed = torch.tensor([1, 0, 0, 0, 1, 1, 1, 1, 1, 0]).bool()
    [shared] = crops_of([layout], [allowed], PruningOptions(**SHARED))
    assert shared.tokens.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert shared.budget == 2 * BUDGET
    assert shared.candidates.tolist() == [True, False, False, True, True, True, True, True]
    assert shared.picks == 6
    [half] = crops_of([layout], None, PruningOptions(vision_token_budget=0.5, budget_scope="image"))
    assert half.budget == 4
    assert [crop.budget for crop in crops_of([layout], None, PruningOptions(vision_token_budget=BUDGET))] == [3, 3]


def test_a_crop_that_shows_what_is_asked_for_gets_the_budget_of_one_that_does_not() -> None:
    # The first crop shows both words, the second neither.
    words = torch.eye(4)[:2]
    vision = torch.stack([words[0], words[1], *torch.eye(4)[2:]])
    layout = Layout.of(torch.arange(4), crops=2, tokens_per_crop=2, columns=2)
    encoded = EncodedVision([vision], [vision], [layout])

    def kept(scope: str) -> list[int]:
        options = PruningOptions(vision_token_budget=1, vision_coverage_weight=0, budget_scope=scope)
        chosen = select(encoded, words[None], torch.ones(1, 2, dtype=torch.bool), options)
        return torch.nonzero(chosen.flags)[:, 0].tolist()

    assert kept("image") == [0, 1]
    assert kept("crop") == [0, 2]


def test_each_scope_is_wider_than_the_one_before() -> None:
    image, video = (
        Layout.of(torch.arange(12), crops=3, tokens_per_crop=4, columns=2, is_video=is_video)
        for is_video in (False, True)
    )
    for scope, images, videos in (
        ("crop", [3, 3, 3], [3, 3, 3]),
        ("image", [9], [3, 3, 3]),
        ("video", [9], [9]),
    ):
        options = PruningOptions(vision_token_budget=BUDGET, budget_scope=scope)
        assert [crop.budget for crop in crops_of([image], None, options)] == images
        assert [crop.budget for crop in crops_of([video], None, options)] == videos


@pytest.mark.parametrize("value", ["frame", None, True])
def test_there_are_three_scopes(value: Any) -> None:
    with pytest.raises(ValueError, match=r"budget_scope is .*: give 'crop', 'image' or 'video'"):
        PruningOptions(budget_scope=value)
