"""Random prompts: turns, images of any shape, videos, padding, dtypes, and budgets; more of them in `make fuzz`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_cases import Family

CASES, CASES_OF_FUZZ = 50, 1000  # for each family


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """(height, width) with an aspect ratio of 1:20 to 20:1."""
    ratio, short = draw(st.floats(1, 20)), draw(st.integers(4, 60))
    size = (short, max(round(short * ratio), 1))
    return size if draw(st.booleans()) else size[::-1]


VIDEOS = st.tuples(st.integers(1, 3), st.integers(4, 40), st.integers(4, 40))
ROWS = st.lists(st.lists(st.one_of(st.integers(0, 6), sizes(), VIDEOS), max_size=4), min_size=1, max_size=3)
BUDGETS = st.one_of(st.integers(1, 20), st.floats(0.01, 1), st.none())
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
OPTIONS = st.fixed_dictionaries(
    {
        "vision_token_budget": BUDGETS,
        "budget_scope": st.sampled_from(["crop", "image", "video"]),
        "padding": st.sampled_from(["stock", "exclude"]),
        "text_coverage_weight": st.sampled_from([0.0, 1.0]),
        "vision_coverage_weight": st.sampled_from([0.5, 2.0]),
        "text_coverage_depth": st.sampled_from([1, 3, "spread"]),
        "text_temperature": st.sampled_from([0.02, 0.5]),
    }
)


def test_random_prompts(family: Family, request: pytest.FixtureRequest) -> None:
    fuzz = request.config.getoption("--fuzz")
    model, _ = family.models()
    state = set(vars(model))

    @settings(
        max_examples=CASES_OF_FUZZ if fuzz else CASES,
        derandomize=not fuzz,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(ROWS, OPTIONS, DTYPES, st.booleans(), st.integers(0, 2**16))
    def check(rows: list[Any], pruning_options: dict[str, Any], dtype: torch.dtype, left: bool, seed: int) -> None:
        rows = [[as_read_by(family, piece) for piece in row] for row in rows]
        inputs = family.inputs(rows, model, seed=seed, left=left)
        for pixels in inputs.keys() & {"pixel_values", "pixel_values_videos"}:
            inputs[pixels] = inputs[pixels].to(dtype)
        holds_for(family, model, rows, inputs, family.options(**pruning_options), left)

    check()
    assert set(vars(model)) == state


def as_read_by(family: Family, piece: Any) -> Any:
    """A video as an image for a family without videos, and of two frames where all have to have as many."""
    if not isinstance(piece, tuple) or len(piece) == 2:
        return piece
    if not family.model_class.video_arguments:
        return piece[1:]
    return piece if family.has_grids else (2, *piece[1:])


def holds_for(
    family: Family,
    model: Any,
    rows: list[Any],
    inputs: dict[str, torch.Tensor],
    pruning_options: dict[str, Any],
    left: bool,
) -> None:
    selection = model.select_vision_tokens(**inputs, **pruning_options)
    with torch.no_grad():
        output = model(**inputs, **pruning_options)
    real = inputs["attention_mask"].bool()
    # The images and the videos of each row.
    counts = [
        [sum(isinstance(piece, tuple) and len(piece) == axes for piece in row) for axes in (2, 3)] for row in rows
    ]
    assert torch.isfinite(output.logits[real]).all()
    if not sum(map(sum, counts)) or pruning_options["vision_token_budget"] is None:
        assert bool(selection.kept_mask[real].all())
    else:
        assert torch.equal(output.kept_mask, selection.kept_mask)
        dropped = real & ~output.kept_mask
        assert set(inputs["input_ids"][dropped].tolist()) <= family.prunable
        assert bool((output.logits[dropped] == 0).all())
    for image in selection.images:
        kept = len(image.indices)
        assert 1 <= kept <= image.num_tokens
        assert image.indices.tolist() == sorted(set(image.indices.tolist()))
        assert image.coverage <= min(image.upper_bound, image.full_coverage) + 1e-4
    first, first_video = 0, 0
    for row, (images, videos) in enumerate(counts):
        own = family.single(inputs, row, slice(first, first + images), slice(first_video, first_video + videos))
        if own["input_ids"].shape[1]:
            alone = model.select_vision_tokens(**own, **pruning_options).images
            together = selection.images[first + first_video :][: images + videos]
            for one, other in zip(alone, together, strict=True):
                # Without a question, either of two tokens covers as much: rounding decides.
                blind = pruning_options["text_coverage_weight"] == 0 or not one.word_ids
                tied = blind and one.coverage == pytest.approx(other.coverage)
                assert len(one.indices) == len(other.indices)
                assert tied or torch.equal(one.indices, other.indices)
        first, first_video = first + images, first_video + videos
    if left:
        tokens = model.generate(**inputs, **pruning_options, max_new_tokens=1, do_sample=False)
        assert torch.equal(tokens[:, :-1], inputs["input_ids"])
