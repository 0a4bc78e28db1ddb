"""Checks pruning against stock on the installed releases and device, with small models, in seconds.

The embedded model and a small model of random weights of each further family of the installed release are compared with
the stock class that has the same weights: with a full budget, pruned on the kept tokens, in a batch, and in the ways to
generate.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration
from transformers.utils import is_torchvision_available

from mmtok.evaluation.checkpoint import Checkpoint
from mmtok.hub.coverage import greedy_way
from mmtok.hub.families import FAMILIES
from mmtok.hub.prune import stock_class_of
from mmtok.hub.releases import NEWEST_TESTED, OLDEST_TESTED
from mmtok.measuring import machine
from mmtok.tiny import checkpoint_path

from .small_models import SMALL, VISION_END, VISION_START, small_config

_BUDGET, _ALL = 4, 10**6
_GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": 10**6, "pad_token_id": 0}
_MODES: dict[str, dict[str, Any]] = {
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 3},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
}

# (device) -> the model, the stock model, inputs of both.
Maker = Callable[[torch.device], tuple[Any, Any, dict[str, torch.Tensor]]]


@dataclass(frozen=True)
class Check:
    """One comparison: `problem` is None where it holds, else what was found."""

    model: str
    what: str
    problem: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        machine: machine and versions.
        device: that the models ran on.
        tested: releases of transformers that this release of MMTok was tested with, oldest and newest.
        greedy: how the greedy maximiser runs there for 576 tokens of which 64 are kept.
        checks: all comparisons.
        unchecked: what was not looked at, and what has to be installed for it.
    """

    machine: dict[str, Any]
    device: str
    tested: tuple[str, str]
    greedy: str
    checks: list[Check] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[Check]:
        """The comparisons that do not hold."""
        return [check for check in self.checks if check.problem is not None]

    def describe(self) -> str:
        """Versions, every check, and one line that says whether all is right."""
        versions = [f"{name} {value}" for name, value in self.machine["versions"].items()]
        oldest, newest = self.tested
        told = [
            ", ".join(versions),
            f"device: {self.device}, greedy maximiser: {self.greedy}",
            f"tested with transformers {oldest} to {newest}",
            "",
            *(f"{check.problem or 'right':<20} {check.model}: {check.what}" for check in self.checks),
            "",
            *(f"not checked          {each}" for each in self.unchecked),
        ]
        wrong = "; ".join(f"{check.model}, {check.what}" for check in self.problems)
        if wrong:
            told.append(f"Wrong: {len(self.problems)} of {len(self.checks)} checks: {wrong}.")
        else:
            told.append(f"Right: all {len(self.checks)} checks hold; what was not checked stands above.")
        return "\n".join(told)


def diagnose(device: str | torch.device | None = None, begin: Callable[[str], object] = lambda name: None) -> Diagnosis:
    """Runs every check.

    Args:
        device: where to run; None for CUDA where it is available, else the CPU.
        begin: called with the name of each model when its checks begin.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    way = greedy_way(place, 600, 576, 64)
    found = Diagnosis(machine("transformers", "accelerate", "mmtok"), str(place), (OLDEST_TESTED, NEWEST_TESTED), way)
    for name, make in makers().items():
        begin(f"Checking {name}")
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _random_prompts():
            model, stock, inputs = make(place)
            for what, check in _checks(model, stock, inputs):
                found.checks.append(Check(name, what, _problem(check)))
    found.unchecked.append("processors: the models are given tensors, and no image or video is read")
    others = [family.title for family in FAMILIES.values() if not family.is_available()]
    if others:
        found.unchecked.append(f"families that the installed transformers is too old for: {', '.join(others)}")
    if not is_torchvision_available():
        found.unchecked.extend(
            f"{family.title}: its processor needs torchvision, which is missing: run pip install torchvision"
            for family in FAMILIES.values()
            if family.is_available() and family.load_class().frame
        )
    return found


@contextmanager
def _random_prompts() -> Iterator[None]:
    """Says nothing about the questions of prompts that are random ids."""
    loggers = [logging.getLogger(f"mmtok.hub.{name}") for name in ("question", "tokenizer_source")]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loggers:
            logger.disabled = False


def _problem(check: Callable[[], bool]) -> str | None:
    """None where a check holds; an exception is reported as a finding."""
    try:
        return None if check() else "differs from stock"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _generated(model: Any, inputs: dict[str, Any], **settings: Any) -> torch.Tensor:
    """(B, L + 4) ids of the prompt and of four greedy tokens."""
    return model.generate(**inputs, **_GREEDY, **settings)


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two results of `_generated` end alike."""
    return torch.equal(first[:, -4:], second[:, -4:])


def _pruned_by_hand(model: Any, stock: Any, inputs: dict[str, torch.Tensor], own: Any) -> dict[str, torch.Tensor]:
    """The first row without the tokens that are dropped, as stock takes it; `own` are the images, encoded."""
    ids = inputs["input_ids"][:1]
    text = {"input_ids": ids, "attention_mask": inputs["attention_mask"][:1]}
    kept = model.select_vision_tokens(**text, encoded_images=own[:1], vision_token_budget=_BUDGET).kept_mask[0]
    image = ids == model.config.image_token_id
    embeds = stock.get_input_embeddings()(ids)
    embeds[image] = own.projected[0]
    by_hand = {"input_ids": ids[:, kept], "inputs_embeds": embeds[:, kept]}
    if model.position_axes > 1:
        names = inspect.signature(stock.model.get_rope_index).parameters
        positions, _ = stock.model.get_rope_index(**{name: inputs[name] for name in names if name in inputs})
        by_hand["position_ids"] = positions[:, :1, kept]
    else:
        by_hand |= {name: value[:1, kept] for name, value in inputs.items() if name.endswith("token_type_ids")}
    if own.deepstack is not None:
        by_hand["visual_pos_masks"] = image[:, kept]
        by_hand["deepstack_visual_embeds"] = [layer[kept[image[0]]] for layer in own.deepstack[0]]
    return by_hand


def _checks(model: Any, stock: Any, inputs: dict[str, torch.Tensor]) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Names and functions; the first row of `inputs` serves where one is enough."""
    images = {name: value for name, value in inputs.items() if name in model.image_arguments}
    one = {name: value[:1] for name, value in inputs.items() if name not in images}
    own = model.encode_images(**images)
    one_image = {"encoded_images": own[:1]}

    def full_logits(budget: int | None) -> bool:
        found, expected = model(**inputs, vision_token_budget=budget).logits, stock(**inputs).logits
        return torch.allclose(found, expected, atol=1e-4, rtol=1e-4)

    def full_tokens(budget: int | None, **settings: Any) -> bool:
        found = _generated(model, inputs, vision_token_budget=budget, **settings)
        return _same(found, _generated(stock, inputs, **settings))

    def row_alone() -> bool:
        return _same(_generated(model, inputs, vision_token_budget=_BUDGET)[:1], _generated(model, given))

    def in_mode(settings: dict[str, Any]) -> bool:
        try:
            return _same(_generated(model, given, **settings), _generated(model, given))
        except (RuntimeError, ValueError):
            # Stock's Qwen-VL reads no prompt in chunks on 5.17, and its Qwen3.5 looks no draft up, not even in text.
            try:
                _generated(stock, {"input_ids": torch.full((1, 9), 5, device=model.device)}, **settings)
            except (RuntimeError, ValueError):
                return True
            raise

    def as_by_hand(**settings: Any) -> bool:
        by_hand = _pruned_by_hand(model, stock, inputs, own)
        if from_embeddings:
            return _same(_generated(model, given, **settings), _generated(stock, by_hand, **settings))
        del by_hand["input_ids"]
        found = model(**given)
        if model.position_axes > 1:  # DeepStack's features are arguments of the language model
            expected = stock.lm_head(stock.model.language_model(**by_hand).last_hidden_state)
        else:
            expected = stock(**by_hand).logits
        return torch.allclose(found.logits[found.kept_mask], expected[0], atol=1e-4, rtol=1e-4)

    given = {**one, **one_image, "vision_token_budget": _BUDGET}
    # Generation from embeddings: Gemma has none, and positions in a grid are taken on some releases only.
    takes_embeddings = "inputs_embeds" in inspect.signature(stock.prepare_inputs_for_generation).parameters
    from_embeddings = takes_embeddings and model.position_axes == 1
    for what, budget in (("full budget", _ALL), ("pruning off", None)):
        yield f"logits with {what}", partial(full_logits, budget)
        yield f"tokens with {what}", partial(full_tokens, budget)
    yield "tokens of the pruned prompt", as_by_hand
    yield "a batch and its rows alone", row_alone
    for mode, settings in _MODES.items():
        if model.sees_both_ways and "prefill_chunk_size" in settings:  # refused
            continue
        yield f"generate: {mode}", partial(in_mode, settings)
    beams: dict[str, Any] = {"num_beams": 2}
    yield "generate: beams", partial(as_by_hand if from_embeddings else partial(full_tokens, _ALL), **beams)


def makers() -> dict[str, Maker]:
    """What makes the models, by name: the embedded LLaVA-1.5, and a small one of each further family of the release."""
    small = {
        f"small {FAMILIES[model_type].title}": partial(_small, model_type)
        for model_type in SMALL
        if model_type != "llava" and FAMILIES[model_type].is_available()
    }
    return {"embedded LLaVA-1.5": _embedded, **small}


def _embedded(device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    model = Checkpoint.load(checkpoint_path(), device=device, dtype=torch.float32).model
    stock = LlavaForConditionalGeneration.from_pretrained(checkpoint_path(), dtype=torch.float32).to(device).eval()
    side = model.config.vision_config.image_size
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return model, stock, _prompts(model, {"pixel_values": pixels.to(device)})


def _small(model_type: str, device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A model of random weights, the stock model with the same, and two images."""
    torch.manual_seed(0)
    model_class, config = FAMILIES[model_type].load_class(), small_config(model_type)
    model = model_class(config).to(device).eval()
    for weight in model.parameters():
        # The default initialisation makes all tokens nearly alike, and so every selection a matter of rounding.
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    stock = stock_class_of(model_class)(config).to(device).eval()
    stock.load_state_dict(model.state_dict())
    images = SMALL[model_type].images(torch.Generator().manual_seed(0))
    return model, stock, _prompts(model, {name: value.to(device) for name, value in images.items()})


def _prompts(model: Any, images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A row for each image: words, the image between two markers, words; padded on the left."""
    image = model.config.image_token_id
    lengths = model.encode_images(**images).lengths
    rows = [
        [1, 5, VISION_START, *[image] * length, VISION_END, 7, 8 + number, 9] for number, length in enumerate(lengths)
    ]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device), **images}
    names = {"token_type_ids", "mm_token_type_ids"} & inspect.signature(model.forward).parameters.keys()
    return inputs | {name: (inputs["input_ids"] == image).int() for name in names}
