"""The stages of training.

sight     tower and merger write every token as the sum of the words for what it shows, and of its characters
imitate   the language model answers about tokens that are written without a tower
tune      it goes on with what the tower writes, which stays as it is
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.training.loop import train_only
from mmtok.tiny.prints import CHARACTERS, COLORS
from mmtok.tiny.reading import NAMES, TOKEN, ReadingSettings, sample_reading_scene
from mmtok.tiny.scenes import Scene, draw

from .architecture import IMAGE, PLACES, TOWER_WIDTH, WIDTH, character_vectors, to_patches, token_ids, tower_features
from .conversations import Encoder, Seen, answer_logits, converse
from .truth import KINDS, NONE, Truth, scene_truth, stacked

PRINT_SHARE, CHARACTER_SHARE = 0.6, 0.7
CLASSES = NONE + 1
# How often a token or half a patch without a character counts, where most are without.
NONE_WEIGHT = 0.04


class Words(nn.Module):
    """What tokens are written as: sums of word embeddings and of vectors for characters at their places."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration) -> None:
        super().__init__()
        ids, weight = token_ids(), model.get_input_embeddings().weight.detach()
        for name, words in (("objects", NAMES), ("colors", COLORS), ("kinds", KINDS)):
            self.register_buffer(name, weight[[ids[f"Ġ{word}"] for word in words]], persistent=False)
        self.register_buffer("background", weight[ids[IMAGE]], persistent=False)
        self.register_buffer("characters", character_vectors(), persistent=False)

    def forward(self, truth: Truth) -> torch.Tensor:
        """(..., T, hidden)."""
        written = truth.objects @ self.objects
        written = written + PRINT_SHARE * (truth.colors @ self.colors + truth.kinds @ self.kinds)
        for place, vectors in enumerate(self.characters):
            shown = truth.places[..., place]
            on = (shown >= 0) & (shown < NONE)
            written = written + CHARACTER_SHARE * on[..., None] * vectors[shown.clamp(0, NONE - 1)]
        return written + (1 - truth.shares)[..., None] * self.background


def sample_grid(rng: np.random.Generator, smallest: int = 2, large: float = 0.08) -> tuple[int, int]:
    """Draw rows and columns: some tiny, most of up to 100 tokens, some of up to 300; none longer than four times."""
    kind = rng.random()
    low, high = (smallest, 5) if kind < 0.1 else ((8, 22) if kind > 1 - large else (max(4, smallest), 11))
    while True:
        rows, columns = (int(side) for side in rng.integers(low, high, 2))
        if rows * columns <= 300 and max(rows, columns) <= 4 * min(rows, columns):
            return rows, columns


def sample_dense(rows: int, columns: int, rng: np.random.Generator) -> ReadingSettings:
    """Settings for scenes that are full, which teach most per token, or as usual."""
    if rng.random() < 0.25:
        return ReadingSettings()
    count = rows * columns
    objects, prints = (int(np.clip(count / share, 1, most)) for share, most in ((10, 12), (9, 6)))
    return ReadingSettings((0.75, 0, 0, 0.25), (objects, objects), (prints, prints), (6, 6))


def drawn(scene: Scene, rows: int, columns: int) -> tuple[np.ndarray, Truth]:
    """Draw a scene and shrink it to a grid as the processor does: pixels and truth."""
    drawing = draw(scene, grid=(rows, columns))
    pixels = drawing.pixels
    if pixels.shape[:2] != (rows * TOKEN, columns * TOKEN):
        size = columns * TOKEN, rows * TOKEN
        pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return pixels, scene_truth(scene, drawing.coverage, rows, columns)


def sample_shrunk(rows: int, columns: int, scale: float, rng: np.random.Generator) -> Scene:
    """Draw a scene that is to be shrunk to a grid, by about `scale`."""
    height, width = (int(np.clip(round(side / scale), 4, max(side, 12))) for side in (rows, columns))
    return sample_reading_scene(sample_dense(rows, columns, rng), height, width, rng)


class SightLearner(nn.Module):
    """The tower, the merger, and linear heads that name what a token and half a patch show."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, tokens: int) -> None:
        """`tokens`: of a batch, about."""
        super().__init__()
        self.model, self.tokens = model, tokens
        self.words = Words(model)
        graded = len(NAMES) + len(COLORS) + len(KINDS)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            self.graded_head = nn.Linear(WIDTH, graded)
            self.place_head = nn.Linear(WIDTH, PLACES * CLASSES)
            self.half_head = nn.Linear(TOWER_WIDTH, 2 * CLASSES)
            self.graded_head.bias.fill_(-3.5)
            self.place_head.bias.zero_().view(PLACES, CLASSES)[:, NONE] = 1.5
        weight = torch.ones(CLASSES)
        weight[NONE] = NONE_WEIGHT
        self.register_buffer("class_weight", weight, persistent=False)
        train_only(self, ("visual", "graded_head", "place_head", "half_head"))

    def loss(self, rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Write and name every token of a batch of images of one grid."""
        rows, columns = sample_grid(rng)
        shrunk = rng.random() < 0.3 and rows * columns <= 100
        count = int(np.clip(round(self.tokens / (rows * columns)), 1, 24))
        scales = np.exp(rng.uniform(math.log(0.4), 0, count)) if shrunk else np.ones(count)
        found = [drawn(sample_shrunk(rows, columns, scale, rng), rows, columns) for scale in scales]
        truth = stacked([each for _, each in found])
        patches = to_patches(np.stack([pixels for pixels, _ in found]))
        written, middle = tower_features(self.model, patches, rows, columns)
        error = self._error(written, truth)
        loss = 2 * error + self._graded(written, truth)
        places, at = self.place_head(written).float().view(-1, CLASSES), truth.places.view(-1)
        loss = loss + 1.5 * F.cross_entropy(places, at, weight=self.class_weight, ignore_index=-1)
        # Patches come in blocks of 2 x 2.
        halves = self.half_head(middle).float().view(count, rows, columns, 2, 2, 2, CLASSES)
        halves = halves.transpose(2, 3).reshape(-1, CLASSES)
        near = truth.halves.view(-1)
        half_loss = F.cross_entropy(halves, near, weight=self.class_weight, ignore_index=-1)
        loss = loss + (1.5 if done < 0.5 else 0.7) * half_loss
        shown = {"error": error.item(), "places": _right(places, at), "halves": _right(halves, near)}
        big = truth.objects.amax(-1) > 0.6
        named = self.graded_head(written)[..., : len(NAMES)].argmax(-1) == truth.objects.argmax(-1)
        return loss, {**shown, "objects": named[big].float().mean().item()}

    def _error(self, written: torch.Tensor, truth: Truth) -> torch.Tensor:
        """The squared error of what is written; empty tokens and those of no telling count less."""
        shares = truth.shares
        weight = (0.15 + 0.85 * shares) * torch.where((truth.places == -1).any(-1), 0.3, 1.0)
        return (weight * (written - self.words(truth)).square().sum(-1)).sum() / weight.sum()

    def _graded(self, written: torch.Tensor, truth: Truth) -> torch.Tensor:
        goals = truth.objects, truth.colors, truth.kinds
        logits = self.graded_head(written).float().split([goal.shape[-1] for goal in goals], -1)
        total = written.new_zeros(())
        for own, goal, part, positive in zip(logits, goals, (1, 0.5, 0.5), (4, 3, 3), strict=True):
            weight = 1 + (positive - 1) * goal
            summed = F.binary_cross_entropy_with_logits(own, goal, weight, reduction="sum")
            total = total + part * summed / (2 * goal.sum() + 10)
        return total


def _right(logits: torch.Tensor, classes: torch.Tensor) -> float:
    shown = (classes >= 0) & (classes < NONE)
    return (logits.argmax(-1) == classes)[shown].float().mean().item()


def imitated(words: Words, truth: Truth, rng: np.random.Generator) -> torch.Tensor:
    """Write tokens as a tower would that slips now and then: wrong characters, faint and stray objects, noise."""

    def uniform(low: float, high: float, shape: torch.Size) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))

    places = truth.places.clone()
    slip = (places >= 0) & (places < NONE) & (uniform(0, 1, places.shape) < 0.02)
    places[slip] = torch.from_numpy(rng.integers(0, NONE, int(slip.sum())))
    objects = truth.objects * uniform(0.6, 1.1, truth.objects.shape)
    stray = (uniform(0, 1, objects.shape) < 0.004) * uniform(0.1, 0.5, objects.shape)
    written = words(Truth(torch.maximum(objects, stray), truth.colors, truth.kinds, places, truth.halves))
    written = written * uniform(0.75, 1.05, written.shape[:-1])[..., None]
    return written + 0.045 * torch.from_numpy(rng.standard_normal(written.shape, dtype=np.float32))


def some_dropped(tokens: torch.Tensor, shares: torch.Tensor, grid: tuple[int, int], rng: np.random.Generator) -> Seen:
    """Take away a part of the empty tokens of every second image, as any pruning does."""
    keep = torch.ones(len(tokens), dtype=torch.bool)
    if rng.random() < 0.5:
        keep = (shares > 0) | torch.from_numpy(rng.random(len(tokens)) < rng.random())
        keep[0] |= not keep.any()
    return Seen(tokens[keep], *grid, keep.nonzero()[:, 0])


class LanguageLearner(nn.Module):
    """The language model, which reads imitated images, and those that a tower wrote where there are some."""

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        batch_size: int,
        written: Sequence[tuple[Scene, torch.Tensor, torch.Tensor, tuple[int, int]]] = (),
    ) -> None:
        """
        Args:
            model: its language model learns, its words stay.
            batch_size: images at once.
            written: see `write_scenes`; of a batch three quarters are of these.
        """
        super().__init__()
        self.model, self.batch_size, self.written = model, batch_size, written
        self.words, self.encoder = Words(model), Encoder()
        self.characters = torch.tensor([token_ids()[character] for character in CHARACTERS])
        train_only(self, ("language_model.layers", "language_model.norm", "lm_head"))

    def loss(self, rng: np.random.Generator, done: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Answer about one batch of images."""
        scenes, seen = [], []
        imitated_count = self.batch_size // 4 if self.written else self.batch_size
        rows, columns = grid = sample_grid(rng)
        for _ in range(imitated_count):
            scene = sample_nonempty(rows, columns, rng)
            truth = scene_truth(scene, draw(scene, grid=grid).coverage, rows, columns)
            scenes.append(scene)
            seen.append(some_dropped(imitated(self.words, truth, rng), truth.shares, grid, rng))
        for _ in range(self.batch_size - imitated_count):
            scene, tokens, shares, grid = self.written[int(rng.integers(len(self.written)))]
            noise = torch.from_numpy(rng.standard_normal(tokens.shape, dtype=np.float32))
            scenes.append(scene)
            seen.append(some_dropped(tokens.float() + 0.02 * noise, shares, grid, rng))
        turns = [converse(scene, rng) for scene in scenes]
        logits, labels, _ = answer_logits(self.model, self.encoder, seen, turns)
        right, character = logits.argmax(-1) == labels, torch.isin(labels, self.characters)
        shown = {"right": right.float().mean().item(), "characters": right[character].float().mean().item()}
        return F.cross_entropy(logits, labels), shown


def sample_nonempty(rows: int, columns: int, rng: np.random.Generator) -> Scene:
    """Draw a scene that something can be asked about."""
    while True:
        scene = sample_reading_scene(ReadingSettings(), max(4, rows), max(4, columns), rng)
        if scene.objects or scene.prints:
            return scene


@torch.no_grad()
def write_scenes(
    model: Qwen2_5_VLForConditionalGeneration, count: int, seed: list[int]
) -> list[tuple[Scene, torch.Tensor, torch.Tensor, tuple[int, int]]]:
    """Draw scenes, half of them shrunk, and let the tower write them.

    Returns:
        For each the scene, (T, hidden) bfloat16 tokens, (T,) the share of each that shows something, and the grid.
    """
    written = []
    for number in range(count):
        rng = np.random.default_rng([*seed, number])
        rows, columns = sample_grid(rng, smallest=4)
        scene = sample_nonempty(rows, columns, rng)
        scale = 1.0 if rng.random() < 0.5 else math.sqrt(math.exp(rng.uniform(math.log(0.12), 0)))
        grid = max(1, round(rows * scale)), max(1, round(columns * scale))
        pixels, truth = drawn(scene, *grid)
        tokens, _ = tower_features(model, to_patches(pixels[None]), *grid)
        written.append((scene, tokens[0].bfloat16(), truth.shares, grid))
    return written
