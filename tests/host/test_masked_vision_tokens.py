"""Vision tokens that the attention mask hides are not candidates: the model would not read them."""

from __future__ import annotations

import pytest
import torch
from model_cases import FAMILIES, IMAGE, Family

from configuration_mmtok import PruningOptions
from mmtok.hub.images import Layout
from mmtok.hub.selection import crops_of

ROWS = [[3, (48, 48), 4], [3, (48, 48), 4]]


def half_hidden(family: Family) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs of two rows, in the first of which every other vision token is hidden, and (B, L) where."""
    model, _ = family.models()
    inputs = family.inputs(ROWS, model)
    hidden = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    hidden[0, torch.nonzero(inputs["input_ids"][0] == IMAGE)[::2, 0]] = True
    return {**inputs, "attention_mask": inputs["attention_mask"] * ~hidden}, hidden


@pytest.mark.parametrize("options", [{}, {"budget_scope": "image"}, {"coverage_target": 0.9}])
def test_hidden_tokens_are_dropped_and_others_take_their_place(family: Family, options: dict[str, object]) -> None:
    model, _ = family.models()
    inputs, hidden = half_hidden(family)
    seen = model.select_vision_tokens(**inputs, vision_token_budget=2, **options)
    assert not bool((seen.kept_mask & hidden).any())
    if not options:
        assert len(seen.images[0].indices) == len(seen.images[1].indices)


def test_an_image_that_is_hidden_altogether_is_dropped_altogether(family: Family) -> None:
    model, _ = family.models()
    inputs, hidden = half_hidden(family)
    hidden[0] = inputs["input_ids"][0] == IMAGE
    inputs = {**inputs, "attention_mask": inputs["attention_mask"] * ~hidden}
    seen = model.select_vision_tokens(**inputs, vision_token_budget=2)
    assert not bool((seen.kept_mask & hidden).any())
    assert len(model.generate(**inputs, vision_token_budget=2, max_new_tokens=2)) == 2


# Stock's Qwen-VL counts no positions for an image of which a part is hidden.
@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision"])
@torch.no_grad()
def test_with_a_full_budget_hidden_tokens_are_what_they_are_in_stock(name: str) -> None:
    family = FAMILIES[name]
    model, stock = family.models()
    inputs, _ = half_hidden(family)
    assert torch.equal(model(**inputs, vision_token_budget=1.0).logits, stock(**inputs).logits)


def test_candidates_of_a_crop_with_hidden_tokens() -> None:
    layout = Layout.of(torch.arange(8), crops=2, tokens_per_crop=4, columns=2)
    readable = torch.tensor([1, 0, 0, 1, 1, 1, 1, 0]).bool()
    first, second = crops_of([layout], None, PruningOptions(vision_token_budget=3), [readable])
    assert first.candidates.tolist() == [True, False, False, True]
    assert (first.picks, second.picks) == (2, 3)
    [shared] = crops_of([layout], None, PruningOptions(vision_token_budget=3, budget_scope="image"), [readable])
    assert (shared.budget, shared.picks) == (6, 5)
    assert all(bool(crop.candidates.all()) for crop in crops_of([layout], None, PruningOptions(), [readable]))


def test_the_paper_s_selection_before_unpadding_cannot_tell_which_are_hidden() -> None:
    family = FAMILIES["llava_next"]
    model, _ = family.models()
    inputs, _ = half_hidden(family)
    with pytest.raises(ValueError, match="attention_mask hides vision tokens, and padding 'include' moves"):
        model.generate(**inputs, vision_token_budget=2, padding="include")
