"""Arguments of `generate` and `forward`: what callers' functions see, which logits are computed, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_cases import CACHE, IMAGE, Family

from mmtok.hub.options import PruningOptions

ROWS = [[3, (24, 24), 4], [5, (24, 24), 2]]


@pytest.fixture
def model(family: Family) -> Any:
    return family.models()[0]


@pytest.mark.parametrize("decoding", [{}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
def test_a_prefix_function_sees_what_stock_shows_it(family: Family, decoding: dict[str, Any]) -> None:
    model, stock = family.models()
    inputs = family.inputs(ROWS, model)
    length = inputs["input_ids"].shape[1]
    seen: dict[str, set[Any]] = {"ours": set(), "stock": set()}
    for name, asked, options in (("ours", model, {"vision_token_budget": 2}), ("stock", stock, {})):

        def allowed(row: int, ids: torch.Tensor, calls: set[Any] = seen[name]) -> list[int]:
            calls.add((row, tuple(ids.tolist())))
            return [7 + row]

        settings = {"max_new_tokens": 2, "prefix_allowed_tokens_fn": allowed, **decoding}
        sequences = asked.generate(**inputs, **settings, **options)
        assert set(sequences[:, length:].flatten().tolist()) == {7 + row for row, _ in seen[name]}
    assert seen["ours"] == seen["stock"]
    assert {len(ids) for _, ids in seen["ours"]} == {length, length + 1}


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("wanted", [1, 3, 200])
def test_only_the_logits_that_are_wanted_are_computed(family: Family, model: Any, left: bool, wanted: int) -> None:
    inputs = family.inputs(ROWS, model, left=left)
    widths: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _module, args: widths.append(args[0].shape[1]))
    with torch.no_grad():
        full = model(**inputs, vision_token_budget=2).logits
        some = model(**inputs, vision_token_budget=2, logits_to_keep=wanted).logits
    torch.testing.assert_close(some, full[:, -wanted:])
    lengths = model.select_vision_tokens(**inputs, vision_token_budget=2).kept_mask.sum(1)
    assert widths[1] == min(widths[0], wanted + int(lengths.max() - lengths.min()))


def test_positions_in_a_tensor_pick_logits(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS, model)
    positions = torch.tensor([0, 5, inputs["input_ids"].shape[1] - 1])
    with torch.no_grad():
        full = model(**inputs, vision_token_budget=2).logits
        assert torch.equal(model(**inputs, vision_token_budget=2, logits_to_keep=positions).logits, full[:, positions])


def changed_by_stock(change: Callable[[], Any]) -> None:
    try:
        change()
    except (RuntimeError, AttributeError) as error:
        pytest.skip(f"stock's own cache refuses: {error}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cache: cache.crop(4 - cache.get_seq_length()), "was cropped or reordered since, it now holds 4"),
        (lambda cache: cache.batch_select_indices(torch.tensor([1, 0])), "was cropped or reordered since"),
        (lambda cache: cache.batch_repeat_interleave(2), "was cropped or reordered since"),
    ],
)
def test_a_cache_that_was_changed_is_not_continued(family: Family, model: Any, change: Any, message: str) -> None:
    # Both rows have the same text: only the images differ.
    inputs = family.inputs([[3, (24, 24), 4]] * 2, model)
    inputs["input_ids"][1] = inputs["input_ids"][0]
    settings = {"vision_token_budget": 3, "max_new_tokens": 2, "do_sample": False, "eos_token_id": None}
    first = model.generate(**inputs, **settings, return_dict_in_generate=True)
    changed_by_stock(lambda: change(first[CACHE]))
    longer = torch.cat((first.sequences, torch.full((2, 2), 6)), 1)
    with pytest.raises(ValueError, match=message):
        model.generate(input_ids=longer, **{CACHE: first[CACHE]}, **settings)
    with pytest.raises(ValueError, match=message):
        model(input_ids=torch.tensor([[5], [6]]), **{CACHE: first[CACHE]})


def test_a_cache_cropped_behind_the_prompt_is_continued(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS[:1], model)
    settings = {"vision_token_budget": 3, "do_sample": False, "eos_token_id": None}
    first = model.generate(**inputs, **settings, max_new_tokens=4, return_dict_in_generate=True)
    changed_by_stock(lambda: first[CACHE].crop(-2))
    again = model.generate(input_ids=first.sequences[:, :-2], **{CACHE: first[CACHE]}, **settings, max_new_tokens=2)
    assert torch.equal(again, first.sequences)


def test_an_image_with_a_filled_cache_is_refused_with_advice_that_works(family: Family, model: Any) -> None:
    inputs = family.inputs(ROWS[:1], model)
    settings = {"vision_token_budget": 3, "max_new_tokens": 2, "do_sample": False}
    first = model.generate(**inputs, **settings, return_dict_in_generate=True)
    with pytest.raises(ValueError, match="give the whole conversation with all its images, and no cache"):
        model.generate(**{**inputs, "input_ids": first.sequences}, **{CACHE: first[CACHE]}, **settings)
    longer = {"input_ids": first.sequences, "attention_mask": torch.ones_like(first.sequences)}
    for name in inputs.keys() & {"token_type_ids", "mm_token_type_ids"}:
        longer[name] = torch.nn.functional.pad(inputs[name], (0, 2))
    whole = model.generate(**{**inputs, **longer}, **settings)
    assert whole.shape[1] == first.sequences.shape[1] + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision_token_budget": -7}, "vision_token_budget is -7: give a number of tokens"),
        ({"vision_token_budgett": 3}, "vision_token_budgett is not an argument: did you mean vision_token_budget?"),
    ],
)
def test_options_are_checked_without_images_too(model: Any, options: dict[str, Any], message: str) -> None:
    ids = torch.tensor([[5, 6, 7]])
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=message.replace("?", r"\?")):
            call(input_ids=ids, **options)


@pytest.mark.parametrize("pixels", [torch.zeros(3, 24, 24), [1.0, 2.0], torch.zeros(1, 3, 24, 24).numpy()])
def test_pixels_are_checked_before_their_padding_is_looked_for(family: Family, model: Any, pixels: Any) -> None:
    inputs = {**family.inputs([[3, (24, 24), 4]], model), "pixel_values": pixels}
    for call in (model, model.generate, model.select_vision_tokens):
        with pytest.raises(ValueError, match=r"pixel_values (is a|has shape)|image_position_ids is"):
            call(**inputs, **family.options(padding="exclude"))


def test_images_that_were_encoded_before_give_the_same(family: Family, model: Any) -> None:
    inputs = family.inputs([[3, (24, 24), 4], [5, (24, 48), 2]], model)
    # Of Gemma the types of tokens say which of them see each other.
    names = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
    text = {name: inputs[name] for name in names if name in inputs}
    encoded = model.encode_images(**family.images(inputs))
    settings = {"max_new_tokens": 3, "do_sample": False}
    for options in (
        {"vision_token_budget": 2},
        {"vision_token_budget": 2, **family.options(padding="exclude")},
        {"vision_token_budget": None},
    ):
        assert torch.equal(
            model.generate(**text, encoded_images=encoded, **options, **settings),
            model.generate(**inputs, **options, **settings),
        )
        with torch.no_grad():
            torch.testing.assert_close(
                model(**text, encoded_images=encoded, **options).logits, model(**inputs, **options).logits
            )
    one = family.single(inputs, 0, slice(0, 1))
    twice = {name: torch.cat([one[name]] * 2) for name in text}
    rows = model.generate(**twice, encoded_images=encoded[[0, 0]], vision_token_budget=2, **settings)
    assert torch.equal(rows[0], rows[1])


def test_encoded_images_are_checked(family: Family, model: Any) -> None:
    inputs = family.inputs([[3, (24, 24), 4]], model)
    encoded = model.encode_images(**{name: inputs[name] for name in model.image_arguments if name in inputs})
    ids = {"input_ids": inputs["input_ids"]}
    with pytest.raises(ValueError, match="encoded_images and pixel_values were both given"):
        model.generate(**inputs, encoded_images=encoded)
    with pytest.raises(ValueError, match="encoded_images is a list: give what encode_images returned"):
        model.generate(**ids, encoded_images=[1])
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model.encode_images()
    with pytest.raises(ValueError, match="is neither an input nor an option"):
        model.encode_images(**inputs)
    with pytest.raises(IndexError, match="list index out of range"):
        encoded[[1]]
    assert int((inputs["input_ids"] == IMAGE).sum()) == sum(encoded.lengths)


def test_an_adaptive_budget_runs_the_greedy_loop_once(
    family: Family, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmtok.hub import selection

    inputs, runs, greedy = family.inputs(ROWS[:1], model), [], selection.greedy_coverage
    monkeypatch.setattr(selection, "greedy_coverage", lambda *args, **kwargs: runs.append(1) or greedy(*args, **kwargs))
    model.select_vision_tokens(**inputs, vision_token_budget=8, coverage_target=0.8)
    assert len(runs) == 1


def test_a_share_and_a_budget_of_one_call() -> None:
    class Config:
        pass

    config = Config()
    for name, value in vars(PruningOptions(vision_token_budget=0.5)).items():
        setattr(config, name, value)
    assert PruningOptions.from_config(config).budget_of(10) == 5
    assert PruningOptions.from_config(config, vision_token_budget=3).budget_of(10) == 3
    assert not PruningOptions.from_config(config, vision_token_budget=None).prunes
