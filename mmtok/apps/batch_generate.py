"""Answers a file of questions about images: in order, each line once, on any number of processes, resumable.

    accelerate launch --num_processes 8 -m mmtok generate --model ./llava-mmtok \\
        --questions questions.jsonl --output answers.jsonl

Every process appends its answers to a file of its own in `OUTPUT.parts`. Interrupted at any point, the same command
goes on with what is missing, on as many processes as it is given then. When all is there, the parts become `OUTPUT` at
once. On several machines, `OUTPUT` has to be on a file system that they share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import AutoConfig, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from configuration_mmtok import check_option
from mmtok.evaluation.checkpoint import batch_inputs
from mmtok.evaluation.questions import Question, batches, read_questions
from mmtok.hub.handler import Video
from mmtok.image_cache import MEMORY_LIMIT, EncodedImageCache
from mmtok.measuring import prompt_lengths
from mmtok.publish.hub import check_model_name
from mmtok.record_store import RecordStore, model_content
from mmtok.visuals import FRAMES, cut_off, read_image, read_video, require_videos

from .answering import Budget, answer_prompts, load_pipeline

if TYPE_CHECKING:
    from PIL import Image
    from transformers import ImageTextToTextPipeline

_MODEL_CLASS = "AutoModelForImageTextToText"


@dataclass(frozen=True)
class BatchSettings:
    """What is asked.

    Attributes:
        model: staged folder or Hub repository.
        input: a file that `read_questions` reads; all fields are copied to the answer.
        output: gets a JSON object on a line for each question, in their order, with `answer`, or with `error` where the
            image cannot be read or the model refuses the question.
        images: what the names of images and videos are relative to; None for the folder of `input`.
        frames: of a video that are read at most.
        budget: `vision_token_budget`; "model" for what the model's configuration says.
        pruning_options: further options of the pruning, in place of the model's own.
        batch_size: questions at once in each process.
        max_new_tokens: most tokens of an answer.
        dtype: of the weights; None for the model's own.
        revision: branch, tag or commit of a Hub repository.
        device: of a run with one process; None for the accelerator, if there is one.
        image_memory: bytes of encoded images that each process keeps for further questions about them.
    """

    model: str
    input: Path
    output: Path
    budget: Budget | str = "model"
    pruning_options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    max_new_tokens: int = 64
    dtype: str | None = None
    revision: str | None = None
    device: str | None = None
    image_memory: int = MEMORY_LIMIT
    images: Path | None = None
    frames: int = FRAMES

    @property
    def folder(self) -> Path:
        """What the names of images are relative to."""
        return self.input.parent if self.images is None else self.images

    @property
    def overrides(self) -> dict[str, Any]:
        """All options that are not the model's own."""
        return {**self.pruning_options, **({} if self.budget == "model" else {"vision_token_budget": self.budget})}

    @property
    def parts(self) -> Path:
        """The folder of unfinished work."""
        return self.output.with_name(self.output.name + ".parts")

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers; unfinished work goes on only under the same."""
        return {
            "model": model_content(self.model, self.revision),
            "input_sha256": hashlib.sha256(self.input.read_bytes()).hexdigest(),
            "vision_token_budget": self.budget,
            "max_new_tokens": self.max_new_tokens,
            "dtype": self.dtype,
            "frames": self.frames,
            **self.pruning_options,
        }

    def check(self) -> None:
        """Raises a ValueError for an option, a model name or a number that cannot be used."""
        for name, value in self.overrides.items():
            check_option(name, value)
        check_model_name(self.model)
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise ValueError(
                f"batch_size is {self.batch_size} and max_new_tokens {self.max_new_tokens}: give at least 1."
            )
        if self.image_memory < 0:
            raise ValueError(f"image_memory is {self.image_memory}: give a number of bytes of at least 0.")


@dataclass(frozen=True)
class BatchResult:
    """What a run did.

    Attributes:
        lines: of the output.
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
    """Answers every line of `settings.input` that has no answer yet, and writes `settings.output` when all have one.

    Called in every process of `accelerate launch`, or in one process. `progress` shows a bar.

    Raises:
        ValueError: an option out of range, an input line that cannot be asked, an output that exists, a run on
            the same output that is going on, or unfinished work of another model, input or setting. Nothing was written
            then.
    """
    settings.check()
    state = PartialState(cpu=not torch.accelerator.is_available() or settings.device == "cpu")
    token = _image_token(settings, state)
    questions = read_questions(settings.input, settings.folder, labelled=False, image_token=token)
    if any(question.is_video for question in questions):
        require_videos(settings.model, settings.revision)
    with state.main_process_first():
        store = _opened(settings, state)
    if store is None:
        lines = settings.output.read_bytes().split(b"\n")[:-1]
        return BatchResult(len(lines), len(lines), sum("error" in json.loads(line) for line in lines))
    with store:
        done = _answered(settings, store, questions)
        # Nobody writes before everybody has read, or the processes would share out different work.
        state.wait_for_everyone()
        missing = [(number, question) for number, question in enumerate(questions) if number not in done]
        missing.sort(key=lambda each: each[1].image)  # questions about one image find it encoded
        with state.split_between_processes(missing) as own:
            if own:
                _answer_all(settings, state, store, own, progress)
        state.wait_for_everyone()
        records = _answered(settings, store, questions)
        state.wait_for_everyone()
        changed = [number for number in range(len(questions)) if number not in records]
        if changed:
            image = questions[changed[0]].image
            raise ValueError(f"{image} has changed while it was asked about: run the same command again.")
        if state.is_main_process:
            store.finish(settings.output, (_output_line(question, records[n]) for n, question in enumerate(questions)))
    state.wait_for_everyone()
    return BatchResult(
        len(questions),
        len(done),
        sum("error" in record for record in records.values()),
        sum("cut_off" in record for record in records.values()),
        sum("unpruned" in record for record in records.values()),
    )


def _answer_all(
    settings: BatchSettings,
    state: PartialState,
    store: RecordStore,
    questions: Sequence[tuple[int, Question]],
    progress: bool,
) -> None:
    """Answers this process's share of the questions, batch by batch."""
    pipe = _loaded(settings, state)
    cache = EncodedImageCache(pipe.model, settings.image_memory)
    given = {"cache": cache, "max_new_tokens": settings.max_new_tokens, "frames": settings.frames, **settings.overrides}
    shown = progress and state.is_main_process
    with tqdm(total=len(questions), desc="answers", unit="line", disable=not shown) as bar:
        for batch in batches(questions, settings.batch_size, itemgetter(1)):
            store.append(answer_records(pipe, settings.folder, batch, **given))
            bar.update(len(batch))


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
        ValueError: the model refuses each of several questions, which is not a fault of a line.
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


def _answered(settings: BatchSettings, store: RecordStore, questions: Sequence[Question]) -> dict[int, dict[str, Any]]:
    """The records of the lines, by number, whose images are still what they were when they were asked about."""
    found = {}
    for record in store.read():
        number = record.get("line")
        if not isinstance(number, int) or not 0 <= number < len(questions):
            continue
        if record.get("image") == image_stamp(settings.folder / questions[number].image):
            found[number] = record
    return found


def _output_line(question: Question, record: Mapping[str, Any]) -> str:
    """The input's fields, and the answer or the error in place of those that an earlier output has left in it."""
    kept = {name: value for name, value in question.fields.items() if name not in ("answer", "error")}
    found = {name: value for name, value in record.items() if name in ("answer", "error")}
    return json.dumps({**kept, **found}, ensure_ascii=False)


def _opened(settings: BatchSettings, state: PartialState) -> RecordStore | None:
    """The store of this process; None if a run was killed when it had written the output and only had to tidy up."""
    if not state.is_main_process:
        return None if settings.output.exists() else RecordStore(settings.parts, {}, process=state.process_index)
    if settings.output.exists() and not settings.parts.is_dir():
        raise ValueError(f"{settings.output} is there already: remove it, or name another output.")
    store = RecordStore(settings.parts, settings.fingerprint())
    if not settings.output.exists():
        return store
    finished = store.is_finished(settings.output)
    store.close()
    if not finished:
        raise ValueError(f"{settings.output} is there already: remove it, or name another output.")
    store.remove()
    return None


def _image_token(settings: BatchSettings, state: PartialState) -> str:
    # The first process of a machine copies remote code into the cache of modules; the others find it there.
    with state.local_main_process_first():
        processor = AutoProcessor.from_pretrained(settings.model, revision=settings.revision, trust_remote_code=True)
    return str(processor.image_token)


def _loaded(settings: BatchSettings, state: PartialState) -> ImageTextToTextPipeline:
    chosen = {"dtype": settings.dtype, "revision": settings.revision}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    device = settings.device if settings.device and state.num_processes == 1 else state.device
    with state.local_main_process_first():
        config = AutoConfig.from_pretrained(settings.model, revision=settings.revision, trust_remote_code=True)
        code = getattr(config, "auto_map", None) or {}
        if _MODEL_CLASS in code:
            get_class_from_dynamic_module(code[_MODEL_CLASS], settings.model, revision=settings.revision)
    return load_pipeline(settings.model, device=device, **chosen)
