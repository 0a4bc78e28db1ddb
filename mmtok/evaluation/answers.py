"""One batch of questions answered, by the model's own pruning or with the tokens that a selector keeps; and the
answers in the store of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch

from mmtok.hub.generation import GenerationCall
from mmtok.prefill import prompt_lengths
from mmtok.record_store import RecordStore

from .checkpoint import Checkpoint
from .encoded import EncodedBatch, types_of
from .selectors import ModelPruning, Selector

# Tokens kept of each crop, or a share of them as a float; None for the full prompt.
Budget: TypeAlias = int | float | None
Key: TypeAlias = tuple[str, Budget, str, int | str]


@dataclass(frozen=True)
class RecordedAnswer:
    """What a model answered.

    Attributes:
        method: name of the pruning method; "all" for the full prompt.
        budget: tokens kept per crop; None for the full prompt.
        task, question_id: the question.
        text: the answer.
        vision_tokens: how many vision tokens the language model read.
    """

    method: str
    budget: Budget
    task: str
    question_id: int | str
    text: str
    vision_tokens: int

    @property
    def key(self) -> Key:
        """The key of the answer within its run."""
        return self.method, self.budget, self.task, self.question_id

    def as_record(self) -> dict[str, Any]:
        """JSON values for a `RecordStore`."""
        return asdict(self)


def recorded(store: RecordStore) -> dict[Key, RecordedAnswer]:
    """The answers of all processes that a store holds; the first of each key counts, and what is none is missing."""
    found: dict[Key, RecordedAnswer] = {}
    for record in store.read():
        try:
            answer = RecordedAnswer(**record)
        except TypeError:
            continue
        found.setdefault(answer.key, answer)
    return found


@torch.no_grad()
def generate_by_model(
    checkpoint: Checkpoint,
    inputs: Mapping[str, Any],
    method: ModelPruning | None,
    budget: Budget,
    max_new_tokens: int,
) -> tuple[list[str], list[int]]:
    """The model's own `generate`, end to end.

    Args:
        checkpoint: the model.
        inputs: a batch, with pixels or with `encoded_images`.
        method: with which options; None, together with a budget of None, for the full prompt.
        budget: `vision_token_budget`.
        max_new_tokens: length of an answer.

    Returns:
        The answers, and how many vision tokens the language model read for each.
    """
    options = {} if method is None else dict(method.options)
    with prompt_lengths(checkpoint.model) as lengths:
        output = checkpoint.model.generate(
            **inputs, **options, vision_token_budget=budget, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
        )
    return _texts(checkpoint, output[:, inputs["input_ids"].shape[1] :]), _vision_tokens(checkpoint, inputs, lengths)


@torch.no_grad()
def generate_by_selector(
    checkpoint: Checkpoint,
    inputs: Mapping[str, torch.Tensor],
    encoded: EncodedBatch,
    selector: Selector,
    budget: int | float,
    max_new_tokens: int,
) -> tuple[list[str], list[int]]:
    """The model's own `generate`, from where it has selected, with the tokens that a selector keeps.

    Args:
        checkpoint, inputs, max_new_tokens: as in `generate_by_model`.
        encoded: of `inputs`.
        selector: the method.
        budget: tokens of each crop, or a share of them.

    Returns:
        As `generate_by_model`.
    """
    pruned = encoded.pruned(checkpoint.model, selector, budget)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")} | types_of(inputs)
    settings = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
    call = GenerationCall.read({**text, **settings}, checkpoint.model.generation_config)
    with prompt_lengths(checkpoint.model) as lengths:
        output = call.run_pruned(checkpoint.model.generate, pruned)
    return _texts(checkpoint, output[:, inputs["input_ids"].shape[1] :]), _vision_tokens(checkpoint, inputs, lengths)


def _texts(checkpoint: Checkpoint, tokens: torch.Tensor) -> list[str]:
    return [text.strip() for text in checkpoint.processor.batch_decode(tokens, skip_special_tokens=True)]


def _vision_tokens(checkpoint: Checkpoint, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[int]:
    """What was read but is not text. The tokens that end the rows of an image belong to it."""
    config, ids = checkpoint.model.config, inputs["input_ids"]
    others = (getattr(config, "video_token_id", None), getattr(checkpoint.processor, "image_break_token_id", None))
    known = [config.image_token_id, *(each for each in others if each is not None)]
    vision = torch.isin(ids, torch.tensor(known, device=ids.device))
    text = (inputs["attention_mask"].bool() & ~vision).sum(1).tolist()
    return [length - words for length, words in zip(lengths, text, strict=True)]
