"""A reader of relations: the embedded model taught on the spot to say where two objects stand to each other.

The embedded model cannot learn this from its own tokens: its tower was taught to name patches, and what it says of a
patch's place is gone behind the projector (`place.place_kept` measures it); a pruned prompt does not say it either. So
the tower learns to keep the place and the projector to write row and column beside the words, in two directions that
no word has. In order:

    words    the language model compares places in images of few patches that are written without a mistake
    sight    tower and projector write each patch's words and place
    tuning   everything but the word embeddings learns on rendered images

What makes three layers learn it in some hundred steps is to say what is to be found on the way: the place of an object
at its name, and how far the two are apart at the answer. Answers alone stay at chance for as long.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from benchmarks.embedded_model.architecture import CROWDED, PLAIN, vision_features
from benchmarks.embedded_model.held_out import HELD_OUT
from benchmarks.embedded_model.samples import IGNORED, sample_kept, to_pixel_values
from mmtok.tiny.scenes import COLORS, SHAPES, Scene, SceneSettings, sample_scene

from .crops_reader import RELATION_WORDS, ExtendedEncoder, write_processor
from .place_probe import places
from .relations_samples import conversation, searched

STEPS = (400, 250, 240)
BATCHES = (32, 40, 20)
# Of the questions: more where there is only this to learn, then fewer, so that nothing else is forgotten.
RELATIONS = (0.6, 0.0, 0.4)
RATES = (1.5e-3, 2e-3, 1e-3)
# Of the tower, and in `tuning` of the projector too.
SLOW_RATES = (0.0, 1e-3, 2e-4)
_FEWEST, _FEW = 6, 24
_ALL_TOKENS = 0.3
_BACKGROUND = 0.2


def make_related_checkpoint(
    base: Path, folder: Path, *, steps: tuple[int, int, int] = STEPS, seed: int = 0, progress: bool = True
) -> dict[str, float]:
    """Writes a LLaVA-1.5 checkpoint that reads relations, fine-tuned from an embedded one.

    Args:
        base: the embedded checkpoint.
        folder: replaced.
        steps: of the three stages.
        seed: of the new weights and of every batch.
        progress: whether to show bars.

    Returns:
        `steps`, and the share of right answers over the last tenth of those of `tuning`: `related` of the questions for
        relations, `right` of the others.
    """
    shutil.rmtree(folder, ignore_errors=True)
    write_processor(base, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pupil = _Pupil(base, ExtendedEncoder(folder))
    stages: tuple[tuple[str, Callable[[_Pupil, np.random.Generator], _Loss]], ...] = (
        ("words", _words_loss),
        ("sight", _sight_loss),
        ("tuning", _tuning_loss),
    )
    history: list[tuple[float, float]] = []
    for index, (name, loss_of) in enumerate(stages):
        history = []
        optimizer = pupil.optimizer(index)
        peaks = [group["lr"] for group in optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps[index], pct_start=0.1)
        for step in tqdm(range(steps[index]), desc=name, disable=not progress, mininterval=10):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = loss_of(pupil, np.random.default_rng([seed, 78, index, step]))
            optimizer.zero_grad()
            found.loss.backward()
            learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            schedule.step()
            history.append((found.related, found.right))
    pupil.model.eval().save_pretrained(folder)
    last = np.nanmean(history[-max(1, len(history) // 10) :], axis=0)
    return {"steps": sum(steps), "related": round(float(last[0]), 4), "right": round(float(last[1]), 4)}


@dataclass(frozen=True)
class _Loss:
    loss: torch.Tensor
    related: float = float("nan")
    right: float = float("nan")


class _Pupil(nn.Module):
    """The model with two heads that say on the way what it is to find."""

    def __init__(self, base: Path, encoder: ExtendedEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
        words = self.model.get_input_embeddings().weight
        known, width = words.shape
        free = torch.linalg.svd(words.detach(), full_matrices=True)[2][known:]
        self.model.resize_token_embeddings(known + len(RELATION_WORDS), mean_resizing=False)
        with torch.no_grad():
            self.model.get_input_embeddings().weight[known:] = free[: len(RELATION_WORDS)]
        self.place_directions = free[len(RELATION_WORDS) :][:2].clone()
        self.place_head = nn.Linear(width, 2)
        self.distance_head = nn.Linear(width, 3)
        self.color_ids = torch.tensor([encoder.ids(color)[0] for color in COLORS])
        self.shape_ids = torch.tensor([encoder.ids(shape)[0] for shape in SHAPES])
        with torch.no_grad():
            # Places that are as small as the embedded tower's are not found again within these steps.
            tower = self.model.model.vision_tower
            embedded = getattr(tower, "vision_model", tower).embeddings.position_embedding.weight
            embedded[1:] += places() @ torch.linalg.qr(torch.randn(embedded.shape[1], 2))[0].T

    def optimizer(self, stage: int) -> torch.optim.Optimizer:
        """Freezes what a stage doesn't teach."""
        tower = list(self.model.model.vision_tower.parameters())
        projector = list(self.model.model.multi_modal_projector.parameters())
        heads = [*self.place_head.parameters(), *self.distance_head.parameters()]
        language = [*self.model.model.language_model.parameters(), *self.model.lm_head.parameters(), *heads]
        words = self.model.get_input_embeddings().weight
        language = [parameter for parameter in language if parameter is not words]
        slow, fast = (([], language), (tower, projector), (tower + projector, language))[stage]
        self.requires_grad_(False)
        for parameter in slow + fast:
            parameter.requires_grad_(True)
        groups = [{"params": fast, "lr": RATES[stage]}]
        if slow:
            groups.append({"params": slow, "lr": SLOW_RATES[stage]})
        return torch.optim.AdamW(groups, weight_decay=0.02, betas=(0.9, 0.98))

    def written(self, scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, patches, hidden), each patch as its words and place; (B, patches) bool, whether it shows an object."""
        embed = self.model.get_input_embeddings()
        patches = embed(torch.tensor(self.encoder.image_id)).expand(len(scenes), PLAIN.grid**2, -1).clone()
        shows = torch.from_numpy(np.stack([scene.patch_labels() for scene in scenes]))
        colors, shapes = list(COLORS), list(SHAPES)
        for row, labels, scene in zip(patches, shows, scenes, strict=True):
            color = self.color_ids[[colors.index(item.color) for item in scene.objects]]
            shape = self.shape_ids[[shapes.index(item.shape) for item in scene.objects]]
            row[labels >= 0] = (embed(color) + embed(shape))[labels[labels >= 0]]
        return patches + places() @ self.place_directions, shows >= 0

    def projected(self, scenes: list[Scene]) -> torch.Tensor:
        pixels = to_pixel_values([scene.pixels() for scene in scenes])
        return self.model.model.multi_modal_projector(vision_features(self.model, pixels)).float()


def _words_loss(pupil: _Pupil, rng: np.random.Generator) -> _Loss:
    scenes = [sample_scene(HELD_OUT, rng) for _ in range(BATCHES[0])]
    answers, on_the_way = _answered(pupil, scenes, pupil.written(scenes)[0], _count(rng, _FEW), RELATIONS[0], rng)
    return _Loss(answers.loss + on_the_way, answers.related, answers.right)


def _sight_loss(pupil: _Pupil, rng: np.random.Generator) -> _Loss:
    scenes = [sample_scene(_settings(rng), rng) for _ in range(BATCHES[1])]
    return _Loss(_error(pupil.projected(scenes), *pupil.written(scenes)))


def _tuning_loss(pupil: _Pupil, rng: np.random.Generator) -> _Loss:
    settings = _settings(rng)
    scenes = [sample_scene(settings, rng) for _ in range(BATCHES[2])]
    whole = PLAIN.grid**2
    count = whole if rng.random() < _ALL_TOKENS else max(_count(rng, whole), settings.max_objects)
    projected = pupil.projected(scenes)
    answers, on_the_way = _answered(pupil, scenes, projected, count, RELATIONS[2], rng)
    error = _error(projected, *pupil.written(scenes))
    return _Loss(answers.loss + 0.3 * on_the_way + 0.5 * error, answers.related, answers.right)


def _settings(rng: np.random.Generator) -> SceneSettings:
    return CROWDED if rng.random() < 0.25 else HELD_OUT


def _count(rng: np.random.Generator, most: int) -> int:
    return int(np.exp(rng.uniform(np.log(_FEWEST), np.log(most))))


def _error(projected: torch.Tensor, written: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    """The squared error relative to the target's own square."""
    weight = torch.where(objects, 1.0, _BACKGROUND)
    return (weight * (projected - written).square().sum(-1)).sum() / (weight * written.square().sum(-1)).sum()


def _answered(
    pupil: _Pupil, scenes: list[Scene], patches: torch.Tensor, count: int, relations: float, rng: np.random.Generator
) -> tuple[_Loss, torch.Tensor]:
    """The loss of the answers about `count` patches of each image, and of what is to be found on the way to them."""
    encoder = pupil.encoder
    kept = np.stack([sample_kept(scene.patch_labels(), count, rng) for scene in scenes])
    turns = [conversation(scene, relations, rng) for scene in scenes]
    encoded = [encoder.encode(asked, count) for asked in turns]
    longest = max(len(ids) for ids, _ in encoded)
    ids = torch.tensor([row + [encoder.pad_id] * (longest - len(row)) for row, _ in encoded])
    labels = torch.tensor([row + [IGNORED] * (longest - len(row)) for _, row in encoded])
    names, asked = searched(scenes, turns, ids, labels, encoder)

    words = pupil.model.get_input_embeddings()(ids)
    chosen = patches.gather(1, torch.from_numpy(kept)[..., None].expand(-1, -1, patches.shape[-1]))
    start = encoder.image_start
    embeds = torch.cat([words[:, :start], chosen.to(words.dtype), words[:, start + count :]], dim=1)
    # Padding is on the right, where causal attention never looks: no mask is needed.
    output = pupil.model.model.language_model(inputs_embeds=embeds, use_cache=False, output_hidden_states=True)
    last, middle = output.last_hidden_state, output.hidden_states[-2]
    target = labels[:, 1:]
    answers = target != IGNORED
    logits = pupil.model.lm_head(last[:, :-1][answers]).float()
    right = (logits.argmax(-1) == target[answers]).float()
    row, place = asked[:, 0].long(), asked[:, 1].long()
    related = torch.zeros_like(answers)
    related[row, place] = True
    related = related[answers]
    place_error = F.mse_loss(pupil.place_head(middle[names[:, 0].long(), names[:, 1].long()]).float(), names[:, 2:])
    distance_error = F.mse_loss(pupil.distance_head(last[row, place]).float(), asked[:, 2:])
    found = _Loss(F.cross_entropy(logits, target[answers]), right[related].mean().item(), right[~related].mean().item())
    return found, place_error + distance_error
