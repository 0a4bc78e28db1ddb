"""A run: every question answered by every method at every budget, resumable and in parallel."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from mmtok.hub.generation import GenerationCall
from mmtok.hub.options import check_option
from mmtok.image_cache import MEMORY_LIMIT, EncodedImageCache
from mmtok.measuring import prompt_lengths
from mmtok.publish.recipe import preset_options
from mmtok.record_store import RecordStore, model_content
from mmtok.visuals import FRAMES, cut_off, image_size, read_image, read_video, require_videos

from .checkpoint import Checkpoint, pruning_config
from .encoded import EncodedBatch, types_of
from .questions import Question, batches, read_questions
from .selectors import (
    METHODS,
    NAMED_METHODS,
    PAPER_SETTINGS,
    RESIZED,
    Method,
    ModelPruning,
    Resizing,
    Selector,
    shrunk_inputs,
    why_not_resized,
)

# Tokens kept of each crop, or a share of them as a float; None for the full prompt.
Budget: TypeAlias = int | float | None
Key: TypeAlias = tuple[str, Budget, str, int | str]


INSTRUCTION = "Answer the question using a single word or phrase."
CHOICE_INSTRUCTION = "Answer with the option's letter from the given choices directly."
FULL = "all"


@dataclass(frozen=True)
class RunSettings:
    """What is run.

    Attributes:
        model: folder or Hub id of a staged or stock checkpoint.
        questions: files that `read_questions` reads, a task each.
        images: folder of their images and videos.
        budgets: tokens kept of each crop, or of each frame, or shares of them as floats.
        output: folder for the answers; a run that was interrupted goes on from what it finds there.
        methods: what is compared.
        instruction: written on a line of its own behind every question; "" for none, and None for `INSTRUCTION`, or
            `CHOICE_INSTRUCTION` where there are choices.
        batch_size: questions at once.
        max_new_tokens: length of an answer.
        limit: only the first questions of each file.
        dtype: of the weights; None for the checkpoint's own.
        image_memory: bytes of encoded images that are kept for further questions about them.
        revision: branch, tag or commit of a model on the Hub.
        device: of a run with one process; None for the accelerator, if there is one.
        frames: of a video that are read at most.
        labelled: whether the questions have answers to compare with.
    """

    model: str | Path
    questions: Sequence[str | Path]
    images: str | Path
    budgets: Sequence[int | float]
    output: str | Path
    methods: Sequence[Method] = tuple(METHODS.values())
    instruction: str | None = None
    batch_size: int = 16
    max_new_tokens: int = 16
    limit: int | None = None
    dtype: torch.dtype | None = None
    image_memory: int = MEMORY_LIMIT
    revision: str | None = None
    device: str | None = None
    frames: int = FRAMES
    labelled: bool = True

    def __post_init__(self) -> None:
        for budget in self.budgets:
            check_option("vision_token_budget", budget)
            if budget is None or repr(budget) == "1.0":
                raise ValueError(f"The budget {budget} is all tokens, which are measured in any case: leave it out.")
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}: give at least 1, or None for all questions.")
        names = [method.name for method in self.methods]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"Two methods are called {repeated[0]!r}: name them apart.")
        tasks = [Path(path).stem for path in self.questions]
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"Two question files have the same name without ending: {', '.join(sorted(tasks))}.")


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


@dataclass(frozen=True)
class RunResult:
    """The questions of a run and all answers to them; the same in every process."""

    questions: list[Question]
    answers: list[RecordedAnswer]


def questions_of(settings: RunSettings) -> list[Question]:
    """The questions of all files.

    Raises:
        ValueError: a line that cannot be asked, a video for a method that reads images alone, or smaller images for a
            model whose tokens do not follow their size.
    """
    given: dict[str, Any] = {"labelled": settings.labelled, "limit": settings.limit}
    questions = [each for path in settings.questions for each in read_questions(path, settings.images, **given)]
    of_images = [method.name for method in settings.methods if not isinstance(method, ModelPruning)]
    videos = [question.image for question in questions if question.is_video]
    if of_images and videos:
        raise ValueError(f"{videos[0]} is a video, and {of_images[0]} is for images alone: leave it out.")
    if any(isinstance(method, Resizing) for method in settings.methods):
        reason = why_not_resized(*pruning_config(settings.model, settings.revision))
        if reason:
            raise ValueError(reason)
    if videos:
        require_videos(settings.model, settings.revision)
    return questions


def load(settings: RunSettings) -> Checkpoint:
    """The model of a run, where this process runs it."""
    state = _state(settings)
    device = settings.device if settings.device and state.num_processes == 1 else state.device
    return Checkpoint.load(settings.model, device=device, dtype=settings.dtype, revision=settings.revision)


def _state(settings: RunSettings) -> PartialState:
    return PartialState(cpu=not torch.cuda.is_available() or settings.device == "cpu")


def run(settings: RunSettings, *, progress: bool = True, checkpoint: Checkpoint | None = None) -> RunResult:
    """Answers every question that has no answer yet.

    Under `accelerate launch` the questions are shared out over the processes, each with its own copy of the model.

    Args:
        settings: what is run.
        progress: whether to show a bar.
        checkpoint: the model, if it is loaded already.

    Raises:
        ValueError: settings, questions or images that do not fit together, before the model is loaded; an output
            folder that belongs to another run.
    """
    state, questions = _state(settings), questions_of(settings)
    cells = _cells(settings)
    with state.main_process_first():  # it says in the store what the run does
        store = RecordStore(settings.output, fingerprint(settings), process=state.process_index, may_grow="methods")
    with store:
        done = recorded(store)
        state.wait_for_everyone()  # nobody adds to the files that others are still reading
        todo = [question for question in questions if any(_key(cell, question) not in done for cell in cells)]
        todo.sort(key=lambda question: question.image)  # questions about one image find it encoded
        new: list[RecordedAnswer] = []
        if todo:
            with state.split_between_processes(todo) as share:
                checkpoint = checkpoint or load(settings)
                new = _answer(settings, checkpoint, share, cells, set(done), store, progress and state.is_main_process)
    gathered = gather_object(new) if state.num_processes > 1 else new
    done.update((answer.key, answer) for answer in gathered)
    wanted = [_key(cell, question) for question in questions for cell in cells]
    return RunResult(questions, [done[key] for key in wanted])


def _answer(
    settings: RunSettings,
    checkpoint: Checkpoint,
    questions: Sequence[Question],
    cells: Sequence[tuple[Method | None, Budget]],
    done: set[Key],
    store: RecordStore,
    progress: bool,
) -> list[RecordedAnswer]:
    cache = EncodedImageCache(checkpoint.model, settings.image_memory)
    if progress:
        _tell_cut_off(checkpoint, settings, questions)
    new: list[RecordedAnswer] = []
    with tqdm(total=len(questions), desc="questions", disable=not progress, mininterval=5) as bar:
        for batch in batches(questions, settings.batch_size, lambda question: question):
            wanted = [cell for cell in cells if any(_key(cell, question) not in done for question in batch)]
            answers = _batch_answers(settings, checkpoint, cache, batch, wanted)
            answers = [answer for answer in answers if answer.key not in done]
            store.append(map(asdict, answers))
            new += answers
            bar.update(len(batch))
    return new


def _tell_cut_off(checkpoint: Checkpoint, settings: RunSettings, questions: Sequence[Question]) -> None:
    """Says of how many images the processor leaves out a part, which no method can read."""
    names = sorted({question.image for question in questions if not question.is_video})
    processor = checkpoint.processor.image_processor
    sizes = [image_size(Path(settings.images) / name) for name in names]
    lost = sum(size is not None and bool(cut_off(size, processor)) for size in sizes)
    if lost:
        print(f"Of {lost} of {len(names)} images the model sees the middle square alone.", file=sys.stderr)


def _batch_answers(
    settings: RunSettings,
    checkpoint: Checkpoint,
    cache: EncodedImageCache,
    batch: Sequence[Question],
    cells: Sequence[tuple[Method | None, Budget]],
) -> list[RecordedAnswer]:
    """The answers of all `cells` to a batch, whose images are encoded once for all of them."""
    texts = [f"{question.prompt}\n{_instruction(settings, question)}".strip() for question in batch]
    paths = [Path(settings.images) / question.image for question in batch]
    images: list[Any] = [read_video(path, settings.frames) if batch[0].is_video else read_image(path) for path in paths]
    inputs = checkpoint.inputs(texts, images)
    encoded_inputs, usual = cache.inputs(inputs), checkpoint.model.config.image_scale
    selectors = [method for method, _ in cells if isinstance(method, Selector)]
    encoded: EncodedBatch | None = None
    if selectors:
        needs = {need for selector in selectors for need in selector.needs}
        seeds = [_seed(question) for question in batch]
        encoded = EncodedBatch.of(checkpoint.model, inputs, needs, seeds, encoded_inputs["encoded_images"])
    answers: list[RecordedAnswer] = []
    for cell in cells:
        method, budget = cell
        if isinstance(method, Selector) and encoded is not None and budget is not None:
            found = generate_by_selector(checkpoint, inputs, encoded, method, budget, settings.max_new_tokens)
        elif isinstance(method, Resizing) and budget is not None:
            small = shrunk_inputs(checkpoint, texts, images, encoded_inputs["encoded_images"].layouts, budget)
            whole = ModelPruning(method.name, {"image_scale": None})
            found = generate_by_model(checkpoint, small, whole, None, settings.max_new_tokens)
        else:
            pruning = method if isinstance(method, ModelPruning) else None
            own = encoded_inputs
            if pruning is not None and pruning.options.get("image_scale", usual) != usual:
                own = cache.inputs(inputs, **pruning.options)
            found = generate_by_model(checkpoint, own, pruning, budget, settings.max_new_tokens)
        answers += [
            RecordedAnswer(*_key(cell, question), text, tokens)
            for question, text, tokens in zip(batch, *found, strict=True)
        ]
    return answers


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


def _instruction(settings: RunSettings, question: Question) -> str:
    if settings.instruction is not None:
        return settings.instruction
    return CHOICE_INSTRUCTION if question.choices else INSTRUCTION


def _cells(settings: RunSettings) -> list[tuple[Method | None, Budget]]:
    pruned = [(method, budget) for method in settings.methods for budget in settings.budgets]
    return [(None, None), *pruned]


def _key(cell: tuple[Method | None, Budget], question: Question) -> Key:
    method, budget = cell
    return FULL if method is None else method.name, budget, question.task, question.question_id


def _seed(question: Question) -> int:
    """The seed of a random method: it depends on the question alone, not on the batch or the machine."""
    text = f"{question.task} {question.question_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def fingerprint(settings: RunSettings) -> Mapping[str, Any]:
    """What decides the answers of a run, as JSON values."""
    return {
        "model": model_content(settings.model, settings.revision),
        "questions": {Path(path).stem: _sha256(path) for path in settings.questions},
        "instruction": INSTRUCTION if settings.instruction is None else settings.instruction,
        "max_new_tokens": settings.max_new_tokens,
        "dtype": str(settings.dtype),
        "frames": settings.frames,
        "methods": {method.name: _method_settings(method) for method in settings.methods},
    }


def _method_settings(method: Method) -> dict[str, Any]:
    return dict(method.options) if isinstance(method, ModelPruning) else {"selector": type(method).__name__}


def _sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def methods_named(names: Iterable[str], model: str | Path, revision: str | None = None) -> list[Method]:
    """The methods of `NAMED_METHODS` with these names, in any case.

    Args:
        names: what to compare.
        model: on which; a preset sets other options for another family.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    known = {name.lower(): name for name in NAMED_METHODS}
    paper: dict[str, Any] | None = None
    found: list[Method] = []
    for given in names:
        name = known.get(given.lower())
        if name is None:
            raise ValueError(f"There is no method {given!r}: choose from {', '.join(NAMED_METHODS)}.")
        method = RESIZED if name == RESIZED.name else METHODS.get(name)
        if method is not None and not isinstance(method, ModelPruning):
            found.append(method)
            continue
        preset = {} if method else preset_options(name, model, revision=revision)
        if paper is None:
            paper = preset_options("paper", model, revision=revision) | {"select_before_unpadding": False}
        own = {each: value for each, value in method.options.items() if value != PAPER_SETTINGS[each]} if method else {}
        found.append(ModelPruning(method.name if method else name, {**PAPER_SETTINGS, **paper, **own, **preset}))
    return found
