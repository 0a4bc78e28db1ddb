"""Answers of the embedded Qwen2.5-VL about fresh scenes: `python -m benchmarks.reading.evaluate --output FILE`.

Images of 64 to 300 vision tokens and of any shape up to 1 : 4: objects, signs, both, and pages of several lines.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature
from transformers.utils import is_torchvision_available

from benchmarks.training.folder import write_json
from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.evaluation.encoded import EncodedBatch
from mmtok.evaluation.runner import generate_by_selector
from mmtok.evaluation.selectors import Selector
from mmtok.image_cache import EncodedImageCache
from mmtok.measuring import machine
from mmtok.record_store import model_content
from mmtok.tiny import QWEN, checkpoint_path
from mmtok.tiny.questions import Question
from mmtok.tiny.reading import HELD_OUT, ReadingSettings, reading_questions, sample_reading_scene
from mmtok.tiny.scenes import Scene

SEED = 20_261_130
TOKENS = 64, 300
BATCH = 16
ANSWER_TOKENS = 6


class QwenImageProcessor:
    """What `Checkpoint` and the tests use of a processor; tokens and pixels are those of stock's."""

    def __init__(self, path: str | Path) -> None:
        self.image_processor = AutoImageProcessor.from_pretrained(path)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.chat_template = self.tokenizer.chat_template
        self.apply_chat_template = partial(self.tokenizer.apply_chat_template, tokenize=False)
        self.batch_decode = self.tokenizer.batch_decode

    def __call__(self, images: Sequence[Image.Image], text: Sequence[str], **settings: Any) -> BatchFeature:
        """Prepare prompts with one image each; `settings` are those of the tokenizer."""
        pixels = self.image_processor(list(images), return_tensors="pt")
        counts = pixels["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2
        image = "<|image_pad|>"
        prompts = [one.replace(image, image * int(count)) for one, count in zip(text, counts, strict=True)]
        read = self.tokenizer(prompts, **settings)
        kinds = (read["input_ids"] == self.tokenizer.convert_tokens_to_ids(image)).int()
        return BatchFeature({**read, **pixels, "mm_token_type_ids": kinds})


def load_qwen(path: str | Path) -> Checkpoint:
    """Load a checkpoint or a staged folder with its own processor, or with the above where torchvision is missing."""
    return Checkpoint.load(path, processor=None if is_torchvision_available() else QwenImageProcessor(path))


@dataclass(frozen=True)
class Right:
    """What is right of the answers of one kind, in percent, with its 95 % interval over the scenes (bootstrap)."""

    percent: float
    low: float
    high: float
    questions: int


def held_out_scenes(count: int, seed: int = SEED, settings: ReadingSettings = HELD_OUT) -> list[Scene]:
    """Draw scenes that something can be asked about."""
    scenes: list[Scene] = []
    rng = np.random.default_rng([seed, 0])
    while len(scenes) < count:
        rows, columns = (int(side) for side in rng.integers(4, 31, 2))
        if TOKENS[0] <= rows * columns <= TOKENS[1] and max(rows, columns) <= 4 * min(rows, columns):
            scene = sample_reading_scene(settings, rows, columns, rng)
            scenes += [scene] if scene.objects or scene.prints else []
    return scenes


def asked_about(scenes: Sequence[Scene], seed: int = SEED) -> Iterator[tuple[int, str, Question]]:
    """Ask about scenes: their numbers, kinds and questions, those about images of like size one after another."""
    order = sorted(range(len(scenes)), key=lambda number: np.prod(scenes[number].size))
    for number in order:
        for kind, questions in reading_questions(scenes[number], np.random.default_rng([seed, 1, number])).items():
            yield from ((number, kind, question) for question in questions)


def evaluate(checkpoint: Checkpoint, scenes: Sequence[Scene], options: Mapping[str, Any]) -> dict[str, Right]:
    """Ask a model about scenes; arguments and kinds as in `scores_of`.

    Returns:
        Each kind with its share of right answers.
    """
    scores = scores_of(checkpoint, scenes, options, EncodedImageCache(checkpoint.model))
    return {kind: right_of(found) for kind, found in scores.items()}


@torch.inference_mode()
def scores_of(
    checkpoint: Checkpoint,
    scenes: Sequence[Scene],
    options: Mapping[str, Any],
    cache: EncodedImageCache,
    enlarged: int = 1,
    selector: Selector | None = None,
) -> dict[str, list[tuple[int, float]]]:
    """Ask a model about scenes.

    Args:
        checkpoint: with pruning.
        scenes: see `held_out_scenes`.
        options: of the calls, such as `vision_token_budget`.
        cache: of the model, for images that are asked about again.
        enlarged: how many times as large the scenes are drawn.
        selector: selects in place of the model, to the budget among the options.

    Returns:
        "yes/no", "name", "count", "word" (whole words and numbers) and "letter" (their characters), each with the
        number of the scene and the score from 0 to 1 of each question, in an order that depends on the scenes alone.
    """
    asked = list(asked_about(scenes))
    scores: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        images = [scenes[number].image(enlarged) for number, *_ in part]
        inputs = checkpoint.inputs([each.text for *_, each in part], images)
        if selector is not None:
            encoded = EncodedBatch.of(checkpoint.model, inputs, (), range(len(part)))
            budget = options["vision_token_budget"]
            said, _ = generate_by_selector(checkpoint, inputs, encoded, selector, budget, ANSWER_TOKENS)
        else:
            inputs = cache.inputs(inputs, **options)
            given = checkpoint.model.generate(**inputs, **options, max_new_tokens=ANSWER_TOKENS, do_sample=False)
            said = checkpoint.processor.batch_decode(given[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for (number, kind, question), answer in zip(part, said, strict=True):
            scores["word" if kind == "read" else kind].append((number, answer == question.answer))
            if kind == "read":
                same = sum(a == b for a, b in zip(answer, question.answer, strict=False))
                scores["letter"].append((number, same / len(question.answer)))
    return dict(scores)


def right_of(scores: Sequence[tuple[int, float]], resamples: int = 1000) -> Right:
    """Return the mean of the scores, or of differences of scores, with the interval of a bootstrap over the scenes."""
    numbers, inverse = np.unique([number for number, _ in scores], return_inverse=True)
    values = np.array([value for _, value in scores], float)
    sums, counts = np.bincount(inverse, values), np.bincount(inverse)
    drawn = np.random.default_rng(0).integers(len(numbers), size=(resamples, len(numbers)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    percent, low, high = (round(100 * float(value), 1) for value in (values.mean(), low, high))
    return Right(percent, low, high, len(values))


def main() -> None:
    """Evaluate the embedded model with all tokens and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    found = evaluate(load_qwen(checkpoint_path(QWEN)), held_out_scenes(options.scenes), {"vision_token_budget": None})
    print(*(f"{kind} {right}" for kind, right in found.items()), sep="\n")
    told = {"seed": SEED, "scenes": options.scenes, "checkpoint": model_content(checkpoint_path(QWEN))}
    results = {"all": {kind: asdict(right) for kind, right in found.items()}}
    write_json(options.output, {"machine": machine(), **told, "right, in %": results})


if __name__ == "__main__":
    main()
