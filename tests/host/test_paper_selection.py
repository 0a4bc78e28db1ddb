"""The preset `paper` on models: the reference's picks among all tokens of all crops, padding included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import FAMILIES, IMAGE, TOKENS_PER_CROP, Family, crops_of

from benchmarks.reference import select_crop
from mmtok.hub.options import PAPER_OPTIONS

BUDGET = 5


@pytest.fixture(params=["llava", "llava_next"])
def family(request: pytest.FixtureRequest) -> Family:
    """The families that the paper's selection is for; the others refuse it."""
    return FAMILIES[request.param]


# (height, width): no padding in the tiles, padding above and below, padding at the sides, and a strip.
SIZES = [(48, 48), (20, 40), (30, 20), (9, 70)]


def reference(
    model: Any, inputs: dict[str, torch.Tensor], image: int, size: tuple[int, int], words: torch.Tensor
) -> Any:
    """For each crop the picks and the features of all tokens, encoded without our code."""
    pixels = inputs["pixel_values"][image]
    crops = pixels[None] if pixels.dim() == 3 else pixels[: crops_of(size)]
    raw = model.model.vision_tower(crops, output_hidden_states=True).hidden_states[-2][:, 1:]
    projected = model.model.multi_modal_projector(raw)
    return [select_crop(words, *each, BUDGET) for each in zip(projected, raw, strict=True)], projected


@torch.no_grad()
def test_the_reference_picks_of_every_crop(family: Family) -> None:
    model, _ = family.models()
    inputs = family.inputs([(3, size, 4) for size in SIZES], model)
    found = model.select_vision_tokens(**inputs, **PAPER_OPTIONS, vision_token_budget=BUDGET).images
    for number, size in enumerate(SIZES):
        ids = inputs["input_ids"][number][inputs["attention_mask"][number].bool()][1:]
        words = model.get_input_embeddings()(ids[ids != IMAGE])
        picks, _ = reference(model, inputs, number, size, words)
        places = found[number].row * 4 + found[number].column
        for crop, wanted in enumerate(picks):
            own = found[number].crop == crop
            assert places[own][found[number].pick_order[own].argsort()].tolist() == wanted


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_the_language_model_reads_the_kept_tokens_crop_after_crop(family: Family, size: tuple[int, int]) -> None:
    model, stock = family.models()
    inputs = family.inputs([(3, size, 4)], model)
    ids = inputs["input_ids"][0]
    embed = model.get_input_embeddings()
    picks, projected = reference(model, inputs, 0, size, embed(ids[1:][ids[1:] != IMAGE]))
    kept = torch.cat([tokens[sorted(chosen)] for tokens, chosen in zip(projected, picks, strict=True)])
    wanted = stock.model.language_model(
        inputs_embeds=torch.cat([embed(ids[:4]), kept, embed(ids[-4:])])[None]
    ).last_hidden_state
    options = {**PAPER_OPTIONS, "vision_token_budget": BUDGET}
    output = model(**inputs, **options, output_hidden_states=True)
    read = output.kept_mask[0]
    assert int(read.sum()) == wanted.shape[1]
    assert torch.allclose(output.hidden_states[-1][0, read], wanted[0], atol=1e-5)
    generated = model.generate(**inputs, **options, max_new_tokens=3, do_sample=False)
    assert torch.equal(generated[0, : len(ids)], ids)
    assert int(generated[0, len(ids)]) == int(output.logits[0, -1].argmax())


@torch.no_grad()
def test_rows_of_a_batch_do_not_matter(family: Family) -> None:
    model, _ = family.models()
    inputs = family.inputs([(3, size, 4) for size in SIZES], model)
    options = {**PAPER_OPTIONS, "vision_token_budget": BUDGET}
    together = model.generate(**inputs, **options, max_new_tokens=3, do_sample=False)
    encoded = model.encode_images(**{name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs})
    for number in range(len(SIZES)):
        real = inputs["attention_mask"][number].bool()
        alone = model.generate(
            input_ids=inputs["input_ids"][number : number + 1, real],
            encoded_images=encoded[number],
            **options,
            max_new_tokens=3,
            do_sample=False,
        )
        assert alone[0, -3:].tolist() == together[number, -3:].tolist()


def test_more_kept_tokens_than_the_prompt_has_places_are_refused(family: Family) -> None:
    model, _ = family.models()
    if family.name == "llava":
        pytest.skip("an image of LLaVA-1.5 has a place for each of its tokens")
    inputs = family.inputs([(3, (9, 70), 4)], model)
    with pytest.raises(
        ValueError, match=r"60 tokens of an image are kept before padding is removed, but its prompt has"
    ):
        model.generate(**inputs, **PAPER_OPTIONS, vision_token_budget=TOKENS_PER_CROP - 1)


@torch.no_grad()
def test_a_budget_for_every_token_is_stock(family: Family) -> None:
    model, stock = family.models()
    inputs = family.inputs([(3, size, 4) for size in SIZES], model)
    output = model(**inputs, **PAPER_OPTIONS, vision_token_budget=TOKENS_PER_CROP)
    assert torch.equal(output.logits, stock(**inputs).logits)


@torch.no_grad()
def test_embeddings_give_the_rows_of_their_ids(family: Family) -> None:
    model, _ = family.models()
    inputs = family.inputs([(3, (20, 40), 4)], model)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    by_ids = model.select_vision_tokens(**inputs, vision_token_budget=BUDGET).images[0]
    del inputs["input_ids"]
    by_embeds = model.select_vision_tokens(inputs_embeds=embeds, **inputs, vision_token_budget=BUDGET).images[0]
    assert torch.equal(by_ids.indices, by_embeds.indices)
