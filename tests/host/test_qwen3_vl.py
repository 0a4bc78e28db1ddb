"""What Qwen3-VL adds: features of DeepStack, which the first layers of the language model add to vision tokens."""

from __future__ import annotations

import inspect
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from model_cases import FAMILIES, IMAGE, VIDEO, Row, stock_tokens
from test_qwen2_5_vl import positions_read

from benchmarks.reference import select_crop
from mmtok.hub.generation import adds_deepstack
from mmtok.hub.prompt import DEEPSTACK, columns_of, deepstack_arguments
from mmtok.image_cache import EncodedImageCache

FAMILY = FAMILIES["qwen3_vl"]
ROWS = [[3, (24, 36), 5], [2, (30, 60), 4, (60, 20), 3], [7], [(48, 48), 6]]
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [IMAGE, VIDEO]}
BUDGET: dict[str, Any] = {"vision_token_budget": 3}


@pytest.fixture
def models() -> tuple[Any, Any]:
    return FAMILY.models()


def features_of(stock: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor], Any]:
    """(T, hidden) projected tokens, (T, hidden) of each DeepStack layer, and what stock returned."""
    encoded = stock.get_image_features(**FAMILY.images(inputs))
    projected, layers = (
        (encoded.pooler_output, encoded.deepstack_features) if hasattr(encoded, "pooler_output") else encoded
    )
    return (
        torch.cat(list(projected)),
        [each if torch.is_tensor(each) else torch.cat(list(each)) for each in layers],
        encoded,
    )


def test_the_features_of_every_layer_are_stocks(models: tuple[Any, Any]) -> None:
    model, stock = models
    inputs = FAMILY.inputs(ROWS, model)
    with torch.no_grad():
        projected, layers, _ = features_of(stock, inputs)
        encoded = model.encode_images(**FAMILY.images(inputs))
    assert torch.equal(torch.cat(list(encoded.projected)), projected)
    assert [len(features) for features in encoded.deepstack] == [2] * 4
    for number, layer in enumerate(layers):
        assert torch.equal(torch.cat([features[number] for features in encoded.deepstack]), layer)
    chosen = encoded[[2, 0]]
    assert all(torch.equal(chosen.deepstack[0][each], encoded.deepstack[2][each]) for each in range(2))


def test_the_picks_are_those_of_the_reference(models: tuple[Any, Any]) -> None:
    model, stock = models
    for seed, size in enumerate([(24, 36), (60, 48), (42, 90), (12, 150)]):
        inputs = FAMILY.inputs([[3, size, 9]], model, seed=seed)
        seen: list[torch.Tensor] = []
        handle = FAMILY.projector(stock).register_forward_hook(
            lambda _module, args, _output, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            projected, _, _ = features_of(stock, inputs)
        handle.remove()
        raw = seen[0].reshape(len(projected), 4, -1).mean(1)
        words = [index for index in inputs["input_ids"][0].tolist() if 3 <= index < IMAGE]
        text = stock.get_input_embeddings()(torch.tensor(words))
        expected = select_crop(text, projected, raw, round(0.2 * len(raw)), text_temperature=0.01)
        [image] = model.select_vision_tokens(**inputs).images
        assert image.indices[image.pick_order.argsort()].tolist() == expected


@pytest.mark.parametrize("wrong", ["layers swapped", "tokens shifted", "left out"])
def test_features_of_another_layer_or_token_are_other_logits(models: tuple[Any, Any], wrong: str) -> None:
    """The comparison with stock on the pruned prompt sees each of these mistakes."""
    model, stock = models
    inputs = FAMILY.inputs(ROWS[:1], model)
    with torch.no_grad():
        encoded = model.encode_images(**FAMILY.images(inputs))
        changed = {
            "layers swapped": [tuple(reversed(layers)) for layers in encoded.deepstack],
            "tokens shifted": [tuple(layer.roll(1, 0) for layer in layers) for layers in encoded.deepstack],
            "left out": None,
        }[wrong]
        text = {name: values for name, values in inputs.items() if name not in FAMILY.images(inputs)}
        right = model(**text, encoded_images=encoded, **BUDGET)
        other = model(**text, encoded_images=replace(encoded, deepstack=changed), **BUDGET)
        kept = right.kept_mask[0]
        positions = FAMILY.positions(stock, inputs)["position_ids"][:, :, kept]
        expected = stock(inputs_embeds=FAMILY.by_hand(stock, inputs, kept)[None], position_ids=positions)
    torch.testing.assert_close(right.logits[0, kept], expected.logits[0])
    assert torch.equal(other.kept_mask[0], kept)
    assert not torch.allclose(other.logits[0, kept], expected.logits[0], atol=1e-2)


def test_stock_generates_the_same_from_pruned_encoder_outputs(models: tuple[Any, Any]) -> None:
    model, stock = models
    if "mm_encoder_outputs" not in inspect.signature(FAMILY.stock_class.forward).parameters:
        pytest.skip("stock takes no encoder outputs on this release")
    inputs = FAMILY.inputs([[2, (30, 60), 4, (60, 20), 3]], model)
    with torch.no_grad():
        projected, layers, encoded = features_of(stock, inputs)
        kept = model.select_vision_tokens(**inputs, **BUDGET).kept_mask[0]
        vision = kept[inputs["input_ids"][0] == IMAGE]
        encoded.pooler_output = (projected[vision],)
        encoded.deepstack_features = [(layer[vision],) for layer in layers]
        ids = inputs["input_ids"][:, kept]
        text = torch.arange(len(ids[0])).expand(1, 1, -1)
        positions = torch.cat((text, FAMILY.positions(stock, inputs)["position_ids"][:, :, kept]))
        given = {"input_ids": ids, "position_ids": positions, "mm_encoder_outputs": {"image": encoded}}
        expected = stock.generate(**given, mm_token_type_ids=(ids == IMAGE).int(), **GREEDY)[:, len(ids[0]) :]
    found = model.generate(**inputs, **BUDGET, **GREEDY)[:, inputs["input_ids"].shape[1] :]
    assert torch.equal(found, expected)


def test_a_batch_with_beams_and_without_a_cache_is_its_rows(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs, rows = rows_of(model, left=True)
    for mode in ({}, {"use_cache": False}, {"num_beams": 2}):
        whole = model.generate(**inputs, **BUDGET, **GREEDY, **mode)[:, -4:]
        alone = torch.cat([model.generate(**row, **BUDGET, **GREEDY, **mode)[:, -4:] for row in rows])
        assert torch.equal(whole, alone), mode


@pytest.mark.parametrize("left", [True, False])
def test_logits_of_a_batch_are_those_of_its_rows(models: tuple[Any, Any], left: bool) -> None:
    model, _ = models
    inputs, rows = rows_of(model, left=left)
    with torch.no_grad():
        whole = model(**inputs, **BUDGET).logits
        for number, row in enumerate(rows):
            real = inputs["attention_mask"][number].bool()
            torch.testing.assert_close(whole[number, real], model(**row, **BUDGET).logits[0])


def rows_of(model: Any, *, left: bool) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A batch of two prompts with an image each, and its rows alone."""
    inputs = FAMILY.inputs([ROWS[0], ROWS[3]], model, left=left)
    return inputs, [FAMILY.single(inputs, number, slice(number, number + 1)) for number in range(2)]


def test_encoded_images_and_the_cache_hold_the_features(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs(ROWS, model)
    expected = model.generate(**inputs, **BUDGET, **GREEDY)
    cache = EncodedImageCache(model)
    for _ in range(2):
        assert torch.equal(model.generate(**cache.inputs(inputs), **BUDGET, **GREEDY), expected)
    assert model.encode_images(**FAMILY.images(inputs)).deepstack is not None
    small = EncodedImageCache(model, 1)
    assert torch.equal(model.generate(**small.inputs(inputs), **BUDGET, **GREEDY), expected)


def test_labels_and_gradients_reach_the_features(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs(ROWS[:2], model)
    labels = inputs["input_ids"].masked_fill((inputs["input_ids"] == IMAGE) | (inputs["attention_mask"] == 0), -100)
    model(**inputs, labels=labels, **BUDGET).loss.backward()
    for merger in model.model.visual.deepstack_merger_list:
        assert merger.linear_fc2.weight.grad.abs().sum() > 0


def test_two_threads_add_their_own_features(models: tuple[Any, Any]) -> None:
    model, _ = models
    prompts = [
        FAMILY.inputs([[3, size, 5]], model, seed=seed) for seed, size in enumerate([(24, 36), (36, 24), (18, 48)])
    ]
    expected = [model.generate(**inputs, **BUDGET, **GREEDY) for inputs in prompts]
    found: dict[int, list[torch.Tensor]] = {number: [] for number in range(3)}

    def ask(number: int) -> None:
        found[number] += [model.generate(**prompts[number], **BUDGET, **GREEDY) for _ in range(5)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, tokens in found.items():
        assert len(tokens) == 5
        assert all(torch.equal(each, expected[number]) for each in tokens)
    assert not model.model.language_model._forward_pre_hooks


def test_a_hook_that_another_thread_removes_meanwhile_changes_nothing(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs(ROWS[:1], model)
    expected = model.generate(**inputs, **BUDGET, **GREEDY)
    language_model = model.model.language_model
    other = adds_deepstack(model, {DEEPSTACK: {}})

    def first(_module: Any, _args: Any, _kwargs: Any) -> None:
        # torch has listed the hooks of this call already, and asks each whether it takes keyword arguments.
        if not closed:
            other.__exit__(None, None, None)
            closed.append(True)

    closed: list[bool] = []
    handle = language_model.register_forward_pre_hook(first, with_kwargs=True)
    other.__enter__()
    assert torch.equal(model.generate(**inputs, **BUDGET, **GREEDY), expected)
    handle.remove()
    assert closed
    assert not language_model._forward_pre_hooks


def test_columns_of_a_prompt_worked_by_hand() -> None:
    slots, features = torch.tensor([[False, True, True, False]]), torch.tensor([[[1.0], [1.0], [2.0], [2.0]]])
    slots, features = (columns_of(each, 2, 2, 4) for each in (slots, features))
    assert slots.tolist() == [[True, False, False, False]] * 2
    assert deepstack_arguments(slots, [features])["deepstack_visual_embeds"][0].tolist() == [[2.0], [2.0]]


def test_the_defaults_are_those_of_qwen2_5_vl(models: tuple[Any, Any]) -> None:
    config = FAMILY.config_class()
    assert (config.vision_token_budget, config.text_temperature) == (0.2, 0.01)
    model, stock = models
    inputs = FAMILY.inputs(ROWS[:1], model)
    kept = model.select_vision_tokens(**inputs).kept_mask[0]
    shorter = {
        "inputs_embeds": FAMILY.by_hand(stock, inputs, kept)[None].detach(),
        "position_ids": FAMILY.positions(stock, inputs)["position_ids"][:, :, kept],
    }
    found = model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
    assert torch.equal(found, stock_tokens(stock, shorter, **GREEDY))


VIDEO_ROWS: list[Row] = [[3, (3, 18, 24), 5], [2, (24, 36), 4, (2, 30, 12), 3], [7], [(14, 12, 12), 4]]


@pytest.mark.parametrize("beams", [1, 2])
def test_kept_tokens_of_videos_keep_their_positions(models: tuple[Any, Any], beams: int) -> None:
    model, stock = models
    inputs = FAMILY.inputs(VIDEO_ROWS, model)
    full = FAMILY.positions(stock, inputs)["position_ids"]
    kept = model.select_vision_tokens(**inputs, **BUDGET).kept_mask
    with positions_read(model) as read, positions_read(stock) as expected:
        model.generate(**inputs, **BUDGET, num_beams=beams, **GREEDY)
        stock.generate(**inputs, **GREEDY)
    for row, flags in enumerate(kept):
        assert torch.equal(read[0][-3:, row * beams, -int(flags.sum()) :], full[:, row, flags])
    for ours, theirs in zip(read[1:], expected[1:], strict=True):
        assert torch.equal(ours[-3:, ::beams], theirs[-3:])


def test_prompts_of_embeddings_have_the_positions_of_ids(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs(VIDEO_ROWS[:1], model)
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    images = {name: inputs[name] for name in model.visual_arguments if name in inputs}
    found = []
    for prompt in ({"input_ids": inputs["input_ids"]}, {"inputs_embeds": embeds}):
        with positions_read(model) as read, torch.no_grad():
            model(**prompt, **images, **BUDGET)
        found.append(read[0])
    assert torch.equal(*found)


def test_each_temporal_patch_is_one_run_of_tokens(models: tuple[Any, Any]) -> None:
    model, _ = models
    inputs = FAMILY.inputs([[3, (2, 12, 12), 4]], model)
    # Three tokens of the first temporal patch of four, and five of the second.
    ids = inputs["input_ids"][0].tolist()
    last = [place for place, index in enumerate(ids) if index == VIDEO][3]
    ids = [*ids[:last], *ids[last + 1 : last + 6], VIDEO, *ids[last + 6 :]]
    inputs |= {"input_ids": torch.tensor([ids]), "mm_token_type_ids": None}
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="stand in runs of 3, 5 tokens, and the images and videos have 4, 4: let"):
            call(**inputs, **BUDGET)
