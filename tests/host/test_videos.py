"""Videos: each frame is a crop with a budget of its own, beside images in any order, alone and in batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_cases import (
    CACHE,
    FAMILIES,
    IMAGE,
    IMAGE_SIZE,
    VIDEO,
    Family,
    Row,
    add_deepstack,
    question_embeddings,
    stock_tokens,
)

import mmtok
from benchmarks.reference import select_crop
from mmtok.evaluation.encoded import EncodedBatch
from mmtok.hub import selection
from mmtok.image_cache import EncodedImageCache

FAMILY_NAMES = ("llava_onevision", "qwen2_5_vl", "qwen3_vl")
FRAMES = (3, 24, 24)
PICTURE = (24, 48)
# A video alone; images around it; nothing but words; a video and an image behind each other.
ROWS: list[Row] = [[3, FRAMES, 5], [2, PICTURE, 1, FRAMES, 3, (24, 24), 4], [7], [FRAMES, 1, PICTURE, 6]]
# Rows with one image and one video at most: before 5.23, stock repeats several for beams in another order.
ONE_OF_EACH = [ROWS[0], ROWS[3], ROWS[2]]
# The images and videos of each row.
OWN = [(slice(0, 0), slice(0, 1)), (slice(0, 2), slice(1, 2)), (slice(2, 2), slice(2, 2)), (slice(2, 3), slice(2, 3))]
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [IMAGE, VIDEO]}
ALL = 10**6


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def models(family: Family) -> tuple[Any, Any]:
    return family.models()


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("budget", [None, ALL, 1.0])
def test_without_pruning_videos_are_those_of_stock(family: Family, models: Any, budget: Any, left: bool) -> None:
    model, stock = models
    inputs = family.inputs(ROWS, model, left=left)
    with torch.no_grad():
        output, expected = model(**inputs, vision_token_budget=budget), stock(**inputs)
    real = inputs["attention_mask"].bool()
    assert torch.equal(output.logits[real], expected.logits[real])
    for name in ("video_hidden_states", "image_hidden_states"):
        if isinstance(getattr(expected, name, None), torch.Tensor):
            assert torch.equal(getattr(output, name), getattr(expected, name))
    if left:
        for beams, rows in ((1, ROWS), (2, ONE_OF_EACH))[: 1 + family.repeats_videos(stock)]:
            given = {**family.inputs(rows, model), **GREEDY, "num_beams": beams}
            assert torch.equal(model.generate(**given, vision_token_budget=budget), stock.generate(**given))


def by_hand(family: Family, model: Any, stock: Any, row: Row, **options: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """The embeddings of one row of words, images and videos, of which `select_vision_tokens` keeps some; the ids."""
    inputs = family.inputs([row], model)
    encoded = model.encode_images(**{name: inputs[name] for name in model.visual_arguments if name in inputs})
    ids = inputs["input_ids"][0]
    embeds = model.get_input_embeddings()(ids)
    # The embeddings, and what DeepStack adds to them in each of its layers.
    tables = [embeds, *(torch.zeros_like(embeds) for _ in (encoded.deepstack or [[]])[0])]
    for token, videos in ((IMAGE, False), (VIDEO, True)):
        own = [number for number, video in enumerate(encoded.videos) if video == videos]
        for layer, table in enumerate(tables):
            parts = [encoded.deepstack[each][layer - 1] if layer else encoded.projected[each] for each in own]
            table[ids == token] = torch.cat(parts) if parts else embeds[:0]
    [kept] = model.select_vision_tokens(**inputs, **options).kept_mask
    if len(tables) > 1:
        vision = ((ids == IMAGE) | (ids == VIDEO)) & kept
        add_deepstack(stock, [table[vision] for table in tables[1:]], vision[kept])
    positions = {name: values[:, :, kept] for name, values in family.positions(stock, inputs).items()}
    return {"inputs_embeds": embeds[kept][None], **positions}, kept


@pytest.mark.parametrize("row", [row for row in ROWS if len(row) > 1])
@pytest.mark.parametrize(
    "options",
    [
        {"vision_token_budget": 2},
        {"vision_token_budget": 0.4},
        {"vision_token_budget": 3, "coverage_target": 0.8},
        {"vision_token_budget": 1, "budget_scope": "video"},
    ],
    ids=lambda options: ", ".join(options),
)
@torch.no_grad()
def test_pruning_is_stock_on_the_pruned_prompt(family: Family, models: Any, row: Row, options: dict[str, Any]) -> None:
    model, stock = models
    inputs = family.inputs([row], model)
    shorter, kept = by_hand(family, model, stock, row, **options)
    assert int((~kept).sum()) > 3
    output = model(**inputs, **options)
    assert torch.equal(output.kept_mask[0], kept)
    torch.testing.assert_close(output.logits[:, kept], stock(**shorter).logits)
    found = model.generate(**inputs, **options, **GREEDY)
    assert torch.equal(found[:, len(kept) :], stock_tokens(stock, shorter, **GREEDY))


@pytest.mark.parametrize("scope", ["crop", "video"])
@pytest.mark.parametrize("left", [True, False])
def test_a_row_does_not_depend_on_its_batch(family: Family, models: Any, left: bool, scope: str) -> None:
    model, _ = models
    pruned = {"vision_token_budget": 2, "budget_scope": scope}
    for seed in range(3):
        inputs = family.inputs(ROWS, model, seed=seed, left=left)
        with torch.no_grad():
            batch = model(**inputs, **pruned)
        sequences = model.generate(**inputs, **pruned, **GREEDY) if left else None
        for row, own in enumerate(OWN):
            alone = family.single(inputs, row, *own)
            real = inputs["attention_mask"][row].bool()
            with torch.no_grad():
                expected = model(**alone, **pruned)
            assert torch.equal(batch.kept_mask[row, real], getattr(expected, "kept_mask", torch.ones(1, 8).bool())[0])
            torch.testing.assert_close(batch.logits[row, real], expected.logits[0], rtol=1e-4, atol=1e-4)
            if sequences is not None:
                new = model.generate(**alone, **pruned, **GREEDY)[0, int(real.sum()) :]
                assert torch.equal(sequences[row, len(real) :], new)


def test_a_budget_is_that_of_each_frame(family: Family, models: Any) -> None:
    model, _ = models
    inputs = family.inputs([[3, (24, 24), 2, FRAMES, 5]], model)
    image, video = model.select_vision_tokens(**inputs, vision_token_budget=2).images
    assert (image.is_video, video.is_video) == (False, True)
    assert video.crop.tolist() == [0, 0, 1, 1, 2, 2]
    tokens = family.image_length(FRAMES, model) // FRAMES[0]
    for share in (0.25, 0.5):
        _, video = model.select_vision_tokens(**inputs, vision_token_budget=share).images
        assert video.crop.bincount().tolist() == [round(share * tokens)] * FRAMES[0]
    places = video.crop * tokens + video.row * int(tokens**0.5) + video.column
    assert torch.equal(video.indices, places)


def test_a_separator_stays_where_nothing_is_lost() -> None:
    family = FAMILIES["llava_onevision"]
    model, _ = family.models()
    inputs = family.inputs([[3, FRAMES, 5]], model)
    last = int((inputs["input_ids"][0] == VIDEO).nonzero()[-1])
    for budget, stays in ((2, False), (ALL, True)):
        assert bool(model.select_vision_tokens(**inputs, vision_token_budget=budget).kept_mask[0, last]) is stays


def test_excluded_padding_is_that_of_images(family: Family, models: Any) -> None:
    model, _ = models
    if "padding" not in family.model_class.own_options:
        with pytest.raises(ValueError, match="padding is 'exclude', which means nothing for"):
            model.select_vision_tokens(**family.inputs(ROWS[:1], model), padding="exclude")
        return
    inputs = family.inputs([[3, (24, 24), 2, FRAMES, 5]], model)
    inputs["pixel_values"][0, 0, :, : IMAGE_SIZE // 2] = 0
    inputs["pixel_values_videos"][0, :, :, : IMAGE_SIZE // 2] = 0
    plain, excluded = (
        model.select_vision_tokens(**inputs, vision_token_budget=0.75, padding=padding).images
        for padding in ("stock", "exclude")
    )
    assert int(plain[0].row[plain[0].crop == 0].min()) == 0
    assert int(excluded[0].row[excluded[0].crop == 0].min()) == 2
    assert torch.equal(plain[1].indices, excluded[1].indices)


def test_images_and_videos_are_told_in_the_order_of_the_prompts(family: Family, models: Any) -> None:
    model, _ = models
    selection = model.select_vision_tokens(**family.inputs(ROWS, model), vision_token_budget=2)
    assert [image.is_video for image in selection.images] == [True, False, True, False, True, False]
    assert [image.batch_row for image in selection.images] == [0, 1, 1, 1, 3, 3]


def test_the_picks_of_a_frame_are_those_of_the_frame_as_an_image_of_its_own(family: Family, models: Any) -> None:
    model, _ = models
    inputs = family.inputs([[3, FRAMES, 5]], model)
    encoded = model.encode_images(**family.videos(inputs))
    text, valid = question_embeddings(model, model.read_prompt(inputs["input_ids"], None, None))
    [video] = model.select_vision_tokens(**inputs, vision_token_budget=2).images
    temperatures = {"text_temperature": model.config.text_temperature}
    [layout], [raw], [projected] = encoded.layouts, encoded.raw, encoded.projected
    for frame in range(FRAMES[0]):
        own = layout.crop == frame
        expected = select_crop(text[0, valid[0]], projected[own], raw[layout.source[own]], 2, **temperatures)
        picked = video.indices[video.crop == frame][video.pick_order[video.crop == frame].argsort()]
        assert (picked - own.nonzero()[0, 0]).tolist() == expected


def test_the_frames_of_a_video_may_be_selected_from_together(
    family: Family, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = models
    inputs = family.inputs([[3, FRAMES, 5]], model)
    encoded = model.encode_images(**family.videos(inputs))
    text, valid = question_embeddings(model, model.read_prompt(inputs["input_ids"], None, None))
    [layout], [raw], [projected] = encoded.layouts, encoded.raw, encoded.projected
    own = layout.crop >= 0
    expected = select_crop(
        text[0, valid[0]], projected[own], raw[layout.source[own]], FRAMES[0], model.config.text_temperature
    )
    for _ in range(2):
        [video] = model.select_vision_tokens(**inputs, vision_token_budget=1, budget_scope="video").images
        assert video.indices[video.pick_order.argsort()].tolist() == expected
        monkeypatch.setattr(selection, "_MOST_HELD", 1)
    assert video.crop.bincount(minlength=FRAMES[0]).tolist() != [1] * FRAMES[0]


def test_the_words_are_those_of_the_question(family: Family, models: Any) -> None:
    model, _ = models
    inputs = family.inputs([[3, FRAMES, 4]], model)
    prompt = model.read_prompt(inputs["input_ids"], None, None, videos=True)
    text, valid = question_embeddings(model, prompt)
    words = [index for index in inputs["input_ids"][0].tolist() if 3 <= index < IMAGE]
    assert torch.equal(text[0, valid[0]], model.get_input_embeddings()(torch.tensor(words)))


WAYS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_generate(family: Family, models: Any, way: str) -> None:
    model, stock = models
    inputs = family.inputs(ONE_OF_EACH, model)
    full = model.generate(**inputs, vision_token_budget=ALL, **GREEDY, **WAYS[way])
    if way != "beams" or family.repeats_videos(stock):
        assert torch.equal(full, stock.generate(**inputs, **GREEDY, **WAYS[way]))
    pruned = model.generate(**inputs, vision_token_budget=2, **GREEDY, **WAYS[way])
    length = inputs["input_ids"].shape[1]
    repeats = len(pruned) // len(ONE_OF_EACH)
    assert torch.equal(pruned[:, :length], inputs["input_ids"].repeat_interleave(repeats, 0))
    if way != "beams":
        assert torch.equal(pruned, model.generate(**inputs, vision_token_budget=2, **GREEDY))


def test_a_second_turn_goes_on_from_the_cache(family: Family, models: Any) -> None:
    model, _ = models
    inputs = family.inputs(ROWS[:1], model)
    for budget in (2, ALL):
        settings = {"vision_token_budget": budget, **GREEDY}
        first = model.generate(**inputs, **settings, return_dict_in_generate=True)
        longer = torch.cat((first.sequences, torch.tensor([[5, 6]])), 1)
        second = model.generate(input_ids=longer, **{CACHE: first[CACHE]}, **settings)
        assert torch.equal(second[:, : longer.shape[1]], longer)
        assert second.shape[1] == longer.shape[1] + 4
    # Of the whole prompt, it says what is said without a cache.
    again = {**inputs, "input_ids": longer, "attention_mask": torch.ones_like(longer)}
    if "mm_token_type_ids" in inputs:
        again["mm_token_type_ids"] = 2 * (longer == VIDEO).int()
    assert torch.equal(second, model.generate(**again, **settings))


def test_labels_and_gradients(family: Family) -> None:
    model, stock = family.models(vision_token_budget=2)
    inputs = family.inputs(ROWS, model, left=False)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels = labels.masked_fill((labels == IMAGE) | (labels == VIDEO), -100)
    with torch.no_grad():
        full = model(**inputs, labels=labels, vision_token_budget=ALL).loss
        torch.testing.assert_close(full, stock(**inputs, labels=labels).loss)
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    for part in (family.projector(model), family.tower(model), model.model.language_model):
        assert any(weight.grad is not None and bool(weight.grad.any()) for weight in part.parameters())


def test_the_question_may_be_embeddings(family: Family, models: Any) -> None:
    model, _ = models
    inputs = family.inputs(ROWS, model)
    embeds = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
    given = {name: values for name, values in inputs.items() if name not in ("input_ids", "mm_token_type_ids")}
    with torch.no_grad():
        found = model(**given, **embeds, vision_token_budget=2)
        expected = model(**inputs, vision_token_budget=2)
    assert torch.equal(found.kept_mask, expected.kept_mask)
    real = inputs["attention_mask"].bool()
    assert torch.equal(found.logits[real], expected.logits[real])


def test_videos_may_be_encoded_before(family: Family, models: Any) -> None:
    model, _ = models
    inputs = family.inputs(ROWS, model)
    visuals = {name: inputs[name] for name in model.visual_arguments if name in inputs}
    text = {name: values for name, values in inputs.items() if name not in visuals}
    encoded = model.encode_images(**visuals)
    assert encoded.videos == [False] * 3 + [True] * 3
    settings = {"vision_token_budget": 2, **GREEDY}
    expected = model.generate(**inputs, **settings)
    assert torch.equal(model.generate(**text, encoded_images=encoded, **settings), expected)
    # Another order, in which images and videos keep theirs.
    mixed = encoded[[3, 0, 4, 1, 2, 5]]
    assert torch.equal(model.generate(**text, encoded_images=mixed, **settings), expected)
    with torch.no_grad():
        assert torch.equal(
            model(**text, encoded_images=mixed, vision_token_budget=2).logits,
            model(**inputs, vision_token_budget=2).logits,
        )
    with pytest.raises(ValueError, match="encoded_images and pixel_values_videos were both given: give one of them"):
        model.generate(**text, encoded_images=encoded, pixel_values_videos=inputs["pixel_values_videos"])


def test_a_loaded_stock_model_prunes_videos(family: Family) -> None:
    expected, stock = family.models_of_own_classes(vision_token_budget=2)
    inputs = family.inputs(ROWS, expected)
    pruned = mmtok.prune(stock, vision_token_budget=2)
    assert torch.equal(pruned.generate(**inputs, **GREEDY), expected.generate(**inputs, **GREEDY))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(family: Family, dtype: torch.dtype) -> None:
    model, stock = family.models()
    model, stock = model.to(dtype), stock.to(dtype)
    inputs = family.inputs(ONE_OF_EACH, model)
    inputs |= {name: inputs[name].to(dtype) for name in ("pixel_values", "pixel_values_videos")}
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        full = model(**inputs, vision_token_budget=ALL).logits
        assert torch.equal(full[real], stock(**inputs).logits[real])
        assert bool(torch.isfinite(model(**inputs, vision_token_budget=2).logits).all())


def test_a_cache_of_images_encodes_videos_and_keeps_none(family: Family, models: Any) -> None:
    model, _ = models
    inputs = family.inputs(ROWS, model)
    cache = EncodedImageCache(model, 10**6)
    given = cache.inputs(inputs)
    assert given.keys().isdisjoint(model.visual_arguments)
    settings = {"vision_token_budget": 2, **GREEDY}
    assert torch.equal(model.generate(**given, **settings), model.generate(**inputs, **settings))
    assert not cache._kept
    with pytest.raises(ValueError, match="pixel_values_videos holds a video, and selectors choose from images alone"):
        EncodedBatch.of(model, inputs, (), [0] * len(ROWS))


def test_a_long_video_is_covered_in_parts(family: Family, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = models
    inputs = family.inputs([[3, (40, 24, 24), 5]], model)
    expected = model.select_vision_tokens(**inputs, vision_token_budget=2)
    largest: list[int] = []
    matrix = selection.chunks_of

    def counted(*args: Any) -> list[list[Any]]:
        parts = matrix(*args)
        largest.append(max(map(len, parts)))
        return parts

    monkeypatch.setattr("mmtok.hub.selection.chunks_of", counted)
    monkeypatch.setattr(selection, "_ENTRIES_AT_ONCE", 1000)
    found = model.select_vision_tokens(**inputs, vision_token_budget=2)
    assert torch.equal(found.kept_mask, expected.kept_mask)
    assert 1 <= largest[0] < 40


Inputs = dict[str, Any]


def an_image_inside_a_video(inputs: Inputs) -> torch.Tensor:
    """The ids with the last token of the video and of the image, behind each other, in the places of the first two."""
    ids = inputs["input_ids"]
    words, images, videos = (ids[own] for own in (ids < IMAGE, ids == IMAGE, ids == VIDEO))
    return torch.cat((videos[1:], images[1:], videos[:1], images[:1], words))[None]


# What is changed in the inputs of words, a video and an image, and what is said of it.
REFUSED: dict[str, tuple[str, Callable[[Inputs], Any], str]] = {
    "no image token": (
        "input_ids",
        lambda inputs: inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, 5),
        r"The prompts have 0 image tokens and the images \d+ features: give one image for each <image>",
    ),
    "no video token": (
        "input_ids",
        lambda inputs: inputs["input_ids"].masked_fill(inputs["input_ids"] == VIDEO, 5),
        r"The prompts have 0 video tokens and the videos \d+ features: give one video for each <video>",
    ),
    "an image inside a video": (
        "input_ids",
        an_image_inside_a_video,
        "has others among its tokens: let the tokens of each image and of each video stand together",
    ),
    "pixels that are whole numbers": (
        "pixel_values_videos",
        lambda inputs: inputs["pixel_values_videos"].long(),
        "pixel_values_videos has dtype torch.int64: give the processor's floating-point pixels",
    ),
    "pixels that are not finite": (
        "pixel_values_videos",
        lambda inputs: inputs["pixel_values_videos"] / 0,
        "pixel_values_videos contains -?inf: check how the image was read",
    ),
    "pixels of another shape": (
        "pixel_values_videos",
        lambda inputs: inputs["pixel_values_videos"][0],
        r"pixel_values_videos has shape \([\d, ]+\): give \((videos, frames, channels, height, width|patches, val)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_belong_together_is_refused(family: Family, models: Any, case: str) -> None:
    name, change, message = REFUSED[case]
    model, _ = models
    inputs: Inputs = dict(family.inputs([[3, FRAMES, 2, (24, 24), 4]], model))
    inputs.pop("mm_token_type_ids", None)
    inputs[name] = change(inputs)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for call in (model, model.generate, model.select_vision_tokens):
        with pytest.raises(ValueError, match=message):
            call(**inputs, vision_token_budget=2)


def test_encoder_outputs_of_stock_are_refused(family: Family, models: Any) -> None:
    model, _ = models
    if "mm_encoder_outputs" not in inspect.signature(family.stock_class.forward).parameters:
        pytest.skip("the release has none")
    inputs = family.inputs(ROWS[:1], model)
    outputs = {"video": model.get_video_features(**family.videos(inputs))}
    text = {name: values for name, values in inputs.items() if name not in model.visual_arguments}
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="mm_encoder_outputs holds encoded videos, which cannot be pruned"):
            call(**text, mm_encoder_outputs=outputs)
