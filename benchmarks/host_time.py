"""What reading costs the host: `python -m benchmarks.host_time` writes results/host-time.json, after `make tokenizers`.

A call of `forward` up to the vision tower: options, prompt, question, and all of it with pruning and without. Process
time, so that what else the machine does counts little; the models are small, the tokenizers real. Beside it the
configurations of the published checkpoints: the size of config.json, the lines of `print(config)` and the time that
`AutoConfig.from_pretrained` takes, stock's and ours.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.dynamic_module_utils import get_class_from_dynamic_module

import mmtok
from benchmarks.checkpoint_shapes import NAMES, Member, _write_code
from benchmarks.measure import machine, milliseconds, save, side_by_side
from benchmarks.question_words import tokenizer_of
from benchmarks.shapes import Shape
from mmtok.publish.repository import as_json

# Tokenizer: its token for images, and a prompt.
PROMPTS = {
    "Llama-2": ("<image>", "USER: {image}\n{question} ASSISTANT:"),
    "Qwen3": ("<|image_pad|>", "<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n"),
}
IMAGE_TOKENS, BUDGET, ROUNDS = 576, 64, 60
# The steps in front of the tower that stock does not have.
STEPS = {"options": "_options", "question": "questions", "embeddings of the words": "question_embeddings"}
COMMON = ["Is", "the", "red", "dog", "next", "to", "a", "large", "table", "in", "this", "image", "and", "what", "does"]
SYLLABLES = re.findall("..", "bacodifugehijokulaminoperasitovuwaxezu")


class TowerReached(Exception):
    """Raised in place of the vision tower's work."""


def model_with(tokenizer: Tokenizer, image_token: str) -> Any:
    """A small LLaVA that has the vocabulary of a tokenizer, and reads with it."""
    own: dict[str, Any] = {"hidden": 32, "mlp": 32, "heads": 2, "kv_heads": 2, "layers": 1}
    tower = {"vision_hidden": 32, "vision_mlp": 32, "vision_heads": 2, "vision_layers": 2}
    image: Any = tokenizer.token_to_id(image_token)
    shape = Shape("small", False, **own, **tower, vocabulary=tokenizer.get_vocab_size(), image_token=image)
    _, model_class = shape.classes
    model = model_class(shape.config(model_class)).eval()
    model.config.vision_token_budget = BUDGET
    return mmtok.prune(model, PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def question(count: int, seed: int = 0) -> str:
    """So many words: four of five are frequent, the others are made up, other ones for each seed."""
    size = len(SYLLABLES)

    def new(n: int) -> str:
        return "".join(SYLLABLES[number % size] for number in (n, n // size, seed, seed // size))

    return " ".join(new(n) if n % 5 == 4 else COMMON[n % len(COMMON)] for n in range(count))


@torch.no_grad()
def before_the_tower(tokenizer: Tokenizer, image_token: str, prompt: str, words: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the steps and of all that comes before the tower, as medians.

    "seen" is a question that was asked before, in "new words" a fifth of them were not; "not pruned" has no budget.
    """
    model = model_with(tokenizer, image_token)
    pixels = torch.zeros(1, 3, 336, 336)

    def inputs(seed: int) -> dict[str, torch.Tensor]:
        text = prompt.format(image=image_token * IMAGE_TOKENS, question=question(words, seed))
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    taken: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = function(*args, **kwargs)
            taken[name] = time.process_time() - start
            return result

        return run

    rounds: dict[str, list[dict[str, float]]] = {"not pruned": [], "seen": [], "new words": []}
    with ExitStack() as stack:
        stack.enter_context(patch.object(model.model.vision_tower, "forward", side_effect=TowerReached))
        for name, method in STEPS.items():
            stack.enter_context(patch.object(model, method, timed(name, getattr(model, method))))
        seen = inputs(0)
        for number in range(1, ROUNDS + 3):
            for kind, given in (("not pruned", seen), ("seen", seen), ("new words", inputs(number))):
                taken.clear()
                start = time.process_time()
                with suppress(TowerReached):
                    model(**given, vision_token_budget=None if kind == "not pruned" else BUDGET)
                    raise RuntimeError("The call did not reach the vision tower.")
                rounds[kind].append({**taken, "all": time.process_time() - start})
    return {
        kind: {name: round(1e3 * median(each[name] for each in found[2:]), 3) for name in found[-1]}
        for kind, found in rounds.items()
    }


def reading() -> dict[str, Any]:
    """Each tokenizer with a short and a long question."""
    found: dict[str, Any] = {}
    for family, (image_token, prompt) in PROMPTS.items():
        tokenizer = tokenizer_of(family)
        found[family] = {str(words): before_the_tower(tokenizer, image_token, prompt, words) for words in (40, 2000)}
    return found


def configurations() -> dict[str, Any]:
    """One published checkpoint of each model type."""
    members = [Member.read(name) for name in NAMES]
    first = {each.config["model_type"]: each for each in reversed(members)}
    found = {}
    for model_type, member in first.items():
        with tempfile.TemporaryDirectory() as stock, tempfile.TemporaryDirectory() as ours:
            Path(stock, "config.json").write_text(as_json(member.config), encoding="utf-8")
            _write_code(member, Path(ours))
            name = json.loads(Path(ours, "config.json").read_text(encoding="utf-8"))["auto_map"]["AutoConfig"]
            load: dict[str, Callable[[], Any]] = {
                "stock": partial(AutoConfig.from_pretrained, stock),
                "mmtok": partial(AutoConfig.from_pretrained, ours, trust_remote_code=True),
                # A part of the row above that transformers spends on any code of a repository.
                "finding the code": partial(get_class_from_dynamic_module, name, ours),
            }
            found[model_type] = {
                "checkpoint": member.hub_id,
                "bytes": {
                    name: Path(each, "config.json").stat().st_size for name, each in (("stock", stock), ("mmtok", ours))
                },
                "lines": {each: len(str(load[each]()).splitlines()) for each in ("stock", "mmtok")},
                "autoconfig_ms": milliseconds(side_by_side(load, rounds=40, at_least=40, clock=time.process_time)),
            }
    return found


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    results = {
        "command": "python -m benchmarks.host_time",
        "machine": machine("mmtok", "tokenizers", "transformers"),
        "image_tokens": IMAGE_TOKENS,
        "reading": reading(),
        "configurations": configurations(),
    }
    print(json.dumps(results, indent=1))
    print(save("host-time", results))


if __name__ == "__main__":
    main()
