"""What reading costs the host: `python -m benchmarks.host_time` writes results/host-time.json, after `make tokenizers`.

A call of `forward` up to the vision tower: options, prompt, question, and all of it with pruning and without. Process
time, so that what else the machine does counts little; the models are small, the tokenizers real.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import mmtok
from benchmarks.measure import save
from benchmarks.question_words import tokenizer_of
from benchmarks.shapes import small_model

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
    image: Any = tokenizer.token_to_id(image_token)
    model = small_model(False, 32, tokenizer.get_vocab_size(), image)
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


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for family, (image_token, prompt) in PROMPTS.items():
        tokenizer = tokenizer_of(family)
        found[family] = {str(words): before_the_tower(tokenizer, image_token, prompt, words) for words in (40, 2000)}
    results = {"image_tokens": IMAGE_TOKENS, "reading": found}
    print(json.dumps(results, indent=1), save("host-time", results, "mmtok", "tokenizers", "transformers"))


if __name__ == "__main__":
    main()
