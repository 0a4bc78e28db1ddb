"""One batch of a file of questions: an answer or an error for each line; lines do not affect each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmtok.images import cut_off, read_image

from .answering import answer_batch

if TYPE_CHECKING:
    from PIL import Image
    from transformers import ImageTextToTextPipeline


def answer_records(
    pipe: ImageTextToTextPipeline,
    folder: Path,
    batch: Sequence[tuple[int, Mapping[str, Any]]],
    **settings: Any,
) -> list[dict[str, Any]]:
    """Answers (line number, question) pairs: one {"line", "image", "answer"} or {"line", "image", "error"} for each.

    `image` is what `image_stamp` says of the file before it is read, and an answer has `cut_off`, whether the processor
    leaves out a part of the image.

    An image that cannot be read costs its own line. Where the model refuses a batch, or runs out of memory, its
    questions are asked one by one, so that only those have an error that are refused alone.

    Args:
        pipe: from `load_pipeline`.
        folder: what the paths of images are relative to.
        batch: each question with `image` and `question`.
        **settings: of `answer_batch`, such as `cache`, and arguments of `generate`.

    Raises:
        ValueError: the model refuses each of several questions, which is no fault of a line.
    """
    images: dict[int, Image.Image] = {}
    records: dict[int, dict[str, Any]] = {}
    stamps = {number: image_stamp(folder / question["image"]) for number, question in batch}
    for number, question in batch:
        try:
            images[number] = read_image(folder / question["image"])
        except ValueError as error:
            records[number] = {"line": number, "error": str(error).removeprefix(f"{folder}/")}
    texts = {number: question["question"] for number, question in batch if number in images}
    answers, refusals = _ask_all(pipe, texts, images, settings)
    if len(refusals) == len(texts) > 1:
        raise next(iter(refusals.values()))
    records |= {number: {"line": number, "error": str(error)} for number, error in refusals.items()}
    processor = pipe.processor.image_processor
    for number, answer in answers.items():
        lost = bool(cut_off(images[number].size, processor))
        records[number] = {"line": number, "answer": answer, **({"cut_off": True} if lost else {})}
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
    images: Mapping[int, Image.Image],
    settings: Mapping[str, Any],
) -> tuple[dict[int, str], dict[int, ValueError]]:
    """Answers and refusals by line number; the questions together, or else one by one."""
    if not texts:
        return {}, {}
    try:
        answers = answer_batch(pipe, list(texts.values()), [[images[number]] for number in texts], **settings)
        return dict(zip(texts, answers, strict=True)), {}
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
