"""One batch of a file of questions: an answer or an error for each line; lines do not affect each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmtok.evaluation.questions import Question
from mmtok.images import cut_off, read_image
from mmtok.prefill import prompt_lengths
from mmtok.videos import FRAMES, Video, read_video

from .answering import answer_prompts, batch_inputs

if TYPE_CHECKING:
    from PIL import Image
    from transformers import ImageTextToTextPipeline


def answer_records(
    pipe: ImageTextToTextPipeline,
    folder: Path,
    batch: Sequence[tuple[int, Question]],
    frames: int = FRAMES,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Answers (line number, question) pairs: one {"line", "image", "answer"} or {"line", "image", "error"} for each.

    `image` is what `image_stamp` says of the file before it is read. An answer has `cut_off` where the processor leaves
    out a part of the image, and `unpruned` where the budget keeps every token.

    An image that cannot be read costs its own line. Where the model refuses a batch, or runs out of memory, its
    questions are asked one by one, so that only those have an error that are refused alone.

    Args:
        pipe: from `load_pipeline`.
        folder: what the paths of images are relative to.
        batch: questions about images, or a single one about a video.
        frames: of a video that are read at most.
        **settings: of `answer_batch`, such as `cache`, and arguments of `generate`.

    Raises:
        ValueError: the model refuses each of several questions, which is no fault of a line.
    """
    images: dict[int, Image.Image | Video] = {}
    records: dict[int, dict[str, Any]] = {}
    stamps = {number: image_stamp(folder / question.image) for number, question in batch}
    for number, question in batch:
        try:
            path = folder / question.image
            images[number] = read_video(path, frames) if question.is_video else read_image(path)
        except ValueError as error:
            records[number] = {"line": number, "error": str(error).removeprefix(f"{folder}/")}
    texts = {number: question.prompt for number, question in batch if number in images}
    answers, refusals = _ask_all(pipe, texts, images, settings)
    if len(refusals) == len(texts) > 1:
        raise next(iter(refusals.values()))
    records |= {number: {"line": number, "error": str(error)} for number, error in refusals.items()}
    processor = pipe.processor.image_processor
    for number, (answer, unpruned) in answers.items():
        image = images[number]
        lost = not isinstance(image, Video) and bool(cut_off(image.size, processor))
        notes = {name: True for name, holds in (("cut_off", lost), ("unpruned", unpruned)) if holds}
        records[number] = {"line": number, "answer": answer, **notes}
    return [{**records[number], "image": stamps[number]} for number, _ in batch]


def image_stamp(path: Path) -> list[int] | None:
    """Size in bytes and time of change of a file, by which a changed one is told; None where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _ask_all(
    pipe: ImageTextToTextPipeline,
    texts: Mapping[int, str],
    images: Mapping[int, Image.Image | Video],
    settings: Mapping[str, Any],
) -> tuple[dict[int, tuple[str, bool]], dict[int, ValueError]]:
    """Answers, each with whether nothing was pruned, and refusals by line number; together, or else one by one."""
    if not texts:
        return {}, {}
    try:
        inputs = batch_inputs(pipe, list(texts.values()), [[images[number]] for number in texts])
        with prompt_lengths(pipe.model) as lengths:
            answers = answer_prompts(pipe, inputs, **settings)
        unpruned = [
            read == whole for read, whole in zip(lengths, inputs["attention_mask"].sum(1).tolist(), strict=True)
        ]
        return dict(zip(texts, zip(answers, unpruned, strict=True), strict=True)), {}
    except (ValueError, torch.OutOfMemoryError) as error:
        # Only the sentence: the traceback would keep the tensors of the failed call in memory.
        refusal = ValueError(str(error))
    if len(texts) == 1:
        return {}, dict.fromkeys(texts, refusal)
    alone = [_ask_all(pipe, {number: text}, images, settings) for number, text in texts.items()]
    return (
        {number: answer for answered, _ in alone for number, answer in answered.items()},
        {number: error for _, refused in alone for number, error in refused.items()},
    )
