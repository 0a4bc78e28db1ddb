"""Checks pruning against stock on the installed releases and device, with small models, in seconds.

The embedded model and a small model of random weights of each further family are compared with the stock class that
has the same weights: with a full budget, pruned on the kept tokens, in a batch, and in the ways to generate.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
import transformers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from mmtok.hub.coverage import greedy_way
from mmtok.hub.host import NEWEST_TESTED, OLDEST_TESTED
from mmtok.machine import machine
from mmtok.publish.families import FAMILIES
from mmtok.tiny import checkpoint_path
from modeling_mmtok_llava import MMTokLlavaForConditionalGeneration

# Of the small models: language model and vision tower, and their sizes.
_PARTS = {"llava_next": (LlamaConfig, CLIPVisionConfig), "llava_onevision": (Qwen2Config, SiglipVisionConfig)}
_TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
_VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 6,
}
# Of models whose images keep their size: the vision tower.
_GRIDS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "depth": 3,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 3,
        "window_size": 12,
        "fullatt_block_indexes": [1],
    },
}
_ROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
# By the names of either of two releases.
_SECTIONS = {"rope_scaling": {**_ROPE, "type": "default"}, "rope_parameters": _ROPE}
_BUDGET, _ALL = 4, 10**6
_GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": 10**6, "pad_token_id": 0}
_MODES: dict[str, dict[str, Any]] = {
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 3},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
}


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
    """

    machine: dict[str, Any]
    device: str
    tested: tuple[str, str]
    greedy: str
    checks: list[Check] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not self.problems

    @property
    def problems(self) -> list[Check]:
        return [check for check in self.checks if check.problem is not None]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "right": self.right}


def diagnose(device: str | torch.device | None = None) -> Diagnosis:
    """Runs every check.

    Args:
        device: where to run; None for CUDA where it is available, else the CPU.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    way = greedy_way(place, 600, 576, 64)
    found = Diagnosis(machine("transformers", "accelerate", "mmtok"), str(place), (OLDEST_TESTED, NEWEST_TESTED), way)
    makers: dict[str, Callable[[torch.device], Any]] = {"embedded LLaVA-1.5": _embedded}
    makers |= {f"small {FAMILIES[model_type].title}": partial(_small, model_type) for model_type in _PARTS}
    makers |= {f"small {FAMILIES[model_type].title}": partial(_with_grids, model_type) for model_type in _GRIDS}
    for name, make in makers.items():
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model, stock, inputs = make(place)
            for what, check in _checks(model, stock, inputs):
                found.checks.append(Check(name, what, _problem(check)))
    return found


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


def _checks(model: Any, stock: Any, inputs: dict[str, torch.Tensor]) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Names and functions; the first row of `inputs` serves where one is enough."""
    images = {name: value for name, value in inputs.items() if name in model.image_arguments}
    one = {name: value[:1] for name, value in inputs.items() if name not in images}
    own = model.encode_images(**images)
    one_image = {"encoded_images": own[:1]}

    def pruned_by_hand() -> dict[str, torch.Tensor]:
        kept = model.select_vision_tokens(**one, **one_image, vision_token_budget=_BUDGET).kept_mask[0]
        embeds = stock.get_input_embeddings()(one["input_ids"])
        embeds[one["input_ids"] == model.config.image_token_id] = own.projected[0]
        by_hand = {"input_ids": one["input_ids"][:, kept], "inputs_embeds": embeds[:, kept]}
        if model.position_axes > 1:
            names = inspect.signature(stock.model.get_rope_index).parameters
            positions, _ = stock.model.get_rope_index(**{name: inputs[name] for name in names if name in inputs})
            by_hand["position_ids"] = positions[:, :1, kept]
        return by_hand

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
        except RuntimeError:
            # Stock's Qwen2.5-VL reads no prompt in chunks on 5.17, not even text; it does on 5.23.
            text = {"input_ids": torch.full((1, 9), 5, device=model.device)}
            if "prefill_chunk_size" in settings and _raises(partial(_generated, stock, text, **settings)):
                return True
            raise

    def as_by_hand(**settings: Any) -> bool:
        if model.position_axes > 1:  # which stock generation takes on some releases only
            found = model(**given)
            expected = stock(**{name: value for name, value in pruned_by_hand().items() if name != "input_ids"}).logits
            return torch.allclose(found.logits[found.kept_mask], expected[0], atol=1e-4, rtol=1e-4)
        return _same(_generated(model, given, **settings), _generated(stock, pruned_by_hand(), **settings))

    given = {**one, **one_image, "vision_token_budget": _BUDGET}
    for what, budget in (("full budget", _ALL), ("pruning off", None)):
        yield f"logits with {what}", partial(full_logits, budget)
        yield f"tokens with {what}", partial(full_tokens, budget)
    yield "tokens of the pruned prompt", as_by_hand
    yield "a batch and its rows alone", row_alone
    for mode, settings in _MODES.items():
        yield f"generate: {mode}", partial(in_mode, settings)
    if model.position_axes > 1:
        yield "generate: beams", partial(full_tokens, _ALL, num_beams=2)
    else:
        yield "generate: beams", partial(as_by_hand, num_beams=2)


def _embedded(device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    path = checkpoint_path()
    model = MMTokLlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32).to(device).eval()
    stock = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32).to(device).eval()
    side = model.config.vision_config.image_size
    tokens = (side // model.config.vision_config.patch_size) ** 2
    inputs = _prompts(model, [tokens, tokens])
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return model, stock, {**inputs, "pixel_values": pixels.to(device)}


def _small(model_type: str, device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A model with tiles of random weights, the stock model with the same, and two images."""
    torch.manual_seed(0)
    family = FAMILIES[model_type]
    model_class = family.load_class()
    text_class, vision_class = _PARTS[model_type]
    config = model_class.config_class(
        text_config=text_class(**_TEXT).to_dict(),
        vision_config={**vision_class(**_VISION).to_dict(), "vision_use_head": False},
        image_token_index=63,
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
    )
    model, stock = _random(model_class, family.stock_class, config, device)
    sizes = torch.tensor([[48, 48], [40, 40]])
    pixels = torch.rand(2, 5, 3, 24, 24, generator=torch.Generator().manual_seed(0)).to(device)
    images = {"pixel_values": pixels, "image_sizes": sizes}
    lengths = model.encode_images(**images).lengths
    return model, stock, {**_prompts(model, lengths), **images}


def _with_grids(model_type: str, device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A model of random weights whose images keep their size, the stock model with the same, and two images."""
    torch.manual_seed(0)
    family = FAMILIES[model_type]
    model_class = family.load_class()
    ids = {"image_token_id": 63, "video_token_id": 62, "vision_start_token_id": 61, "vision_end_token_id": 60}
    config = model_class.config_class(text_config={**_TEXT, **_SECTIONS}, vision_config=_GRIDS[model_type], **ids)
    model, stock = _random(model_class, family.stock_class, config, device)
    grids = torch.tensor([[1, 8, 8], [1, 4, 12]], device=device)
    pixels = torch.rand(64 + 48, 3 * 2 * 3 * 3, generator=torch.Generator().manual_seed(0)).to(device)
    inputs = _prompts(model, [16, 12], in_front=[61], behind=[60])
    if "mm_token_type_ids" in inspect.signature(stock.forward).parameters:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == 63).int()
    return model, stock, {**inputs, "pixel_values": pixels, "image_grid_thw": grids}


def _random(model_class: Any, stock_class: str, config: Any, device: torch.device) -> tuple[Any, Any]:
    """A model and the stock model with the same random weights."""
    model = model_class(config).to(device).eval()
    for weight in model.parameters():
        # The default initialisation makes all tokens nearly alike, and so every selection a matter of rounding.
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    stock = getattr(transformers, stock_class)(config).to(device).eval()
    stock.load_state_dict(model.state_dict())
    return model, stock


def _raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except RuntimeError:
        return True
    return False


def _prompts(
    model: Any, lengths: list[int], in_front: Sequence[int] = (), behind: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """A row for each image of so many tokens: words, the image between its markers, words; padded on the left."""
    image = model.config.image_token_id
    rows = [[1, 5, *in_front, *[image] * length, *behind, 7, 8 + number, 9] for number, length in enumerate(lengths)]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
