"""What Qwen2.5-VL adds: grids of any size, a tower that works in windows, positions in time, height and width."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from model_cases import CACHE, FAMILIES, IMAGE, VIDEO, question_embeddings

from benchmarks.reference import select_crop
from mmtok.hub import grids

FAMILY = FAMILIES["qwen2_5_vl"]
ROWS = [[3, (24, 36), 5], [2, (30, 60), 4, (60, 20), 3], [7], [(50, 50), 6]]
GREEDY: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": [IMAGE, VIDEO]}
ALL = 10**6


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return FAMILY.models()


@contextmanager
def merged(model: Any) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """What goes into the projector, the mean of each token's four patches, and what comes out: in the tower's order."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(_module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append((args[0].reshape(len(output), 4, -1).mean(1), output))

    handle = FAMILY.projector(model).register_forward_hook(record)
    try:
        yield seen
    finally:
        handle.remove()


def in_the_order_of_the_prompt(means: torch.Tensor, outputs: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
    """The means of the tokens that stock's features belong to, found by their values."""
    return means[(outputs[None] == projected[:, None]).all(-1).int().argmax(1)]


def test_the_tower_s_windows_are_undone(models: tuple[Any, Any]) -> None:
    model, _ = models
    images = FAMILY.images(FAMILY.inputs(ROWS, model))
    with torch.no_grad(), merged(model) as seen:
        encoded = model.encode_images(**images)
    [(means, outputs)] = seen
    projected, raw = torch.cat(list(encoded.projected)), torch.cat(list(encoded.raw))
    assert torch.equal(raw, in_the_order_of_the_prompt(means, outputs, projected))
    assert not torch.equal(raw, means)


def test_the_picks_are_those_of_the_reference(models: tuple[Any, Any]) -> None:
    model, stock = models
    for seed, size in enumerate([(24, 36), (60, 48), (42, 90), (12, 150)]):
        inputs = FAMILY.inputs([[3, size, 9]], model, seed=seed)
        with torch.no_grad(), merged(stock) as seen:
            features = stock.get_image_features(**FAMILY.images(inputs))
        projected = torch.cat(list(getattr(features, "pooler_output", features)))
        raw = in_the_order_of_the_prompt(*seen[0], projected)
        words = [index for index in inputs["input_ids"][0].tolist() if 3 <= index < IMAGE]
        text = stock.get_input_embeddings()(torch.tensor(words))
        # The authors' newer code rounds the share of the tokens, as is done here; the first cuts it.
        share = 0.2 * len(raw)
        for budget, options in ((round(share), {}), (int(share), {"vision_token_budget": int(share)})):
            expected = select_crop(text, projected, raw, budget, text_temperature=0.01)
            [image] = model.select_vision_tokens(**inputs, **options).images
            assert image.indices[image.pick_order.argsort()].tolist() == expected


@contextmanager
def positions_read(model: Any) -> Iterator[list[torch.Tensor]]:
    """The positions of each step: (3, R, n), or (4, R, n) with the places in the text in front."""
    read: list[torch.Tensor] = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(kwargs["position_ids"]), with_kwargs=True
    )
    try:
        yield read
    finally:
        handle.remove()


@pytest.mark.parametrize("beams", [1, 2])
def test_kept_tokens_keep_their_positions_and_decoding_goes_on_where_stock_would(
    models: tuple[Any, Any], beams: int
) -> None:
    model, stock = models
    inputs = FAMILY.inputs(ROWS, model)
    full = FAMILY.positions(stock, inputs)["position_ids"]
    kept = model.select_vision_tokens(**inputs, vision_token_budget=2).kept_mask
    with positions_read(model) as read:
        model.generate(**inputs, vision_token_budget=2, num_beams=beams, **GREEDY)
    with positions_read(stock) as expected:
        stock.generate(**inputs, num_beams=beams, **GREEDY)
    for row, flags in enumerate(kept):
        found = read[0][-3:, row * beams, -int(flags.sum()) :]
        assert torch.equal(found, full[:, row, flags])
    for ours, theirs in zip(read[1:], expected[1:], strict=True):
        assert torch.equal(ours[-3:], theirs[-3:])
    # Places in the text have no gaps: a gap would be the beginning of another sequence.
    assert all(bool((places.diff(dim=1) <= 1).all()) for places in (step[0] for step in read if len(step) == 4))


def test_a_forward_call_has_the_positions_of_generation(models: tuple[Any, Any]) -> None:
    model, stock = models
    inputs = FAMILY.inputs(ROWS, model, left=False)
    full = FAMILY.positions(stock, inputs)["position_ids"]
    with positions_read(model) as read, torch.no_grad():
        output = model(**inputs, vision_token_budget=2, use_cache=True)
        model(torch.full((4, 2), 5), **{CACHE: output[CACHE]})
    for row, flags in enumerate(output.kept_mask):
        assert torch.equal(read[0][:, row, : int(flags.sum())], full[:, row, flags])
        last = int(full[0, row, inputs["attention_mask"][row].bool()][-1])
        assert read[1][:, row].tolist() == [[last + 1, last + 2]] * 3


def test_calls_leave_no_positions_for_the_next(models: tuple[Any, Any]) -> None:
    model, _ = models
    one, other = FAMILY.inputs(ROWS[:1], model), FAMILY.inputs(ROWS[1:3], model, seed=1)
    expected = [model.generate(**inputs, vision_token_budget=2, **GREEDY) for inputs in (one, other)]
    model.model.rope_deltas = torch.full((7, 1), 1000)  # what another call of stock left
    again = [model.generate(**inputs, vision_token_budget=2, **GREEDY) for inputs in (one, other)]
    assert all(torch.equal(first, second) for first, second in zip(expected, again, strict=True))


def test_the_types_of_tokens_may_be_left_out(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs(ROWS, model)
    short = {name: values for name, values in inputs.items() if name != "mm_token_type_ids"}
    settings = {"vision_token_budget": 2, **GREEDY}
    assert torch.equal(model.generate(**short, **settings), model.generate(**inputs, **settings))


def test_new_ids_behind_a_pruned_cache_need_the_whole_sequences(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs(ROWS[:1], model)
    settings = {"vision_token_budget": 2, **GREEDY}
    first = model.generate(**inputs, **settings, return_dict_in_generate=True)
    mask = torch.ones(1, first.sequences.shape[1] + 2, dtype=torch.long)
    new = torch.tensor([[5, 6]])
    with pytest.raises(ValueError, match="keep their positions in the grids of the images: continue from the returned"):
        model.generate(input_ids=new, attention_mask=mask, **{CACHE: first[CACHE]}, **settings)
    longer = torch.cat((first.sequences, new), 1)
    positions = torch.arange(longer.shape[1])[None]
    with pytest.raises(ValueError, match="position_ids were given with a cache that holds a pruned prompt"):
        model.generate(input_ids=longer, position_ids=positions, **{CACHE: first[CACHE]}, **settings)
    assert model.generate(input_ids=longer, **{CACHE: first[CACHE]}, **settings).shape[1] == longer.shape[1] + 3


def test_positions_of_another_shape_are_refused(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs(ROWS[:1], model)
    length = inputs["input_ids"].shape[1]
    for call in (model, model.generate):
        with pytest.raises(
            ValueError, match=rf"position_ids has shape \(4, 1, {length}\): give one value a token, \(3,"
        ):
            call(**inputs, position_ids=torch.zeros(4, 1, length).long())


def test_text_alone_is_stock(models: tuple[Any, Any]) -> None:
    model, stock = models
    inputs = FAMILY.inputs([[7], [4]], model)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**inputs).logits)
    assert torch.equal(model.generate(**inputs, **GREEDY), stock.generate(**inputs, **GREEDY))


def test_the_defaults_are_the_paper_s_for_this_model() -> None:
    config = FAMILY.config_class()
    assert (config.vision_token_budget, config.text_temperature) == (0.2, 0.01)
    assert (config.vision_coverage_weight, config.vision_temperature) == (0.5, 0.2)


def test_markers_of_images_are_no_words(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs([[3, (24, 24), 4]], model)
    prompt = model.read_prompt(inputs["input_ids"], None, None)
    text, valid = question_embeddings(model, prompt)
    words = [index for index in inputs["input_ids"][0].tolist() if 3 <= index < IMAGE]
    assert torch.equal(text[0, valid[0]], model.get_input_embeddings()(torch.tensor(words)))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (None, "image_grid_thw is missing"),
        ([[1, 8]], r"image_grid_thw contains \[1, 8\]: give 1 frame"),
        ([[2, 8, 4]], r"image_grid_thw contains \[2, 8, 4\]: give 1 frame"),
        ([[1, 9, 8]], "rows and columns of patches that are multiples of 2"),
        ([[1, 8, 10]], "makes 80 patches, but pixel_values holds 64"),
    ],
)
def test_grids_are_checked(models: tuple[Any, Any], grid: Any, message: str) -> None:
    model, _ = models
    inputs = FAMILY.inputs([[3, (24, 24), 4]], model)
    inputs["image_grid_thw"] = None if grid is None else torch.tensor(grid)
    for call in (model, model.generate, model.select_vision_tokens):
        with pytest.raises(ValueError, match=message):
            call(**inputs)


def test_an_image_of_too_many_tokens_is_refused_before_it_is_encoded(
    models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = models
    monkeypatch.setattr(grids, "MOST_TOKENS", 20)
    inputs = FAMILY.inputs([[3, (24, 36), 4]], model)
    with merged(model) as seen, pytest.raises(ValueError, match="24 vision tokens, and at most 20 can be chosen from"):
        model(**inputs)
    assert not seen
    assert model(**inputs, vision_token_budget=None).logits.shape[1] == inputs["input_ids"].shape[1]
