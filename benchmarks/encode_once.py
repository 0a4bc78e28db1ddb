"""What encoding an image once gains: `python benchmarks/encode_once.py` writes results/encode-once-cpu.json.

N questions about one image, each to its first new token, with and without `encode_images`, in turns. The shapes are the
real widths with a share of the layers; the tower has the same share of its layers as the language model.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

import torch
from measure import machine, milliseconds, save, side_by_side, times_faster
from prefill import BUDGET, BUDGET_NEXT, WORDS, new_tokens
from shapes import SHAPES

QUESTIONS = (1, 6, 18)
IMAGES = ("pixel_values", "image_sizes")


def measure(name: str, layers: int, questions: int, rounds: int) -> dict[str, Any]:
    """One model and a number of questions; the answers of both ways are the same, or it raises an AssertionError."""
    shape = SHAPES[name].reduced(layers)
    _, model = shape.models(torch.bfloat16, "cpu")
    model.config.vision_token_budget = BUDGET_NEXT if shape.next else BUDGET
    inputs = shape.inputs(1, WORDS, torch.bfloat16, "cpu")
    images = {key: inputs.pop(key) for key in IMAGES if key in inputs}
    prompts = []
    for number in range(questions):
        prompt = {**inputs, "input_ids": inputs["input_ids"].clone()}
        prompt["input_ids"][:, -1] = 3 + number  # every question is another one
        prompts.append(prompt)

    def encoded_once() -> list[torch.Tensor]:
        encoded = model.encode_images(**images)
        return [new_tokens(model, prompt, 1, encoded_images=encoded)[:, -1] for prompt in prompts]

    ways = {
        "every question encodes": lambda: [new_tokens(model, {**each, **images}, 1)[:, -1] for each in prompts],
        "encoded once": encoded_once,
    }
    first = [way() for way in ways.values()]
    assert all(torch.equal(one, other) for one, other in zip(*first, strict=True)), "the answers differ"
    times = side_by_side(ways, warm_up=False, rounds=rounds, at_least=rounds)
    return {
        "model": name,
        "layers": shape.layers,
        "vision_layers": shape.vision_layers,
        "questions": questions,
        "rounds": rounds,
        "ms": milliseconds(times),
        "times_faster": times_faster(times, "every question encodes")["encoded once"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=4, help="language layers")
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=["LLaVA-1.5-7B", "LLaVA-NeXT-7B"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's own number without it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    torch.manual_seed(0)
    results = {
        "command": shlex.join(["python", "benchmarks/encode_once.py", *sys.argv[1:]]),
        "machine": machine("mmtok", "transformers"),
        "measured": [
            measure(name, options.layers, questions, options.rounds)
            for name in options.models
            for questions in QUESTIONS
        ],
    }
    print(save("encode-once-cpu", results))


if __name__ == "__main__":
    main()
