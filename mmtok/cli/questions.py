"""Many questions: `mmtok generate` answers them, `mmtok eval` says how many answers are right, and `mmtok compare` how
many are those of all tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtok.tiny import EMBEDDED

from .arguments import (
    MODEL,
    Budget,
    add_budget,
    add_call_options,
    add_model,
    add_number,
    add_parser,
    base_of,
    budgets_of,
    call_pruning_options,
    share,
    whole,
)
from .output import about_the_model, budget_name, explain, nothing_pruned, print_json, print_table, steps, unpruned

if TYPE_CHECKING:
    from mmtok.apps.timing import Timing
    from mmtok.evaluation import RunResult, RunSettings
    from mmtok.evaluation.questions import Question
    from mmtok.evaluation.summary import Agreement

_GENERATE = """\
Answers a file of questions about images and videos: JSON lines, a JSON array or CSV, with these fields:

  {"image": "photos/1.jpg", "question": "Is there a dog?"}

`image`, or in its place `video`, is relative to the file; further fields are copied. The output has a line of JSON for
each question, in the same order, with `answer`, or with `error` where an image cannot be read or the model refuses the
question. Interrupted, the same command continues where it was."""
_EVAL = """\
Accuracy on files of questions about the images and videos in a folder: all tokens, and every method with every budget.
The files are JSON lines (POPE's among them), JSON arrays or CSV, with these fields:

  {"image": "1.jpg", "question": "Is there a dog?", "answer": "no"}
  {"video": "clip.mp4", "question": "Who wins?", "choices": ["red", "blue"], "answer": "B"}

Tasks of yes and no are scored in F1, others in accuracy. Answers are kept in the output folder, so that an interrupted
run goes on; under `accelerate launch -m mmtok` the questions are shared between the processes."""
_COMPARE = """\
Finds the smallest budget that keeps a model's answers about your own images, without labels: every question is answered
with all tokens and with each budget, and the answers are compared; where a smaller image has fewer tokens, also with
an image of as many as each budget. Measures the time to the first token and the cache, and draws the images whose
answers change. Answers are kept in the output folder, so that an interrupted run goes on.

FOLDER holds images. The questions are those of --questions, or three about each image. Without FOLDER the embedded
model is asked about drawings of its own kind."""
# What results call the model's own settings with the options of the command line in their place.
_GIVEN = "given"
GENERIC = ("What is in the image?", "Is there a person in the image?", "How many objects are in the image?")
_EXAMPLES = 24
_SCORES = {"exact": "answers that are the same", "f1": "F1 of the words of the answers"}


def add_generate(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok generate`."""
    example = (
        "accelerate launch --num_processes 2 -m mmtok generate --model ./llava-mmtok --questions questions.jsonl "
        "--output answers.jsonl --budget 64"
    )
    parser = add_parser(commands, name, help, _GENERATE, example)
    parser.add_argument("--questions", required=True, type=Path, metavar="FILE", help="JSON lines, JSON or CSV")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the answers, JSON lines")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="where the images are (default: with the file)")
    add_budget(parser)
    add_number(parser, "--batch-size", 8)
    add_number(parser, "--max-new-tokens", 64)
    add_number(parser, "--frames", least=2)
    add_number(parser, "--image-memory", least=0)
    add_model(parser, required=True)
    add_call_options(parser)
    parser.set_defaults(run=generate)


def add_eval(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok eval`."""
    example = (
        "mmtok eval --model ./llava-mmtok --questions coco_pope_random.json --images val2014 --budget 192 128 64 4"
    )
    parser = add_parser(commands, name, help, _EVAL, example)
    parser.add_argument("--questions", required=True, nargs="+", type=Path, metavar="FILE", help="a task each")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="folder of the images or videos")
    add_budget(parser, [None, MODEL], "all model")
    methods = (
        "such as MMTok, DivPrune or uniform, and resized, a smaller image of as many tokens; another name is refused "
        "with the list (default: MMTok)"
    )
    parser.add_argument("--methods", metavar="NAME", nargs="+", default=["MMTok"], help=methods)
    _add_run(parser, "runs/evaluation", 16)
    behind = "written behind every question (default: to answer with a single word or phrase, or with a letter)"
    parser.add_argument("--instruction", help=behind)
    add_number(parser, "--frames", least=2)
    add_model(parser, required=True)
    add_call_options(parser, f"for one more method, {_GIVEN}: the model's own settings with these in their place")
    parser.set_defaults(run=evaluate)


def add_compare(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok compare`."""
    example = "mmtok compare photos --model ./llava-mmtok --questions questions.jsonl --budget 128 64 32 16"
    parser = add_parser(commands, name, help, _COMPARE, example)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="folder of images")
    parser.add_argument("--questions", type=Path, metavar="FILE", help="JSON lines, JSON or CSV; answers are not read")
    add_budget(parser, None, "the model's own, twice, half, a quarter and an eighth of it")
    kept = "how much of the answers a budget has to keep (default: %(default)s)"
    parser.add_argument("--agreement", metavar="SHARE", type=share, default=0.95, help=kept)
    of = "what --agreement is of: answers that are the same, or the F1 of their words (default: %(default)s)"
    parser.add_argument("--score", choices=list(_SCORES), default="exact", help=of)
    drawn = "images to draw at most (default: %(default)s)"
    parser.add_argument("--drawings", metavar="N", type=whole(0), default=8, help=drawn)
    _add_run(parser, "runs/compare", 32)
    parser.add_argument("--instruction", default="", help="written behind every question (default: nothing)")
    add_model(parser)
    add_call_options(parser)
    parser.set_defaults(run=compare)


def _add_run(parser: argparse.ArgumentParser, output: str, max_new_tokens: int) -> None:
    kept = "for answers and results (default: %(default)s)"
    parser.add_argument("--output", metavar="FOLDER", type=Path, default=Path(output), help=kept)
    parser.add_argument("--limit", metavar="N", type=whole(1), help="only the first questions of each file")
    add_number(parser, "--batch-size", 16)
    add_number(parser, "--max-new-tokens", max_new_tokens)
    add_number(parser, "--image-memory", least=0)


def _file_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of `FileSettings`, but for questions and images."""
    from mmtok.visuals import FRAMES

    given = {name: getattr(options, name) for name in ("output", "batch_size", "max_new_tokens", "dtype", "revision")}
    more = {"device": options.device, "image_memory": options.image_memory * 2**20}
    return {"model": base_of(options.model), "frames": getattr(options, "frames", None) or FRAMES, **given, **more}


def _write(results: dict[str, Any], output: Path) -> None:
    (output / "results.json").write_text(json.dumps(results, indent=2, default=str) + "\n", encoding="utf-8")


def generate(options: argparse.Namespace) -> int:
    """Generates; 1 where a line has an error."""
    from accelerate import PartialState

    from mmtok.apps.answering import counted
    from mmtok.apps.batch_generate import BatchSettings, generate_file

    settings = BatchSettings(
        **_file_settings(options),
        questions=[options.questions],
        images=options.images,
        budget=options.budget,
        pruning_options=call_pruning_options(options),
    )
    result = generate_file(settings, progress=not options.quiet)
    if not PartialState().is_main_process:
        return 1 if result.errors else 0
    if options.json:
        print_json({**result._asdict(), "output": str(options.output)})
    else:
        print(f"{counted(result.lines, 'line')} in {options.output}, {result.resumed} of them from an earlier run.")
        if result.errors:
            have = "has" if result.errors == 1 else "have"
            print(f"{counted(result.errors, 'line')} {have} `error` in place of `answer`.")
    kept_all = result.unpruned and options.budget is not None
    explain(
        options,
        f"Of {counted(result.cut_off, 'image')} the model sees the middle square alone." if result.cut_off else "",
        f"{counted(result.unpruned, 'line')}: {nothing_pruned([options.budget])}" if kept_all else "",
        about_the_model(options.model),
    )
    return 1 if result.errors else 0


def evaluate(options: argparse.Namespace) -> None:
    """Evaluates, writes `results.json` into the output folder, and prints a table."""
    from accelerate import PartialState

    from mmtok.evaluation import RunSettings, legend, methods_named, run, summarize, table
    from mmtok.evaluation.checkpoint import pruning_config
    from mmtok.evaluation.selectors import ModelPruning
    from mmtok.measuring import machine

    model, pruning = base_of(options.model), call_pruning_options(options)
    given = [ModelPruning(_GIVEN, pruning)] if pruning else []
    settings = RunSettings(
        **_file_settings(options),
        questions=options.questions,
        images=options.images,
        instruction=options.instruction,
        limit=options.limit,
        budgets=_without_all(budgets_of(options.budget, pruning_config(model, options.revision)[1])),
        methods=[*methods_named(options.methods, model, options.revision), *given],
    )
    result = run(settings, progress=not options.quiet)
    if not PartialState().is_main_process:
        return
    results = {"machine": machine("mmtok", "transformers"), **summarize(result)}
    _write(results, options.output)
    if options.json:
        print_json(results)
    else:
        print(table(results))
    full, *cells = results["cells"]
    kept_all = [cell["budget"] for cell in cells if cell["vision_tokens"] >= full["vision_tokens"]]
    explain(options, *legend(results), nothing_pruned(kept_all), about_the_model(options.model))


def _without_all(budgets: Sequence[Budget]) -> list[int | float]:
    """All tokens, which are measured in any case, are not a budget of a run."""
    return [each for each in budgets if each is not None and repr(each) != "1.0"]


def compare(options: argparse.Namespace) -> None:
    """Compares, writes `results.json` and drawings into the output folder, and prints a table."""
    from accelerate import PartialState

    from mmtok.apps.timing import time_budgets
    from mmtok.evaluation import RunSettings, run
    from mmtok.evaluation.checkpoint import pruning_config
    from mmtok.evaluation.runner import questions_of
    from mmtok.evaluation.selectors import RESIZED, ModelPruning, why_not_resized
    from mmtok.evaluation.summary import agreements, smallest_budget
    from mmtok.measuring import machine
    from mmtok.visuals import read_image

    pruning = call_pruning_options(options)
    model_class, config = pruning_config(base_of(options.model), options.revision)
    not_resized = why_not_resized(model_class, config)
    budgets = budgets_of(options.budget, config) if options.budget else _ladder(*budgets_of([MODEL], config))
    images, questions = _asked(options)
    settings = RunSettings(
        **_file_settings(options),
        questions=[questions],
        images=images,
        instruction=options.instruction,
        limit=options.limit,
        budgets=_without_all(budgets),
        methods=[ModelPruning(MODEL, pruning), *([] if not_resized else [RESIZED])],
        labelled=False,
    )
    # Every set of questions, model and settings has a folder of its own, and so goes on where it was.
    content = hashlib.sha256(json.dumps(settings.fingerprint(), sort_keys=True).encode()).hexdigest()
    settings = replace(settings, output=options.output / f"answers-{content[:12]}")
    asked = questions_of(settings)
    if any(question.is_video for question in asked):
        raise ValueError(f"{questions} asks about videos, and compare is about images: use eval, with answers.")
    with steps(3, quiet=options.quiet) as begin:
        begin("Loading the model")
        checkpoint = settings.load()
    result = run(settings, progress=not options.quiet, checkpoint=checkpoint)
    if not PartialState().is_main_process:
        return
    found, resized = agreements(result, MODEL), agreements(result, RESIZED.name)
    kept = smallest_budget(found, options.agreement, options.score)
    pipe: Any = checkpoint  # it has a model and a processor, which is all that is asked of a pipeline here
    with steps(4 + options.drawings, quiet=options.quiet) as begin:
        timings = time_budgets(
            pipe,
            read_image(images / asked[0].image),
            asked[0].prompt,
            [None, *(each.budget for each in found)],
            new_tokens=max(2, options.max_new_tokens),
            repeats=3,
            begin=begin,
            **pruning,
        )
        drawings = _drawn(pipe, settings, result, found, options, begin)
    results = {
        "machine": machine("mmtok", "transformers"),
        "model": options.model,
        "questions": len(asked),
        "images": len({question.image for question in asked}),
        "agreement": options.agreement,
        "score": options.score,
        "smallest": None if kept is None else kept.budget,
        "budgets": [each.as_json() for each in found],
        RESIZED.name: [each.as_json() for each in resized],
        "timings": [asdict(timing) for timing in timings],
        "drawings": drawings,
    }
    _write(results, options.output)
    if options.json:
        print_json(results)
    else:
        _print_compared(options, found, {each.budget: each for each in resized}, timings)
        print(_verdict(options, results, found, kept))
    explain(
        options,
        "" if options.json else _LEGEND.format(images=results["images"], questions=len(asked)),
        not_resized or ("" if options.json else _RESIZED),
        unpruned(timings),
        f"Answers that changed are drawn in {options.output / 'drawings'}." if drawings else "",
        about_the_model(options.model),
    )


_LEGEND = """\
same answers, words: agreement with the answers of all tokens, in %, with the 95 % interval of a bootstrap over the
{images} images ({questions} questions). It says what a budget changes, not what is right.
first token, whole answer: time with all tokens over that with the budget, of the first question, with the vision tower.
cache: how much smaller the key-value cache of that prompt is."""
_RESIZED = """\
resized: same answers, of images that are shrunk to at most as many tokens before the model and read whole. They also
save the vision tower's time: where they are level, shrink instead."""


def _ladder(own: Budget) -> list[Budget]:
    """Budgets around the model's own one."""
    whole = 64 if own is None else own
    if isinstance(whole, int):
        return list(dict.fromkeys(max(1, round(whole * factor)) for factor in (2, 1, 0.5, 0.25, 0.125)))
    return [min(1.0, whole * factor) for factor in (2, 1, 0.5, 0.25, 0.125)]


def _asked(options: argparse.Namespace) -> tuple[Path, Path]:
    """The folder of images and the file of questions, which are made where none is given, of drawings for our models.

    Raises:
        ValueError: no folder, or one without images.
    """
    from mmtok.visuals import image_files

    folder, made = options.folder, options.output / "questions.jsonl"
    asked: list[tuple[str, str]] = []
    if folder is None and options.model in EMBEDDED and options.questions is None:
        from mmtok.apps.demo import example

        folder = options.output / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(_EXAMPLES):
            drawn = example(seed, options.model)
            drawn.image.save(folder / f"{seed:02}.png")
            asked += [(f"{seed:02}.png", question.text) for question in drawn.questions]
    if folder is None or not folder.is_dir():
        raise ValueError(f"{folder or 'FOLDER'} is not a folder: give the one that holds your images.")
    if options.questions is not None:
        return folder, options.questions
    if not asked:
        asked = [(path.name, question) for path in image_files(folder) for question in GENERIC]
    if not asked:
        raise ValueError(f"{folder} holds no images: give the folder that holds them.")
    lines = "".join(json.dumps({"image": name, "question": text}, ensure_ascii=False) + "\n" for name, text in asked)
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(lines, encoding="utf-8")
    return folder, made


def _drawn(
    pipe: Any,
    settings: RunSettings,
    result: RunResult,
    found: Sequence[Agreement],
    options: argparse.Namespace,
    begin: Callable[[str], None],
) -> list[str]:
    """Draws the images with the most answers that change: all tokens beside the largest budget that changes them."""
    from mmtok.apps.answering import Answer, explain_inputs
    from mmtok.apps.drawing import kept_figure
    from mmtok.apps.seen import seen_of
    from mmtok.evaluation.checkpoint import model_inputs
    from mmtok.visuals import read_image

    texts = {(each.budget, each.task, each.question_id): each.text for each in result.answers}
    largest: dict[str, dict[Question, Budget]] = {}
    for each in found:
        for question in each.changed:
            largest.setdefault(question.image, {}).setdefault(question, each.budget)
    drawn, given = [], call_pruning_options(options)
    (options.output / "drawings").mkdir(exist_ok=True)
    for name, broken in sorted(largest.items(), key=lambda item: -len(item[1]))[: options.drawings]:
        begin("Drawing")
        image = read_image(settings.folder / name)
        rows: list[list[Answer]] = []
        for question, budget in list(broken.items())[:3]:
            inputs = model_inputs(pipe, image, settings.text(question))
            rows.append([])
            for own in (None, budget):
                read = explain_inputs(pipe, inputs, question.text, own, **given)
                answer = texts[own, question.task, question.question_id]
                rows[-1].append(Answer(**vars(read), answer=answer, seconds=0.0))
        path = options.output / "drawings" / f"{Path(name.replace('/', '_')).stem}.png"
        kept_figure(seen_of(pipe, inputs, image, given), rows).savefig(path, dpi=100)
        drawn.append(str(path))
    return drawn


def _print_compared(
    options: argparse.Namespace,
    found: Sequence[Agreement],
    resized: Mapping[Budget, Agreement],
    timings: Sequence[Timing],
) -> None:
    def percent(interval: Any) -> str:
        return f"{100 * interval.estimate:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"

    full, *pruned = timings
    columns: dict[str, Callable[[tuple[Agreement, Timing]], str]] = {
        "budget": lambda row: budget_name(row[0].budget),
        "vision tokens": lambda row: f"{row[0].vision_tokens:.1f}",
        "same answers": lambda row: percent(row[0].exact),
        "words": lambda row: percent(row[0].f1),
        "resized": lambda row: percent(resized[row[0].budget].exact),
        "first token": lambda row: f"{full.first_token / row[1].first_token:.2f} x",
        "whole answer": lambda row: f"{full.total / row[1].total:.2f} x",
        "cache": lambda row: f"{1 - row[1].prompt_tokens / full.prompt_tokens:.0%} less",
    }
    if not resized:
        del columns["resized"]
    print_table(columns, zip(found, pruned, strict=True))


def _verdict(
    options: argparse.Namespace, results: dict[str, Any], found: Sequence[Agreement], kept: Agreement | None
) -> str:
    """The smallest budget that keeps the agreement, and how sure that is; or why there is none, and what to do."""
    from mmtok.apps.answering import counted

    wanted, what = f"{options.agreement:.0%}", _SCORES[options.score]
    if kept is None:
        largest = found[0]
        share = getattr(largest, options.score).estimate
        [(text, times), *_] = Counter(question.text for question in largest.changed).most_common(1)
        return (
            f"No budget here keeps {wanted} ({what}): the largest, {budget_name(largest.budget)}, keeps {share:.1%}.\n"
            f"With it {counted(len(largest.changed), 'answer')} of {results['questions']} changed, {times} of them to "
            f"{text!r}. If such answers matter to you, give a larger --budget, or leave the model all tokens; if not, "
            f"leave such questions out, or give --agreement {floor(100 * share) / 100:g}."
        )
    interval = getattr(kept, options.score)
    sentence = (
        f"Smallest budget that keeps {wanted} ({what}): {budget_name(kept.budget)}, with {interval.estimate:.1%} "
        f"[{interval.low:.1%}, {interval.high:.1%}]."
    )
    if interval.low < options.agreement:
        sure = [each for each in found if getattr(each, options.score).low >= options.agreement]
        sentence += " The interval reaches below: " + (
            f"{budget_name(sure[-1].budget)} keeps it with the whole interval."
            if sure
            else f"{results['images']} images are too few to be sure of any of these budgets."
        )
    return sentence
