"""Methods of an evaluation get everything that MMTok's own pruning gets: with all tokens they are the stock model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from model_cases import Family

from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.encoded import EncodedBatch
from mmtok.evaluation.runner import generate_by_selector
from mmtok.evaluation.selectors import CropView, Kept, Selector

ROWS = [[3, (48, 48), 4], [(24, 48), 2]]


class Everything(Selector):
    name = "everything"

    def select(self, crop: CropView, budget: int) -> Kept:
        return Kept(torch.arange(len(crop.vision)))


@pytest.fixture
def models(family: Family) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    model, stock = family.models(vision_token_budget=3)
    return model, stock, family.inputs(ROWS, model)


def test_a_selector_that_keeps_all_tokens_has_the_logits_of_stock(
    models: tuple[Any, Any, dict[str, torch.Tensor]],
) -> None:
    model, stock, inputs = models
    found: list[torch.Tensor] = []
    heads = [each.lm_head.register_forward_hook(lambda _m, _a, logits: found.append(logits)) for each in (model, stock)]
    encoded = EncodedBatch.of(model, inputs, (), [0, 1])
    texts = SimpleNamespace(batch_decode=lambda tokens, **_: [str(row.tolist()) for row in tokens])
    answers, counts = generate_by_selector(Checkpoint(model, texts), inputs, encoded, Everything(), 1, 5)
    expected = stock.generate(**inputs, max_new_tokens=5, do_sample=False)
    for head in heads:
        head.remove()
    assert len(found) == 10
    assert all(map(torch.equal, found[:5], found[5:]))
    assert answers == [str(row.tolist()) for row in expected[:, inputs["input_ids"].shape[1] :]]
    assert counts == (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()


def test_the_attention_that_selectors_see_is_the_stock_models(
    models: tuple[Any, Any, dict[str, torch.Tensor]],
) -> None:
    model, stock, inputs = models
    encoded = EncodedBatch.of(model, inputs, {"language_attention"}, [0, 1])
    stock.set_attn_implementation("eager")
    with torch.no_grad():
        # The second layer that has attention; the recurrent models of the tests have one.
        weights = stock(**inputs, output_attentions=True).attentions[:2][-1][:, :, -1].mean(1)
    image = encoded.prompt.image_mask
    for row in range(2):
        views = [crop for crop in encoded.crops if crop.image == row]
        seen = torch.zeros(int(image[row].sum()))
        for crop in views:
            assert crop.view.language_attention is not None
            seen[crop.tokens] = crop.view.language_attention
        places = torch.cat([crop.tokens for crop in views])
        torch.testing.assert_close(seen[places], weights[row, image[row]][places])
