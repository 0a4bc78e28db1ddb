"""A run: every question answered by every method at every budget, resumable and in parallel."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from accelerate import PartialState
from tqdm import tqdm

from mmtok.hub.generation import GenerationCall
from mmtok.hub.options import check_option
from mmtok.image_cache import MEMORY_LIMIT, EncodedImageCache
from mmtok.publish.recipe import preset_options
from mmtok.record_store import RecordStore, model_content
from mmtok.visuals import FRAMES, cut_off, read_image, read_video, require_videos

from .checkpoint import Checkpoint, answers_to, pruning_config
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

if TYPE_CHECKING:
    from PIL import Image

    from mmtok.hub.handler import Video

# Tokens kept of each crop, or a share of them as a float; None for the full prompt.
Budget: TypeAlias = int | float | None
Key: TypeAlias = tuple[str, Budget, str, int | str]


INSTRUCTION = "Answer the question using a single word or phrase."
CHOICE_INSTRUCTION = "Answer with the option's letter from the given choices directly."
FULL = "all"


@dataclass(frozen=True)
class FileSettings:
    """How files of questions are asked, whether the answers are compared or written down.

    Attributes:
        model: folder or Hub id of a staged or stock checkpoint.
        questions: files that `read_questions` reads.
        output: for the answers; a run that was interrupted goes on from what it finds there.
        images: folder of the images and videos; None for that of the first file.
        batch_size: questions at once in each process.
        max_new_tokens: most tokens of an answer.
        dtype: of the weights, by name; None for the checkpoint's own.
        revision: branch, tag or commit of a model on the Hub.
        device: of a run with one process; None for the accelerator, if there is one.
        image_memory: bytes of encoded images that each process keeps for further questions about them.
        frames: of a video that are read at most.
    """

    model: str | Path
    questions: Sequence[str | Path]
    output: str | Path
    images: str | Path | None = None
    batch_size: int = 16
    max_new_tokens: int = 16
    dtype: str | None = None
    revision: str | None = None
    device: str | None = None
    image_memory: int = MEMORY_LIMIT
    frames: int = FRAMES

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1.")
        if self.image_memory < 0:
            raise ValueError(f"image_memory is {self.image_memory}: give a number of bytes of at least 0.")

    @property
    def folder(self) -> Path:
        """What the names of images are relative to."""
        return Path(self.questions[0]).parent if self.images is None else Path(self.images)

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers, as JSON values."""
        return {
            "model": model_content(self.model, self.revision),
            "questions": {
                Path(path).stem: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in self.questions
            },
            "max_new_tokens": self.max_new_tokens,
            "dtype": self.dtype,
            "frames": self.frames,
        }

    def state(self) -> PartialState:
        """This process among those of the run."""
        return PartialState(cpu=not torch.accelerator.is_available() or self.device == "cpu")

    def load(self) -> Checkpoint:
        """The model, where this process runs it."""
        state = self.state()
        device = self.device if self.device and state.num_processes == 1 else state.device
        return Checkpoint.load(self.model, device=device, dtype=self.dtype, revision=self.revision)

    def read(self, question: Question) -> Image.Image | Video:
        """The image or video of a question.

        Raises:
            ValueError: it cannot be read.
        """
        path = self.folder / question.image
        return read_video(path, self.frames) if question.is_video else read_image(path)


def answer_in_batches(
    settings: Any,
    store: RecordStore,
    questions: Sequence[Question],
    answer: Callable[[Any, Checkpoint, EncodedImageCache, Sequence[Question]], list[dict[str, Any]]],
    *,
    progress: bool,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Shares questions out over the processes, each with its own copy of the model, and records the answers.

    Args:
        settings: of the run.
        store: for the records, which `answer` makes of a batch.
        questions: those that have no answer yet.
        answer: called with the settings, the model and its encoded images for batches of this process's share.
        progress: whether to show a bar.
        checkpoint: the model, if it is loaded already.
    """
    state = settings.state()
    questions = sorted(questions, key=lambda question: question.image)  # questions about one image find it encoded
    with state.split_between_processes(questions) as own:
        if not own:
            return
        checkpoint = checkpoint or settings.load()
        cache, shown = EncodedImageCache(checkpoint.model, settings.image_memory), progress and state.is_main_process
        with tqdm(total=len(own), desc="questions", disable=not shown, mininterval=1) as bar:
            for batch in batches(own, settings.batch_size):
                store.append(answer(settings, checkpoint, cache, batch))
                bar.update(len(batch))


@dataclass(frozen=True, kw_only=True)
class RunSettings(FileSettings):
    """A comparison of methods; every file is a task.

    Attributes:
        budgets: tokens kept of each crop, or of each frame, or shares of them as floats.
        methods: what is compared.
        instruction: written on a line of its own behind every question; "" for none, and None for `INSTRUCTION`, or
            `CHOICE_INSTRUCTION` where there are choices.
        limit: only the first questions of each file.
        labelled: whether the questions have answers to compare with.
    """

    budgets: Sequence[int | float]
    methods: Sequence[Method] = tuple(METHODS.values())
    instruction: str | None = None
    limit: int | None = None
    labelled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for budget in self.budgets:
            check_option("vision_token_budget", budget)
            if budget is None or repr(budget) == "1.0":
                raise ValueError(f"The budget {budget} is all tokens, which are measured in any case: leave it out.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}: give at least 1, or None for all questions.")
        names = [method.name for method in self.methods]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"Two methods are called {repeated[0]!r}: name them apart.")
        tasks = [Path(path).stem for path in self.questions]
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"Two question files have the same name without ending: {', '.join(sorted(tasks))}.")

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers, as JSON values."""
        methods = {
            method.name: (
                dict(method.options) if isinstance(method, ModelPruning) else {"selector": type(method).__name__}
            )
            for method in self.methods
        }
        instruction = INSTRUCTION if self.instruction is None else self.instruction
        return {**super().fingerprint(), "instruction": instruction, "methods": methods}

    def text(self, question: Question) -> str:
        """What the model is asked: the question with the instruction."""
        usual = CHOICE_INSTRUCTION if question.choices else INSTRUCTION
        return f"{question.prompt}\n{usual if self.instruction is None else self.instruction}".strip()

    @property
    def cells(self) -> list[tuple[Method | None, Budget]]:
        """Methods with their budgets; None with None for the full prompt."""
        return [(None, None), *((method, budget) for method in self.methods for budget in self.budgets)]


class RecordedAnswer(NamedTuple):
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
        return self[:4]


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
    questions = [each for path in settings.questions for each in read_questions(path, settings.folder, **given)]
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


def run(settings: RunSettings, *, progress: bool = True, checkpoint: Checkpoint | None = None) -> RunResult:
    """Answers every question that has no answer yet, and says how many images lose a part that no method can read.

    `progress` shows a bar; `checkpoint` is the model, if it is loaded already.

    Raises:
        ValueError: settings, questions or images that do not fit together, before the model is loaded; an output
            folder that belongs to another run.
    """
    state, questions = settings.state(), questions_of(settings)
    with state.main_process_first():  # it says in the store what the run does
        store = RecordStore(settings.output, settings.fingerprint(), process=state.process_index, may_grow="methods")
    cut: dict[str, bool] = {}
    with store:
        done = recorded(store)
        state.wait_for_everyone()  # nobody adds to the files that others are still reading

        def answer(
            settings: RunSettings, checkpoint: Checkpoint, cache: EncodedImageCache, batch: Sequence[Question]
        ) -> list[dict[str, Any]]:
            images, processor = [settings.read(question) for question in batch], checkpoint.processor.image_processor
            for question, image in zip(batch, images, strict=True):
                if not question.is_video:
                    cut[question.image] = bool(cut_off(image, processor))
            wanted = [cell for cell in settings.cells if any(_key(cell, question) not in done for question in batch)]
            answers = _batch_answers(settings, checkpoint, cache, batch, images, wanted)
            return [answer._asdict() for answer in answers if answer.key not in done]

        todo = [question for question in questions if any(_key(cell, question) not in done for cell in settings.cells)]
        answer_in_batches(settings, store, todo, answer, progress=progress, checkpoint=checkpoint)
        state.wait_for_everyone()
        done = recorded(store)
    if progress and state.is_main_process and any(cut.values()):
        lost = sum(cut.values())
        print(f"Of {lost} of {len(cut)} images the model sees the middle square alone.", file=sys.stderr)
    wanted = [_key(cell, question) for question in questions for cell in settings.cells]
    return RunResult(questions, [done[key] for key in wanted])


def _batch_answers(
    settings: RunSettings,
    checkpoint: Checkpoint,
    cache: EncodedImageCache,
    batch: Sequence[Question],
    images: Sequence[Any],
    cells: Sequence[tuple[Method | None, Budget]],
) -> Iterator[RecordedAnswer]:
    """The answers of all `cells` to a batch, whose images are encoded once for all of them."""
    texts = [settings.text(question) for question in batch]
    inputs = checkpoint.inputs(texts, images)
    encoded_inputs, usual = cache.inputs(inputs), checkpoint.model.config.image_scale
    vision = encoded_inputs["encoded_images"]
    selectors = [method for method, _ in cells if isinstance(method, Selector)]
    if selectors:
        needs = {need for selector in selectors for need in selector.needs}
        encoded = EncodedBatch.of(checkpoint.model, inputs, needs, [_seed(question) for question in batch], vision)
    for method, budget in cells:
        if isinstance(method, Selector) and budget is not None:
            found = generate_by_selector(checkpoint, inputs, encoded, method, budget, settings.max_new_tokens)
        elif isinstance(method, Resizing) and budget is not None:
            small = shrunk_inputs(checkpoint, texts, images, vision.layouts, budget)
            whole = ModelPruning(method.name, {"image_scale": None})
            found = generate_by_model(checkpoint, small, whole, None, settings.max_new_tokens)
        else:
            pruning = method if isinstance(method, ModelPruning) else None
            own = encoded_inputs
            if pruning is not None and pruning.options.get("image_scale", usual) != usual:
                own = cache.inputs(inputs, **pruning.options)
            found = generate_by_model(checkpoint, own, pruning, budget, settings.max_new_tokens)
        for question, text, tokens in zip(batch, *found, strict=True):
            yield RecordedAnswer(*_key((method, budget), question), text, tokens)


def generate_by_model(
    checkpoint: Checkpoint, inputs: Mapping[str, Any], method: ModelPruning | None, budget: Budget, max_new_tokens: int
) -> tuple[list[str], list[int]]:
    """The model's own `generate`, end to end, on a batch with pixels or with `encoded_images`.

    Args:
        method: with which options; None, together with a budget of None, for the full prompt.

    Returns:
        The answers, and how many vision tokens the language model read for each.
    """
    given = {**(method.options if method else {}), "vision_token_budget": budget, "max_new_tokens": max_new_tokens}
    texts, lengths = answers_to(checkpoint, inputs, **given, num_beams=1)
    return texts, _vision_tokens(checkpoint, inputs, lengths)


def generate_by_selector(
    checkpoint: Checkpoint,
    inputs: Mapping[str, torch.Tensor],
    encoded: EncodedBatch,
    selector: Selector,
    budget: int | float,
    max_new_tokens: int,
) -> tuple[list[str], list[int]]:
    """As `generate_by_model`, from where the model has selected, with the tokens that a selector keeps of each crop.

    `encoded` is that of `inputs`; a budget is a number of tokens, or a share as a float.
    """
    model, pruned = checkpoint.model, encoded.pruned(checkpoint.model, selector, budget)

    def generate(**given: Any) -> torch.Tensor:
        return GenerationCall.read(given, model.generation_config).run_pruned(model.generate, pruned)

    text = {name: inputs[name] for name in ("input_ids", "attention_mask")} | types_of(inputs)
    texts, lengths = answers_to(checkpoint, text, generate, max_new_tokens=max_new_tokens, num_beams=1)
    return texts, _vision_tokens(checkpoint, inputs, lengths)


def _vision_tokens(checkpoint: Checkpoint, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[int]:
    """What was read but is not text. The tokens that end the rows of an image belong to it."""
    config, ids = checkpoint.model.config, inputs["input_ids"]
    others = (getattr(config, "video_token_id", None), getattr(checkpoint.processor, "image_break_token_id", None))
    known = [config.image_token_id, *(each for each in others if each is not None)]
    vision = torch.isin(ids, torch.tensor(known, device=ids.device))
    text = (inputs["attention_mask"].bool() & ~vision).sum(1).tolist()
    return [length - words for length, words in zip(lengths, text, strict=True)]


def _key(cell: tuple[Method | None, Budget], question: Question) -> Key:
    method, budget = cell
    return FULL if method is None else method.name, budget, question.task, question.question_id


def _seed(question: Question) -> int:
    """The seed of a random method: it depends on the question alone, not on the batch or the machine."""
    text = f"{question.task} {question.question_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def methods_named(names: Iterable[str], model: str | Path, revision: str | None = None) -> list[Method]:
    """The methods of `NAMED_METHODS` with these names, in any case; options depend on the family of the model.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    known = {name.lower(): name for name in NAMED_METHODS}
    found: list[Method] = []
    for given in names:
        name = known.get(given.lower())
        if name is None:
            raise ValueError(f"There is no method {given!r}: choose from {', '.join(NAMED_METHODS)}.")
        method = RESIZED if name == RESIZED.name else METHODS.get(name)
        if method is None or isinstance(method, ModelPruning):
            if method is None:
                own = preset_options(name, model, revision=revision)
            else:
                own = {each: value for each, value in method.options.items() if value != PAPER_SETTINGS[each]}
            paper = preset_options("paper", model, revision=revision) | {"padding": "stock"}
            method = ModelPruning(name, {**PAPER_SETTINGS, **paper, **own})
        found.append(method)
    return found
