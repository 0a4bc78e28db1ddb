"""Asks a model about an image or video and records what it read, for the commands, the demo and the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import TextIteratorStreamer, pipeline

from configuration_mmtok import OPTION_NAMES
from mmtok.evaluation.checkpoint import answers_to, batch_inputs, model_inputs
from mmtok.hub.prune import prune
from mmtok.image_cache import EncodedImageCache
from mmtok.publish.hub import check_model_name

if TYPE_CHECKING:
    from PIL import Image
    from transformers import ImageTextToTextPipeline

    from mmtok.hub.handler import Video
    from mmtok.hub.selection import ImageSelection

Budget = int | float | None


@dataclass(frozen=True)
class Explanation:
    """What a model reads of an image or video with one budget.

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

    @property
    def words(self) -> str:
        """The words of the question that the kept tokens have to cover, as one text."""
        if not self.selection.word_ids:
            return "none"
        return " ".join(self.selection.words) or "every token of the prompt: there is no tokenizer to read it with"

    @property
    def all_vision_tokens(self) -> int:
        """Vision tokens in the prompt without pruning."""
        return self.vision_tokens + self.full_prompt_tokens - self.prompt_tokens

    @property
    def tokens_per_crop(self) -> list[int]:
        """Kept vision tokens of each crop, which of a video is a frame, or a pair of frames."""
        return self.selection.crop.bincount().tolist()

    def as_json(self) -> dict[str, Any]:
        """Plain values; the kept vision tokens with their gains, and of a video how many each frame has."""
        kept = self.selection
        columns = (kept.indices, kept.crop, kept.row, kept.column, kept.pick_order, kept.text_gain, kept.vision_gain)
        names = ("index", "crop", "row", "column", "pick", "text_gain", "vision_gain")
        return {
            "question": self.question,
            "vision_token_budget": self.budget,
            "prompt_tokens": self.prompt_tokens,
            "full_prompt_tokens": self.full_prompt_tokens,
            "vision_tokens": self.vision_tokens,
            **({"vision_tokens_per_frame": self.tokens_per_crop} if kept.is_video else {}),
            "covered_words": list(kept.words),
            "covered_ids": list(kept.word_ids),
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
        seconds: wall time of `generate`, from the processor's output to the tokens of the answer; a median.
    """

    answer: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values; the kept vision tokens with their gains."""
        return {**super().as_json(), "answer": self.answer, "seconds": round(self.seconds, 4)}


class PartialAnswer(NamedTuple):
    """An answer so far; `first_token` and `seconds` count from the call, and the first is 0 before there is text."""

    text: str
    first_token: float
    seconds: float
    finished: bool


def counted(number: int, noun: str) -> str:
    """The number and its noun, with an "s" unless it is 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def fewer(kept: int, all_of_them: int) -> str:
    """How many times fewer, with one digit behind the point below 10; "all of them" if nothing was dropped."""
    if kept >= all_of_them:
        return "all of them"
    if kept == 0:
        return "none of them"
    ratio = all_of_them / kept
    return f"{ratio:.0f}x fewer" if ratio >= 9.95 else f"{ratio:.1f}x fewer"


def load_pipeline(model: str | Path, **kwargs: Any) -> ImageTextToTextPipeline:
    """The "image-text-to-text" pipeline of a folder or Hub repository.

    A staged one is loaded as every user loads it, with `trust_remote_code=True`; the model of a stock checkpoint
    becomes one that prunes, as `mmtok.prune` makes it. `kwargs` are those of `transformers.pipeline`.

    Raises:
        ValueError: neither a folder with a model nor a Hub id, or a model of no family of MMTok.
    """
    loaded = pipeline("image-text-to-text", model=check_model_name(model), trust_remote_code=True, **kwargs)
    if not hasattr(loaded.model, "select_vision_tokens"):
        loaded.model = prune(loaded.model, loaded.processor)
    return loaded


def ask(pipe: ImageTextToTextPipeline, image: Image.Image, question: str, budget: Budget, **settings: Any) -> Answer:
    """Asks one question about an image with one budget; `settings` are those of `answer_inputs`.

    Raises:
        ValueError: an option out of range.
    """
    return answer_inputs(pipe, model_inputs(pipe, image, question), question, [budget], **settings)[0]


def answer_inputs(
    pipe: ImageTextToTextPipeline,
    inputs: Mapping[str, Any],
    question: str,
    budgets: Sequence[Budget],
    *,
    max_new_tokens: int = 64,
    calls: int = 1,
    begin: Callable[[str], None] = lambda _: None,
    **generate_kwargs: Any,
) -> list[Answer]:
    """Answers one question with each budget.

    Args:
        inputs: from `model_inputs`; with `encoded_images` in place of pixels the vision tower is not in `seconds`.
        question: what they ask.
        calls: how often `generate` is called with each budget, for a steadier `seconds`, their median.
        begin: called with the name of each step.
        **generate_kwargs: further arguments of `generate`, options of the pruning among them.

    Raises:
        ValueError: an option out of range.
    """
    pruning_options = {name: value for name, value in generate_kwargs.items() if name in OPTION_NAMES}
    answers = []
    for budget in budgets:
        begin("Answering")
        settings = {**generate_kwargs, "vision_token_budget": budget, "max_new_tokens": max_new_tokens}
        seconds = []
        for _ in range(calls):
            began = time.perf_counter()
            [text], [read] = answers_to(pipe, inputs, **settings)
            seconds.append(time.perf_counter() - began)
        explained = vars(explain_inputs(pipe, inputs, question, budget, **pruning_options))
        answers.append(Answer(**{**explained, "prompt_tokens": read}, answer=text, seconds=median(seconds)))
    return answers


def warm_up(pipe: ImageTextToTextPipeline, image: Image.Image | Video, question: str) -> None:
    """Answers with all tokens and with one, so that no later time counts what a process does at its first call."""
    answer_inputs(pipe, model_inputs(pipe, image, question), question, [None, 1], max_new_tokens=2)


def explain_inputs(
    pipe: ImageTextToTextPipeline, inputs: Mapping[str, Any], question: str, budget: Budget, **pruning_options: Any
) -> Explanation:
    """What a call would read of the image, without generating; the arguments are those of `answer_inputs`.

    Raises:
        ValueError: an option out of range.
    """
    selected = pipe.model.select_vision_tokens(**inputs, **pruning_options, vision_token_budget=budget)
    kept, (_, length) = selected.images[0], inputs["input_ids"].shape
    prompt_tokens = int(selected.kept_mask.sum())
    return Explanation(
        question=question,
        budget=budget,
        prompt_tokens=prompt_tokens,
        full_prompt_tokens=length,
        vision_tokens=kept.num_tokens - (length - prompt_tokens),
        coverage=kept.coverage / kept.full_coverage if kept.full_coverage else 1.0,
        selection=kept,
    )


def stream_answer(
    pipe: ImageTextToTextPipeline, inputs: Mapping[str, Any], budget: Budget, *, max_new_tokens: int = 64
) -> Iterator[PartialAnswer]:
    """Yields the answer as it grows; the last one is finished. The arguments are those of `answer_inputs`.

    Raises:
        ValueError: whatever `generate` refuses.
    """
    streamer = TextIteratorStreamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    settings = {"vision_token_budget": budget, "max_new_tokens": max_new_tokens, "streamer": streamer}
    text, first, began = "", 0.0, time.perf_counter()
    worker = ThreadPoolExecutor(1)
    answered = worker.submit(answers_to, pipe, inputs, **settings)
    answered.add_done_callback(lambda _: streamer.end())  # also where `generate` failed
    worker.shutdown(wait=False)
    for piece in filter(None, streamer):
        first = first or time.perf_counter() - began
        text += piece
        yield PartialAnswer(text.strip(), first, time.perf_counter() - began, finished=False)
    # Decoded as a whole, as every other answer is: pieces of a character are decoded otherwise.
    [whole], _ = answered.result()
    yield PartialAnswer(whole, first, time.perf_counter() - began, finished=True)


def answer_batch(
    pipe: ImageTextToTextPipeline,
    questions: Sequence[str],
    images: Sequence[Sequence[Image.Image]],
    cache: EncodedImageCache | None = None,
    **generate_kwargs: Any,
) -> list[str]:
    """Answers several questions at once, each about its own images; greedy unless `generate_kwargs` say otherwise.

    Args:
        questions, images: as for `batch_inputs`.
        cache: of the same model, for images that several questions are about; None to encode them here.
        **generate_kwargs: arguments of `generate`, options of the pruning among them.
    """
    inputs = batch_inputs(pipe, questions, images)
    return answers_to(pipe, inputs if cache is None else cache.inputs(inputs, **generate_kwargs), **generate_kwargs)[0]
