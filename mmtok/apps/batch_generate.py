"""Answers a file of questions about images: in order, each line once, on any number of processes, resumable.

    accelerate launch --num_processes 8 -m mmtok generate --model ./llava-mmtok \\
        --questions questions.jsonl --output answers.jsonl

Every process appends its answers to a file of its own in `OUTPUT.parts`. Interrupted at any point, the same command
goes on with what is missing, on as many processes as it is given then. When all is there, the parts become `OUTPUT` at
once. On several machines, `OUTPUT` has to be on a file system that they share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from configuration_mmtok import check_option
from mmtok.evaluation.checkpoint import Checkpoint, answers_to, batch_inputs, load_processor
from mmtok.evaluation.questions import Question, read_questions
from mmtok.evaluation.runner import FileSettings, answer_in_batches
from mmtok.image_cache import EncodedImageCache
from mmtok.record_store import RecordStore
from mmtok.visuals import cut_off, require_videos

from .answering import Budget

if TYPE_CHECKING:
    from accelerate import PartialState
    from PIL.Image import Image

    from mmtok.hub.handler import Video


@dataclass(frozen=True)
class BatchSettings(FileSettings):
    """One file is asked; its fields are copied to the answers.

    `output` gets a JSON object on a line for each question, in their order, with `answer`, or with `error` where the
    image cannot be read or the model refuses the question.

    Attributes:
        budget: `vision_token_budget`; "model" for what the model's configuration says.
        pruning_options: further options of the pruning, in place of the model's own.
    """

    max_new_tokens: int = 64
    budget: Budget | str = "model"
    pruning_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.overrides.items():
            check_option(name, value)

    @property
    def overrides(self) -> dict[str, Any]:
        """All options that are not the model's own."""
        return {**self.pruning_options, **({} if self.budget == "model" else {"vision_token_budget": self.budget})}

    @property
    def parts(self) -> Path:
        """The folder of unfinished work."""
        output = Path(self.output)
        return output.with_name(output.name + ".parts")

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers; unfinished work goes on only under the same."""
        return {**super().fingerprint(), "vision_token_budget": self.budget, **self.pruning_options}


class BatchResult(NamedTuple):
    """What a run did, in lines of the output.

    Attributes:
        lines: all of them.
        resumed: those that an earlier run had answered.
        errors: those with an error.
        cut_off: those whose image the processor cuts down to a middle square; 0 where only the end of a run was left.
        unpruned: those of which the budget keeps every token; 0 where only the end of a run was left.
    """

    lines: int
    resumed: int
    errors: int
    cut_off: int = 0
    unpruned: int = 0


def generate_file(settings: BatchSettings, *, progress: bool = True) -> BatchResult:
    """Answers every line of the file that has no answer yet, and writes `settings.output` when all have one.

    Called in every process of `accelerate launch`, or in one process. `progress` shows a bar.

    Raises:
        ValueError: an input line that cannot be asked, an output that exists, a run on the same output that is going
            on, or unfinished work of another model, input or setting. Nothing was written then.
    """
    state, [file] = settings.state(), settings.questions
    processor = load_processor(settings.model, settings.revision)
    questions = read_questions(file, settings.folder, labelled=False, image_token=str(processor.image_token))
    if any(question.is_video for question in questions):
        require_videos(settings.model, settings.revision)
    with state.main_process_first():
        store = _opened(settings, state)
    if store is None:
        lines = Path(settings.output).read_bytes().split(b"\n")[:-1]
        return BatchResult(len(lines), len(lines), sum("error" in json.loads(line) for line in lines))
    with store:
        done = _answered(settings, store, questions)
        # Nobody writes before everybody has read, or the processes would share out different work.
        state.wait_for_everyone()
        missing = [question for question in questions if question.question_id not in done]
        answer_in_batches(settings, store, missing, answer_records, progress=progress)
        state.wait_for_everyone()
        records = _answered(settings, store, questions)
        state.wait_for_everyone()
        for question in questions:
            if question.question_id not in records:
                raise ValueError(f"{question.image} has changed while it was asked about: run the same command again.")
        if state.is_main_process:
            written = [_output_line(question, records[question.question_id]) for question in questions]
            store.finish(Path(settings.output), written)
    state.wait_for_everyone()
    counts = [sum(name in record for record in records.values()) for name in ("error", "cut_off", "unpruned")]
    return BatchResult(len(questions), len(done), *counts)


def answer_records(
    settings: BatchSettings, checkpoint: Checkpoint, cache: EncodedImageCache, batch: Sequence[Question]
) -> list[dict[str, Any]]:
    """Answers a batch: {"line", "image", "answer"} or {"line", "image", "error"} for each question.

    `image` is what `image_stamp` says of the file before it is read. An answer has `cut_off` where the processor leaves
    out a part of the image, and `unpruned` where the budget keeps every token.

    An image that cannot be read costs its own line. Where the model refuses a batch, or runs out of memory, its
    questions are asked one by one, so that only those have an error that are refused alone.

    Raises:
        ValueError: the model refuses each of several questions, which is not a fault of a line.
    """
    images: dict[Question, Image | Video] = {}
    found: dict[Question, dict[str, Any]] = {}
    stamps = [image_stamp(settings.folder / question.image) for question in batch]
    for question in batch:
        try:
            images[question] = settings.read(question)
        except ValueError as error:
            found[question] = {"error": str(error).removeprefix(f"{settings.folder}/")}
    said = _said(settings, checkpoint, cache, images) if images else {}
    if len(said) > 1 and all("error" in each for each in said.values()):
        raise ValueError(next(iter(said.values()))["error"])
    found |= said
    return [
        {"line": question.question_id, **found[question], "image": stamp}
        for question, stamp in zip(batch, stamps, strict=True)
    ]


def image_stamp(path: Path) -> list[int] | None:
    """Size in bytes and time of change of a file, by which a changed one is told; None where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _said(
    settings: BatchSettings, checkpoint: Checkpoint, cache: EncodedImageCache, images: Mapping[Question, Image | Video]
) -> dict[Question, dict[str, Any]]:
    """Answer or error of each question, asked together, or else one by one."""
    try:
        inputs = batch_inputs(
            checkpoint, [question.prompt for question in images], [[image] for image in images.values()]
        )
        given = {"max_new_tokens": settings.max_new_tokens, **settings.overrides}
        texts, lengths = answers_to(checkpoint, cache.inputs(inputs, **given), **given)
    except (ValueError, torch.OutOfMemoryError) as error:
        # Only the sentence: the traceback would keep the tensors of the failed call in memory.
        refusal = str(error)
    else:
        full, processor = inputs["attention_mask"].sum(1).tolist(), checkpoint.processor.image_processor
        said: dict[Question, dict[str, Any]] = {}
        for (question, image), text, read, whole in zip(images.items(), texts, lengths, full, strict=True):
            notes = {"cut_off": cut_off(image, processor), "unpruned": read == whole}
            said[question] = {"answer": text, **{name: True for name, holds in notes.items() if holds}}
        return said
    if len(images) == 1:
        return {question: {"error": refusal} for question in images}
    return {
        question: said
        for each, image in images.items()
        for question, said in _said(settings, checkpoint, cache, {each: image}).items()
    }


def _answered(settings: BatchSettings, store: RecordStore, questions: Sequence[Question]) -> dict[Any, dict[str, Any]]:
    """The records of the lines, by number, whose images are still what they were when they were asked about."""
    stamps = {question.question_id: image_stamp(settings.folder / question.image) for question in questions}
    return {
        record["line"]: record
        for record in store.read()
        if isinstance(record.get("line"), int) and stamps.get(record["line"], ()) == record.get("image")
    }


def _output_line(question: Question, record: Mapping[str, Any]) -> str:
    """The input's fields, and the answer or the error in place of those that an earlier output has left in it."""
    kept = {name: value for name, value in question.fields.items() if name not in ("answer", "error")}
    found = {name: value for name, value in record.items() if name in ("answer", "error")}
    return json.dumps({**kept, **found}, ensure_ascii=False)


def _opened(settings: BatchSettings, state: PartialState) -> RecordStore | None:
    """The store of this process; None if a run was killed when it had written the output and only had to tidy up."""
    output = Path(settings.output)
    if not state.is_main_process:
        return None if output.exists() else RecordStore(settings.parts, {}, process=state.process_index)
    taken = ValueError(f"{output} is there already: remove it, or name another output.")
    if output.exists() and not settings.parts.is_dir():
        raise taken
    store = RecordStore(settings.parts, settings.fingerprint())
    if not output.exists():
        return store
    finished = store.is_finished(output)
    store.close()
    if not finished:
        raise taken
    store.remove()
    return None
