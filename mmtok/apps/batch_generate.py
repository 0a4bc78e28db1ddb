"""Answers a file of questions about pictures: in order, each line once, on any number of processes, resumable.

    accelerate launch --num_processes 8 -m mmtok generate --model ./llava-mmtok \\
        --input questions.jsonl --output answers.jsonl

Every process appends its answers to a file of its own in `OUTPUT.parts`. Interrupted at any point, the same command
goes on with what is missing, on as many processes as it is given then. When all is there, the parts become `OUTPUT` at
once. On several machines, `OUTPUT` has to be on a file system that they share.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import AutoConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from configuration_mmtok import check_knob
from mmtok.images import read_image
from mmtok.publish.hub_names import check_model_name

from .answering import Budget, answer_batch, load_pipeline

if TYPE_CHECKING:
    from transformers import ImageTextToTextPipeline

_RUN_FILE = "run.json"
_NOT_GIVEN = object()
_MODEL_CLASS = "AutoModelForImageTextToText"


@dataclass(frozen=True)
class BatchSettings:
    """What is asked.

    Attributes:
        model: staged folder or Hub repository.
        input: a JSON object on each line, with `image` (a path, relative to the file) and `question`; further fields
            are copied to the answer.
        output: gets one line for each line of `input`, in its order, with `answer`, or with `error` where the picture
            cannot be read.
        budget: `vision_token_budget`; "model" for what the model's configuration says.
        knobs: further knobs of the pruning, in place of the model's own.
        batch_size: questions at once in each process.
        max_new_tokens: most tokens of an answer.
        dtype: of the weights; None for the model's own.
    """

    model: str
    input: Path
    output: Path
    budget: Budget | str = "model"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    max_new_tokens: int = 64
    dtype: str | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """All knobs that are not the model's own."""
        return {**self.knobs, **({} if self.budget == "model" else {"vision_token_budget": self.budget})}

    @property
    def parts(self) -> Path:
        """The folder of unfinished work."""
        return self.output.with_name(self.output.name + ".parts")

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers; unfinished work goes on only under the same."""
        return {
            "model": self.model,
            "input_sha256": hashlib.sha256(self.input.read_bytes()).hexdigest(),
            "vision_token_budget": self.budget,
            "max_new_tokens": self.max_new_tokens,
            "dtype": self.dtype,
            **self.knobs,
        }


@dataclass(frozen=True)
class BatchResult:
    """What a run did: lines of the output, those that an earlier run had answered, those with an error."""

    lines: int
    resumed: int
    errors: int


def generate_file(settings: BatchSettings) -> BatchResult:
    """Answers every line of `settings.input` that has no answer yet, and writes `settings.output` when all have one.

    Called in every process of `accelerate launch`, or in one process.

    Raises:
        ValueError: a knob out of range, an input line without `image` or `question`, a picture that is not there, an
            output that is there already, or unfinished work of another model, input or setting. Nothing was written
            then.
    """
    for name, value in settings.overrides.items():
        check_knob(name, value)
    check_model_name(settings.model)
    state = PartialState(cpu=not torch.accelerator.is_available())
    questions = read_questions(settings.input)
    if settings.output.exists():
        raise ValueError(f"{settings.output} is there already: remove it, or name another output.")
    if settings.batch_size < 1 or settings.max_new_tokens < 1:
        raise ValueError(
            f"batch_size is {settings.batch_size} and max_new_tokens {settings.max_new_tokens}: give at least 1."
        )
    _claim(settings, state)
    done = set(read_parts(settings.parts))
    # Nobody writes before everybody has read, or the processes would share out different work.
    state.wait_for_everyone()
    missing = [number for number in range(len(questions)) if number not in done]
    own = missing[state.process_index :: state.num_processes]
    if own:
        pipe = _loaded(settings, state)
        with open_part(settings.parts / f"{state.process_index:05}.jsonl") as part:
            batches = [own[start : start + settings.batch_size] for start in range(0, len(own), settings.batch_size)]
            progress = tqdm(total=len(own), desc="answers", unit="line", disable=not state.is_main_process)
            for batch in batches:
                append_lines(part, answer_lines(pipe, settings, [(number, questions[number]) for number in batch]))
                progress.update(len(batch))
            progress.close()
    state.wait_for_everyone()
    answered = read_parts(settings.parts)
    state.wait_for_everyone()
    if state.is_main_process:
        _finish(settings, [answered[number] for number in range(len(questions))])
    state.wait_for_everyone()
    return BatchResult(len(questions), len(done), sum("error" in line for line in answered.values()))


def read_questions(path: Path) -> list[dict[str, Any]]:
    """The lines of an input file, their pictures as full paths.

    Raises:
        ValueError: no text file; or names the first line that is no question about a picture, or whose picture is not
            there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}") from error
    questions = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            question = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error}).") from error
        if not isinstance(question, dict) or not all(isinstance(question.get(k), str) for k in ("image", "question")):
            raise ValueError(f"{path}, line {number}: give an object with the texts `image` and `question`.")
        if not (path.parent / question["image"]).is_file():
            raise ValueError(f"{path}, line {number}: the picture {question['image']} is not there.")
        questions.append(question)
    if not questions:
        raise ValueError(f"{path} is empty: give one question on each line.")
    return questions


def answer_lines(
    pipe: ImageTextToTextPipeline, settings: BatchSettings, batch: Sequence[tuple[int, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Answers (line number, question) pairs; a picture that cannot be read becomes an `error`, the others are asked."""
    lines: list[dict[str, Any]] = [{"line": number, **question} for number, question in batch]
    pictures, asked = [], []
    for line in lines:
        try:
            pictures.append([read_image(settings.input.parent / line["image"])])
        except ValueError as error:
            line["error"] = str(error)
            continue
        asked.append(line)
    if asked:
        questions = [line["question"] for line in asked]
        answers = answer_batch(pipe, questions, pictures, max_new_tokens=settings.max_new_tokens, **settings.overrides)
        for line, answer in zip(asked, answers, strict=True):
            line["answer"] = answer
    return lines


def append_lines(part: IO[str], lines: Iterable[dict[str, Any]]) -> None:
    """Appends lines to a part, on the disk when this returns."""
    part.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    part.flush()
    os.fsync(part.fileno())


def read_parts(folder: Path) -> dict[int, dict[str, Any]]:
    """All complete lines of all parts, by line number; a line that a kill has torn does not count."""
    answered = {}
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            line = json.loads(text)
            answered[line["line"]] = line
    return answered


def open_part(path: Path) -> IO[str]:
    """A part to append to; a torn line at its end is cut off."""
    with path.open("ab+") as part:
        part.seek(0)
        part.truncate(part.read().rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def _claim(settings: BatchSettings, state: PartialState) -> None:
    """Makes the folder of parts, or makes sure that the one that is there belongs to this run."""
    with state.main_process_first():
        file, fingerprint = settings.parts / _RUN_FILE, settings.fingerprint()
        if not file.exists():
            settings.parts.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(fingerprint, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(file)
            return
        before = json.loads(file.read_text(encoding="utf-8"))
        names = {**fingerprint, **before}
        changed = [name for name in names if before.get(name, _NOT_GIVEN) != fingerprint.get(name, _NOT_GIVEN)]
        if changed:
            raise ValueError(
                f"{settings.parts} holds unfinished work with another {' and '.join(changed)}: remove it, or name "
                "another output."
            )


def _loaded(settings: BatchSettings, state: PartialState) -> ImageTextToTextPipeline:
    chosen = {"dtype": settings.dtype} if settings.dtype else {}
    # The first process of a machine copies remote code into the cache of modules; the others find it there.
    with state.local_main_process_first():
        code = getattr(AutoConfig.from_pretrained(settings.model, trust_remote_code=True), "auto_map", None) or {}
        if _MODEL_CLASS in code:
            get_class_from_dynamic_module(code[_MODEL_CLASS], settings.model)
    return load_pipeline(settings.model, device=state.device, **chosen)


def _finish(settings: BatchSettings, lines: Sequence[dict[str, Any]]) -> None:
    """The parts become the output, all of it or nothing."""
    unfinished = settings.parts / "complete.unfinished"
    with unfinished.open("w", encoding="utf-8") as file:
        append_lines(file, ({name: value for name, value in line.items() if name != "line"} for line in lines))
    unfinished.replace(settings.output)
    shutil.rmtree(settings.parts)
