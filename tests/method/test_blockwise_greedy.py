"""A coverage matrix that is not held gives the picks of one that is, and those of the plain statement."""

from __future__ import annotations

import pytest
import torch

from benchmarks.reference import select_crop
from mmtok.hub import objective, selection
from mmtok.hub.images import EncodedVision, Layout
from mmtok.hub.options import PruningOptions
from mmtok.hub.question import Question

FRAMES, TOKENS, WORDS = 4, 12, 3


@pytest.fixture
def not_held(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(selection, "_MOST_HELD", 0)
    monkeypatch.setattr(objective, "_ENTRIES_AT_ONCE", 200)  # four rows
    return monkeypatch


def video(seed: int) -> tuple[EncodedVision, torch.Tensor]:
    """A video of frames that are alike, and (3, 8) words, the last of which is a filler."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(width: int) -> torch.Tensor:
        alike = torch.randn(TOKENS, width, generator=generator).repeat(FRAMES, 1)
        return alike + 0.4 * torch.randn(FRAMES * TOKENS, width, generator=generator)

    source = torch.cat([torch.arange(FRAMES * TOKENS), torch.tensor([-1])])
    layout = Layout.of(source, crops=FRAMES, tokens_per_crop=TOKENS, columns=4, is_video=True)
    projected = torch.nn.functional.pad(drawn(8), (0, 0, 0, 1))  # and a separator
    return EncodedVision([projected], [drawn(6)], [layout]), torch.randn(WORDS, 8, generator=generator)


def described(encoded: EncodedVision, text: torch.Tensor, hidden: bool = False, **options: object) -> tuple:
    given = PruningOptions(**{"vision_token_budget": 5, "budget_scope": "video", **options})
    mask = torch.tensor([[True] * (WORDS - 1) + [False]])
    readable = [torch.arange(len(encoded.projected[0])) % 3 > 0] if hidden else None
    chosen = selection.select(encoded, text[None], mask, given, readable=readable, explain=True)
    return chosen, selection.describe(chosen, encoded.layouts, [0], [Question((), ())])[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("depth", [1, 3])
def test_one_objective_over_all_frames(seed: int, depth: int, not_held: pytest.MonkeyPatch) -> None:
    encoded, text = video(seed)
    budget = 5 * FRAMES
    wanted = select_crop(text[:-1], encoded.projected[0][:-1], encoded.raw[0], budget, text_depth=depth)
    for _ in range(2):
        chosen, kept = described(encoded, text, text_coverage_depth=depth)
        assert kept.indices[kept.pick_order.argsort()].tolist() == wanted
        assert torch.nonzero(chosen.flags)[:, 0].tolist() == sorted(wanted)
        assert chosen.counts == [budget]
        not_held.undo()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden": True},
        {"coverage_target": 0.7},
        {"coverage_target": 0.7, "hidden": True, "text_coverage_depth": 4},
        {"coverage_target": 0.7, "text_coverage_depth": "spread", "text_temperature": 0.5},
        {"text_coverage_weight": 0.0},
        {"vision_coverage_weight": 0.0, "text_coverage_depth": 100},
        {"vision_token_budget": 1.0, "text_coverage_depth": 100},
    ],
    ids=str,
)
def test_what_is_said_of_it_is_the_same(options: dict, not_held: pytest.MonkeyPatch) -> None:
    encoded, text = video(7)
    one, first = described(encoded, text, **options)
    not_held.undo()
    other, second = described(encoded, text, **options)
    assert torch.equal(one.flags, other.flags)
    assert one.counts == other.counts
    for name in ("indices", "pick_order", "text_gain", "vision_gain", "coverage", "full_coverage", "upper_bound"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-5, atol=1e-7)


def test_the_matrix_is_never_held(not_held: pytest.MonkeyPatch) -> None:
    encoded, text = video(0)
    longest: list[int] = []
    read = objective.CoverageRows.read

    def watched(self: objective.CoverageRows, rows: torch.Tensor) -> torch.Tensor:
        longest.append(len(rows))
        return read(self, rows)

    not_held.setattr(objective.CoverageRows, "read", watched)
    described(encoded, text)
    assert max(longest) == 4
    # To normalise, to begin, and to say what all tokens cover, and then each row a few times for all 20 picks.
    assert sum(longest) < 8 * FRAMES * TOKENS
