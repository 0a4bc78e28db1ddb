"""Asks a staged model about a picture and records what it read: the library behind the commands, the demo and the page.

A staged folder or repository is loaded as every user loads it, through `pipeline(...)` with `trust_remote_code=True`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from transformers import pipeline

from configuration_mmtok import KNOB_NAMES
from mmtok.prefill import prompt_lengths
from mmtok.publish.hub_names import check_model_name

if TYPE_CHECKING:
    from PIL import Image
    from transformers import ImageTextToTextPipeline

    from mmtok.hub.selection_record import ImageSelection

Budget = int | float | None


@dataclass(frozen=True)
class Explanation:
    """What a model reads of a picture with one budget.

    Attributes:
        question: as text.
        budget: `vision_token_budget` of the call; None for every token.
        prompt_tokens: length of the prompt for the language model.
        full_prompt_tokens: length of the prompt without pruning.
        vision_tokens: vision tokens in the prompt for the language model.
        coverage: coverage of the kept tokens relative to that of all tokens, 0 to 1.
        selection: what was kept, with the gains.
    """

    question: str
    budget: Budget
    prompt_tokens: int
    full_prompt_tokens: int
    vision_tokens: int
    coverage: float
    selection: ImageSelection

    def as_json(self) -> dict[str, Any]:
        """Plain values; the kept patches with their gains."""
        kept = self.selection
        columns = (kept.indices, kept.crop, kept.row, kept.column, kept.pick_order, kept.text_gain, kept.vision_gain)
        names = ("index", "crop", "row", "column", "pick", "text_gain", "vision_gain")
        return {
            "question": self.question,
            "vision_token_budget": self.budget,
            "prompt_tokens": self.prompt_tokens,
            "full_prompt_tokens": self.full_prompt_tokens,
            "vision_tokens": self.vision_tokens,
            "coverage": round(self.coverage, 6),
            "kept": [
                dict(zip(names, values, strict=True))
                for values in zip(*(column.tolist() for column in columns), strict=True)
            ],
        }


@dataclass(frozen=True)
class Answer(Explanation):
    """What a model answered with one budget; `prompt_tokens` was counted where it reached the language model.

    Attributes:
        answer: as text.
        seconds: wall time of the pipeline's call, from messages to text.
    """

    answer: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values; the kept patches with their gains."""
        return {**super().as_json(), "answer": self.answer, "seconds": round(self.seconds, 4)}


def load_pipeline(model: str | Path, **kwargs: Any) -> ImageTextToTextPipeline:
    """The "image-text-to-text" pipeline of a staged folder or Hub repository.

    Args:
        model: folder or Hub id.
        **kwargs: for `transformers.pipeline`, such as `revision`, `dtype` or `device`.

    Raises:
        ValueError: neither a folder with a model nor a Hub id, or a model with no MMTok in it.
    """
    loaded = pipeline("image-text-to-text", model=check_model_name(model), trust_remote_code=True, **kwargs)
    if not hasattr(loaded.model, "select_vision_tokens"):
        raise ValueError(
            f"{model} holds a {type(loaded.model).__name__}, which prunes nothing: stage it first, with "
            f"`mmtok stage {model} OUT`."
        )
    return loaded


def conversation(image: Image.Image, question: str) -> list[dict[str, Any]]:
    """One turn of the user, in the form of chat templates."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def model_inputs(pipe: ImageTextToTextPipeline, image: Image.Image, question: str) -> dict[str, Any]:
    """What the pipeline gives to `generate`, on the model's device."""
    read = pipe.processor.apply_chat_template(
        conversation(image, question),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return dict(read.to(pipe.model.device, dtype=pipe.model.dtype))


def ask(
    pipe: ImageTextToTextPipeline,
    image: Image.Image,
    question: str,
    budget: Budget,
    *,
    max_new_tokens: int = 64,
    calls: int = 1,
    **generate_kwargs: Any,
) -> Answer:
    """Asks one question with one budget.

    Args:
        pipe: from `load_pipeline`.
        image: the picture.
        question: the text of the user's turn.
        budget: `vision_token_budget` for this call.
        max_new_tokens: most tokens of the answer.
        calls: how often the pipeline is called, for a steadier `seconds`, their median.
        **generate_kwargs: further arguments of `generate`, knobs of the pruning among them.

    Raises:
        ValueError: a knob out of range.
    """
    settings = {"do_sample": False, **generate_kwargs, "vision_token_budget": budget, "max_new_tokens": max_new_tokens}
    seconds = []
    with prompt_lengths(pipe.model) as lengths:
        for _ in range(calls):
            began = time.perf_counter()
            [answer] = pipe([conversation(image, question)], return_full_text=False, generate_kwargs=dict(settings))
            seconds.append(time.perf_counter() - began)
    knobs = {name: value for name, value in generate_kwargs.items() if name in KNOB_NAMES}
    explained = explain(pipe, image, question, budget, **knobs)
    known = {field.name: getattr(explained, field.name) for field in fields(explained)}
    return Answer(**{**known, "prompt_tokens": lengths[0]}, answer=_text(answer), seconds=median(seconds))


def explain(
    pipe: ImageTextToTextPipeline, image: Image.Image, question: str, budget: Budget, **knobs: Any
) -> Explanation:
    """What a call would read of the picture, without generating.

    Args:
        pipe: from `load_pipeline`.
        image: the picture.
        question: the text of the user's turn.
        budget: `vision_token_budget`.
        **knobs: further knobs of the pruning.

    Raises:
        ValueError: a knob out of range.
    """
    inputs = model_inputs(pipe, image, question)
    selected = pipe.model.select_vision_tokens(**inputs, **knobs, vision_token_budget=budget)
    is_image = inputs["input_ids"] == pipe.model.config.image_token_id
    kept = selected.images[0]
    return Explanation(
        question=question,
        budget=budget,
        prompt_tokens=int(selected.kept_mask.sum()),
        full_prompt_tokens=inputs["input_ids"].shape[1],
        vision_tokens=int((selected.kept_mask & is_image).sum()),
        coverage=kept.coverage / kept.full_coverage if kept.full_coverage else 1.0,
        selection=kept,
    )


@torch.no_grad()
def answer_batch(
    pipe: ImageTextToTextPipeline,
    questions: Sequence[str],
    pictures: Sequence[Sequence[Image.Image]],
    **generate_kwargs: Any,
) -> list[str]:
    """Answers several questions at once, each about its own pictures; greedy unless `generate_kwargs` say otherwise.

    Args:
        pipe: from `load_pipeline`.
        questions: the texts of the users' turns.
        pictures: for each question its pictures, none for a question without.
        **generate_kwargs: arguments of `generate`, knobs of the pruning among them.

    Returns:
        One answer for each question.
    """
    chats = [
        [{"role": "user", "content": [*({"type": "image"} for _ in images), {"type": "text", "text": question}]}]
        for question, images in zip(questions, pictures, strict=True)
    ]
    prompts = pipe.processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    images = [image for images in pictures for image in images]
    inputs = pipe.processor(
        images=images or None, text=prompts, padding=True, padding_side="left", return_tensors="pt"
    ).to(pipe.model.device, dtype=pipe.model.dtype)
    output = pipe.model.generate(**inputs, **{"do_sample": False, **generate_kwargs})
    texts = pipe.processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _text(answer: Any) -> str:
    """The generated text of one answer of the pipeline, with or without a list around it."""
    record = answer[0] if isinstance(answer, list) else answer
    return str(record["generated_text"]).strip()
