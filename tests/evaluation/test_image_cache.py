"""The cache of encoded images: it returns what the model encodes, and each image runs through the tower once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_checkpoints import make_llava_checkpoint, make_llava_next_checkpoint

from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.runner import generate_by_model
from mmtok.evaluation.selectors import MMTOK
from mmtok.image_cache import EncodedImageCache

SIZES = [(24, 24), (48, 24), (40, 44)]
MAKERS: dict[str, Any] = {"llava": make_llava_checkpoint, "llava_next": make_llava_next_checkpoint}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.load(Path(MAKERS[request.param](tmp_path_factory.mktemp("checkpoint") / request.param)))


def drawn(seed: int) -> Image.Image:
    width, height = SIZES[seed]
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())


def batch(checkpoint: Checkpoint, *seeds: int) -> dict[str, torch.Tensor]:
    return checkpoint.inputs(["Is there a dog in the image?"] * len(seeds), [drawn(seed) for seed in seeds])


def encoded(cache: EncodedImageCache, inputs: dict[str, torch.Tensor]):
    return cache.inputs(inputs)["encoded_images"]


class Counted:
    """A model that counts the images that it encodes."""

    def __init__(self, model: Any) -> None:
        self.model, self.images = model, 0
        self.visual_arguments, self.video_arguments = model.visual_arguments, model.video_arguments
        self.image_arguments = model.image_arguments

    def encode_images(self, **inputs: torch.Tensor) -> Any:
        self.images += len(inputs["pixel_values"])
        return self.model.encode_images(**inputs)


def test_images_come_back_as_the_model_encodes_them_and_in_their_order(checkpoint: Checkpoint) -> None:
    counted = Counted(checkpoint.model)
    cache = EncodedImageCache(counted)
    encoded(cache, batch(checkpoint, 1))
    inputs = batch(checkpoint, 2, 1, 0, 2)
    found = encoded(cache, inputs)
    images = {name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs}
    expected = checkpoint.model.encode_images(**images)
    # Image 1 is known although it was alone before, where LLaVA-NeXT does not fill its crops up; image 2 comes twice.
    assert counted.images == 3
    assert len(found) == 4
    for name in ("projected", "raw"):
        for own, stock in zip(getattr(found, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(own, stock)
    for own, stock in zip(found.layouts, expected.layouts, strict=True):
        assert torch.equal(own.source, stock.source)
    for own, stock in zip(found.candidates, expected.candidates, strict=True):
        assert torch.equal(own, stock)


@pytest.mark.parametrize("budget", [None, 3, 16])
def test_answers_are_the_same_with_and_without_it(checkpoint: Checkpoint, budget: int | None) -> None:
    inputs = batch(checkpoint, 0, 1, 2)
    given = EncodedImageCache(checkpoint.model).inputs(inputs)
    method = None if budget is None else MMTOK
    with_cache = generate_by_model(checkpoint, given, method, budget, 5)
    assert with_cache == generate_by_model(checkpoint, inputs, method, budget, 5)


def test_options_that_look_at_padding_find_the_same_in_it(checkpoint: Checkpoint) -> None:
    cache = EncodedImageCache(checkpoint.model)
    cache.inputs(batch(checkpoint, 1))
    inputs = batch(checkpoint, 2, 1)
    inputs["pixel_values"][..., :12, :] = 0.5  # two rows of patches
    # Of the two families, LLaVA-NeXT alone has tokens that are there before padding is removed.
    padding = "include" if "image_sizes" in inputs else "exclude"

    def kept(given: dict[str, Any], **options: Any) -> list[list[int]]:
        selected = checkpoint.model.select_vision_tokens(**given, vision_token_budget=5, **options)
        return [image.indices.tolist() for image in selected.images]

    expected = kept(inputs, padding=padding)
    assert expected != kept(inputs)
    assert kept(cache.inputs(inputs), padding=padding) == expected


def test_the_images_that_were_not_asked_for_the_longest_go_first(checkpoint: Checkpoint) -> None:
    sizes = {}
    for seed in (1, 2):
        found = encoded(EncodedImageCache(checkpoint.model), batch(checkpoint, seed))
        before = [] if found.before_unpadding is None else found.before_unpadding.projected
        sizes[seed] = sum(each.numel() * each.element_size() for each in (*found.projected, *found.raw, *before))
    counted = Counted(checkpoint.model)
    cache = EncodedImageCache(counted, sizes[1] + sizes[2])
    for seed in (2, 1, 2, 0):  # the third finds the first; the fourth takes the place of the second
        encoded(cache, batch(checkpoint, seed))
    assert counted.images == 3
    encoded(cache, batch(checkpoint, 2))
    assert counted.images == 3
    encoded(cache, batch(checkpoint, 1))
    assert counted.images == 4


def test_a_limit_of_zero_keeps_nothing(checkpoint: Checkpoint) -> None:
    none = Counted(checkpoint.model)
    cache = EncodedImageCache(none, 0)
    for _ in range(2):
        assert len(encoded(cache, batch(checkpoint, 0))) == 1
    assert none.images == 2


def test_a_negative_limit_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="memory_limit is -1: give a number of bytes of at least 0"):
        EncodedImageCache(checkpoint.model, -1)


def test_a_caller_changes_its_own_copy(checkpoint: Checkpoint) -> None:
    cache = EncodedImageCache(checkpoint.model)
    inputs = batch(checkpoint, 0, 0)
    first = encoded(cache, inputs)
    expected = [tokens.clone() for tokens in first.projected]
    for tokens in (*first.projected, *first.raw, *(layout.source for layout in first.layouts)):
        tokens.zero_()
    again = encoded(cache, inputs)
    assert all(map(torch.equal, again.projected, expected))
    assert all(bool(layout.source.any()) for layout in again.layouts)


@pytest.mark.parametrize("counted", [True, False])
def test_changed_weights_are_noticed(checkpoint: Checkpoint, counted: bool) -> None:
    model, inputs = checkpoint.model, batch(checkpoint, 0)
    cache = EncodedImageCache(model)
    before = encoded(cache, inputs)
    weight = model.model.multi_modal_projector.linear_2.weight
    original = weight.detach().clone()
    # As an optimiser does it, and as PEFT merges an adapter: the second way changes no version.
    weight.requires_grad_(False).mul_(2) if counted else weight.data.mul_(2)
    try:
        after = encoded(cache, inputs)
    finally:
        weight.data.copy_(original)
    assert not torch.equal(after.projected[0], before.projected[0])
    assert torch.equal(encoded(EncodedImageCache(model), inputs).projected[0], before.projected[0])
