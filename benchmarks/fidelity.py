"""Compares the preset `paper` with the reference's formula: `python -m benchmarks.fidelity TOKENIZER FILE...`.

Both start from an image and a question. The models are random, with LLaVA's 576 tokens a crop; the tokenizer is
LLaVA-1.5's and the questions are POPE's, which are no part of the project. The reference is the restatement in
`reference.py`; it encodes the crops itself. Writes benchmarks/results/fidelity.json; docs/fidelity.md shows its table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessor, LlavaNextImageProcessor, PreTrainedTokenizerFast

import mmtok
from benchmarks.measure import save
from benchmarks.reference import select_crop, text_rows
from benchmarks.shapes import PINPOINTS, small_model
from mmtok.evaluation.questions import read_questions
from mmtok.hub.options import PAPER_OPTIONS

IMAGE_SIZE, PATCH_SIZE, WIDTH = 336, 14, 64
# Questions of POPE for LLaVA-1.5; LLaVA-NeXT gets a fifth.
COUNT = 240
CASES: dict[str, tuple[str, tuple[tuple[int, int], ...], int]] = {
    # (family, sizes of the images as (width, height), tokens kept of each crop)
    "LLaVA-1.5": ("llava", ((336, 336), (640, 480)), 64),
    "LLaVA-NeXT, tiles without padding": ("llava_next", ((672, 672), (672, 336), (336, 1008)), 32),
    "LLaVA-NeXT, tiles with padding": ("llava_next", ((640, 480), (480, 640), (640, 427), (1000, 250)), 32),
}
OTHER_QUESTIONS = (
    "Describe this image in detail.",
    "Read the text in the image.",
    "Describe",
    "What is it?",
    "What does the sign say?\nAnswer the question using a single word or phrase.",
    "Which animal is this?\nA. cat\nB. dog\nC. horse\nAnswer with the option's letter from the given choices directly.",
    'What is written next to "Exit"?\nReference OCR token: STOP, 42, Main, St.',
    "(a) Red or (b) blue?",
    "Provide a one-sentence caption for the provided image.\nReference OCR token: RAMEN, cup, 1999",
    "Où est l'été?",
    "How many dogs are there? 3 or 12?",
    "Transcribe <title> and </title>.",
)


def random_model(family: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A seeded model with LLaVA's crops and a small width, which reads with the tokenizer."""
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = small_model(family == "llava_next", WIDTH, len(tokenizer), image)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    return mmtok.prune(model, tokenizer)


def random_image(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth coloured noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def pixels_of(image: Image.Image, family: str) -> dict[str, torch.Tensor]:
    """The model's image arguments, as the stock processor makes them."""
    sides = {"size": {"shortest_edge": IMAGE_SIZE}, "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
    if family == "llava":
        return {"pixel_values": CLIPImageProcessor(**sides)(image, return_tensors="pt")["pixel_values"]}
    processor = LlavaNextImageProcessor(**sides, image_grid_pinpoints=PINPOINTS)
    return dict(processor(image, return_tensors="pt"))


@torch.no_grad()
def compare(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    question: str,
    inputs: dict[str, torch.Tensor],
    budget: int,
    **options: Any,
) -> float:
    """The share of the reference's picks that ours has too, for one prompt; 1.0 where every crop has the same."""
    [length] = model.encode_images(**inputs).lengths
    image = tokenizer.convert_tokens_to_ids("<image>")
    ids = tokenizer(f"USER: <image>\n{question} ASSISTANT:")["input_ids"]
    place = ids.index(image)
    expanded = torch.tensor([[*ids[:place], *[image] * length, *ids[place + 1 :]]])
    [chosen] = model.select_vision_tokens(expanded, vision_token_budget=budget, **options, **inputs).images

    crops = inputs["pixel_values"].flatten(0, -4)
    hidden = model.model.vision_tower(crops, output_hidden_states=True).hidden_states[-2][:, 1:]
    projected = model.model.multi_modal_projector(hidden)
    text = text_rows(
        question,
        lambda words: tokenizer(words, add_special_tokens=False)["input_ids"],
        model.get_input_embeddings().weight,
    )
    reference = [set(select_crop(text, *each, budget)) for each in zip(projected, hidden, strict=True)]
    columns = IMAGE_SIZE // PATCH_SIZE
    places = (chosen.row * columns + chosen.column).tolist()
    ours: list[set[int]] = [set() for _ in reference]
    for crop, token in zip(chosen.crop.tolist(), places, strict=True):
        ours[crop].add(token)
    return sum(len(one & other) for one, other in zip(ours, reference, strict=True)) / sum(map(len, reference))


def measure(tokenizer: PreTrainedTokenizerFast, pope: Sequence[str]) -> dict[str, Any]:
    """All cases, with the preset `paper` and, where tiles have padding, with the default selection beside it."""
    models = {family: random_model(family, tokenizer) for family in ("llava", "llava_next")}
    cases = {}
    for name, (family, sizes, budget) in CASES.items():
        paper, default = [], []
        asked = [*(pope if family == "llava" else pope[: len(pope) // 5]), *OTHER_QUESTIONS]
        for number, question in enumerate(asked):
            inputs = pixels_of(random_image(sizes[number % len(sizes)], number), family)
            given = (models[family], tokenizer, question, inputs, budget)
            paper.append(compare(*given, **PAPER_OPTIONS))
            default.append(compare(*given))
        cases[name] = {
            "budget": budget,
            "prompts": len(asked),
            "paper": _summary(paper),
            "default": _summary(default),
            "default_overlap": {
                f"{width}x{height}": _summary(default[number :: len(sizes)])["overlap"]
                for number, (width, height) in enumerate(sizes)
            },
        }
    return cases


def _summary(overlaps: Sequence[float]) -> dict[str, Any]:
    return {"identical": overlaps.count(1.0), "overlap": round(float(np.mean(overlaps)), 4)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="folder or Hub id of LLaVA-1.5's tokenizer, with its chat template")
    parser.add_argument("questions", nargs="+", type=Path, help="POPE's question files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer, trust_remote_code=False)
    asked = sorted({question.text for path in options.questions for question in read_questions(path)})
    pope = [asked[number] for number in np.linspace(0, len(asked) - 1, COUNT).round().astype(int)]
    cases = measure(tokenizer, pope)
    print(save("fidelity", {"seconds": round(time.perf_counter() - started), "cases": cases}))


if __name__ == "__main__":
    main()
