"""A harder case: the embedded model in the layout of LLaVA-NeXT, taught on the spot to read cluttered images.

An image of 192 x 192 with 8 to 15 objects becomes five crops, the whole image at half its size and four tiles, with
row separators: 744 tokens. The tower stays as it is; projector and language model learn, from the embedded checkpoint,
to read so many tokens or a random part of them, and four relations that the embedded model has no words for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from tqdm import tqdm
from transformers import (
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from benchmarks.embedded_model.architecture import PLAIN
from benchmarks.embedded_model.samples import IGNORED, ConversationEncoder, sample_kept, to_pixel_values
from mmtok.tiny import questions as ask
from mmtok.tiny.scenes import Scene, SceneSettings, sample_scene

from .scene_sets import relation_question

CLUTTERED = SceneSettings(size=192, min_objects=8, max_objects=15, min_radius=8.0, max_radius=13.0, gap=2.0)
RELATION_WORDS = ("left", "right", "of", "above", "below")
PINPOINTS = [[96, 192], [192, 96], [192, 192]]
STEPS = 800
BATCH = 12
TURNS = 9
RATE = 5e-4
_ALL_TOKENS = 0.2
_FEWEST = 10


def make_cluttered_checkpoint(
    base: Path, folder: Path, *, steps: int = STEPS, seed: int = 0, progress: bool = True
) -> dict[str, float]:
    """Writes a LLaVA-NeXT checkpoint, fine-tuned from an embedded one.

    Args:
        base: the embedded checkpoint.
        folder: replaced.
        steps: of the fine-tuning; 0 for the base's weights as they are, which is enough to look at selections.
        seed: of the new weights and of every batch.
        progress: whether to show a bar.

    Returns:
        `steps`, and means over the last tenth of them: `loss`, and `right`, the share of right answer tokens.
    """
    shutil.rmtree(folder, ignore_errors=True)
    write_processor(base, folder)
    _cut_into_tiles(folder)
    model = _untrained(base, folder, seed)
    found = _train(model, ExtendedEncoder(folder), steps, seed, progress) if steps else {}
    model.eval().save_pretrained(folder)
    return {"steps": steps, **found}


def write_processor(base: Path, folder: Path) -> None:
    """The base's processor, whose tokenizer also knows the words for relations."""
    folder.mkdir(parents=True)
    for path in base.iterdir():
        if path.suffix in (".json", ".jinja") and path.name not in ("config.json", "training_report.json"):
            shutil.copy(path, folder / path.name)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    for word in RELATION_WORDS:
        vocabulary.setdefault(word, len(vocabulary))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def _cut_into_tiles(folder: Path) -> None:
    """Makes a folder's image processor that of LLaVA-NeXT."""

    def edit(name: str, **fields: Any) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")

    edit("tokenizer_config.json", processor_class="LlavaNextProcessor")
    edit("processor_config.json", processor_class="LlavaNextProcessor")
    edit(
        "preprocessor_config.json",
        processor_class="LlavaNextProcessor",
        image_processor_type="LlavaNextImageProcessor",
        do_pad=True,
        image_grid_pinpoints=PINPOINTS,
    )


def _untrained(base: Path, folder: Path, seed: int) -> LlavaNextForConditionalGeneration:
    """The base's weights in the LLaVA-NeXT class, with rows for the new words."""
    stock = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stock.resize_token_embeddings(len(vocabulary), mean_resizing=False)
        values = {
            key: value for key, value in stock.config.to_dict().items() if key not in ("model_type", "_name_or_path")
        }
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(**{**values, "image_grid_pinpoints": PINPOINTS}))
    model.load_state_dict(stock.state_dict(), strict=False)  # all but image_newline
    with torch.no_grad():
        model.model.image_newline.zero_()
    model.generation_config = stock.generation_config
    return model


class ExtendedEncoder(ConversationEncoder):
    """Writes conversations with the extended tokenizer."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)


def _train(
    model: LlavaNextForConditionalGeneration, encoder: ExtendedEncoder, steps: int, seed: int, progress: bool
) -> dict[str, float]:
    model.train()
    model.model.vision_tower.requires_grad_(False)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps, pct_start=0.1)
    history = []
    for step in tqdm(range(steps), desc="cluttered", disable=not progress, mininterval=10):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, right = _loss(model, encoder, np.random.default_rng([seed, 77, step]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        history.append((loss.item(), right))
    last = np.mean(history[-max(1, steps // 10) :], axis=0)
    return {"loss": round(float(last[0]), 4), "right": round(float(last[1]), 4)}


def _loss(
    model: LlavaNextForConditionalGeneration, encoder: ExtendedEncoder, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    scenes = [sample_scene(CLUTTERED, rng) for _ in range(BATCH)]
    shown = [token_labels(scene) for scene in scenes]
    whole = rng.random() < _ALL_TOKENS
    count = int(np.exp(rng.uniform(np.log(_FEWEST), np.log((shown[0] > -2).sum()))))
    kept = [np.arange(len(labels)) if whole else _part(labels, count, rng) for labels in shown]
    encoded = [encoder.encode(_conversation(scene, rng), len(kept[0])) for scene in scenes]
    longest = max(len(ids) for ids, _ in encoded)
    ids = torch.tensor([row + [encoder.pad_id] * (longest - len(row)) for row, _ in encoded])
    labels = torch.tensor([row + [IGNORED] * (longest - len(row)) for _, row in encoded])

    tokens = _tokens(model, scenes)
    patches = torch.stack([rows[torch.from_numpy(index)] for rows, index in zip(tokens, kept, strict=True)])
    words = model.get_input_embeddings()(ids)
    start = encoder.image_start
    embeds = torch.cat([words[:, :start], patches.to(words.dtype), words[:, start + patches.shape[1] :]], dim=1)
    # Padding is on the right, where causal attention never looks: no mask is needed.
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, :-1]
    target = labels[:, 1:]
    chosen = target != IGNORED
    logits = model.lm_head(hidden[chosen]).float()
    right = (logits.argmax(-1) == target[chosen]).float().mean().item()
    return F.cross_entropy(logits, target[chosen]), right


def _tokens(model: LlavaNextForConditionalGeneration, scenes: Sequence[Scene]) -> list[torch.Tensor]:
    """For each scene (744, hidden), its tokens as stock packs them."""
    pixels = to_pixel_values([scene.pixels() for scene in scenes])
    half = F.interpolate(pixels, size=PLAIN.size, mode="bicubic", antialias=True).clamp(-1, 1)
    tiles = pixels.unfold(2, PLAIN.size, PLAIN.size).unfold(3, PLAIN.size, PLAIN.size)
    tiles = tiles.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    sizes = torch.tensor([[CLUTTERED.size, CLUTTERED.size]] * len(scenes))
    found = model.get_image_features(torch.cat((half[:, None], tiles), dim=1), sizes)
    return list(getattr(found, "pooler_output", found))


def token_labels(scene: Scene) -> NDArray[np.int64]:
    """What each token of a cluttered scene shows: an index into its objects, -1 for none, -2 for a row separator."""
    halved = replace(scene, settings=replace(scene.settings, patch_size=2 * PLAIN.patch_size)).patch_labels()
    tiles = scene.patch_labels().reshape(scene.settings.grid, scene.settings.grid)
    return np.concatenate([halved, np.pad(tiles, ((0, 0), (0, 1)), constant_values=-2).reshape(-1)])


def _part(labels: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random part of the tokens that are no row separators; each object can keep one."""
    tokens = np.flatnonzero(labels > -2)
    return tokens[sample_kept(labels[tokens], max(count, CLUTTERED.max_objects), rng)]


def _conversation(scene: Scene, rng: np.random.Generator) -> list[ask.SceneQuestion]:
    drawn: list[ask.SceneQuestion] = []
    while len(drawn) < TURNS:
        kind, holds = rng.random(), bool(rng.random() < 0.5)
        question: ask.SceneQuestion | None
        if kind < 0.45:
            question = ask.existence_question(
                scene, rng, present=holds, negative="hard" if rng.random() < 0.6 else "random"
            )
        elif kind < 0.6:
            question = ask.attribute_question(scene, rng, present=holds)
        elif kind < 0.7:
            question = ask.color_question(scene, rng)
        elif kind < 0.8:
            question = ask.shape_question(scene, rng)
        else:
            question = relation_question(scene, rng, holds=holds)
        if question is not None:
            drawn.append(question)
    return drawn
