"""`mmtok ask`, `mmtok show` and `mmtok bench`: questions about one image or video."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import (
    MODEL,
    add_budget,
    add_call_options,
    add_model,
    add_number,
    add_output,
    add_parser,
    base_of,
    budgets_of,
    call_pruning_options,
    load_model,
    question,
    whole,
    writable_image,
)
from .output import about_the_model, budget_name, explain, print_json, print_table, steps, unpruned

if TYPE_CHECKING:
    from PIL import Image

    from mmtok.apps.answering import Explanation
    from mmtok.apps.seen import Seen
    from mmtok.hub.handler import Video

_ASK = """\
Answers questions about an image or video, each with every budget, and says how long a prompt the language model read,
how much of the full coverage the kept tokens have, and how long it took."""
_SHOW = """\
Draws which vision tokens of an image the language model reads: one row for each question, one drawing for each budget.
The patches of kept tokens are outlined and stay bright, the others are dark; what the image processor cuts off is
hatched. Crops are laid out as they were cut: overview and tiles of LLaVA-NeXT, overview and mosaic of LLaVA-OneVision.
Of a video at most 8 frames are drawn; Qwen-VL reads frames in pairs, of which the first is drawn."""
_BENCH = """\
Times a model on this machine with several budgets: time to first token (vision tower, projector, selection, prefill)
and total time of a longer answer. Medians over rounds in which every budget takes its turn, after one round that warms
up. The image or video is processed once, before the clock starts."""
_PROMPT_LEGEND = "tokens in the prompt: what the language model reads, of the whole prompt."
_TIME_LEGEND = "time: of `generate`, from the processor's output to the last token, after a call that warms up."


def _per_crop(read: Explanation) -> str:
    """How many vision tokens stay of each crop, frame or pair: "4", or "3 to 5" where it differs."""
    few, many = min(read.tokens_per_crop), max(read.tokens_per_crop)
    return f"{few:,}" if few == many else f"{few:,} to {many:,}"


# Columns of the tables, of what was read, answered or timed.
_COLUMNS: dict[str, Callable[[Any], str]] = {
    "question": lambda each: each.question,
    "budget": lambda each: budget_name(each.budget),
    "answer": lambda each: each.answer,
    "vision tokens": lambda each: f"{each.vision_tokens} of {each.all_vision_tokens}",
    **dict.fromkeys(["per crop", "per frame", "per pair of frames"], _per_crop),
    "tokens in the prompt": lambda each: f"{each.prompt_tokens} of {each.full_prompt_tokens}",
    "coverage": lambda each: f"{each.coverage:.1%}",
    "time": lambda each: f"{1000 * each.seconds:.0f} ms",
    "first token": lambda each: f"{1000 * each.first_token:.1f} ms",
    "total": lambda each: f"{1000 * each.total:.1f} ms",
}


def _print(items: Sequence[Any], *names: str, **further: Callable[[Any], str]) -> None:
    """A table with columns of `_COLUMNS`, and further ones."""
    print_table({**{name: _COLUMNS[name] for name in names}, **further}, items, left=["question", "answer"])


def add_ask(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok ask`."""
    example = 'mmtok ask --model ./llava-mmtok photo.jpg "Is there a dog?" --budget all 64 16'
    parser = _with_questions(add_parser(commands, name, help, _ASK, example), "+", 64)
    parser.set_defaults(run=ask)


def add_show(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok show`."""
    examples = (
        'mmtok show photo.jpg "Is there a dog?" "What colour is the car?" --budget all 64 16 4\n'
        'mmtok show --video clip.mp4 "Where is the ball?" --model ./qwen3-vl-mmtok --budget 0.2'
    )
    parser = _with_questions(add_parser(commands, name, help, _SHOW, examples), "+", 32)
    add_output(parser, "kept.png")
    parser.add_argument("--answers", action="store_true", help="answer the questions too")
    explain = "draw for every kept token its gain, what of it covers the question and the image, and when it was picked"
    parser.add_argument("--explain", action="store_true", help=explain)
    parser.set_defaults(run=show)


def add_bench(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok bench`."""
    example = 'mmtok bench --model ./llava-mmtok photo.jpg "Is there a dog?" --budget all 192 64 16'
    parser = _with_questions(add_parser(commands, name, help, _BENCH, example), 1, 16, least=2)
    rounds = "rounds that count (default: %(default)s)"
    parser.add_argument("--repeats", metavar="N", type=whole(1), default=5, help=rounds)
    parser.set_defaults(run=bench)


def _with_questions(
    parser: argparse.ArgumentParser, questions: int | str, max_new_tokens: int, least: int = 1
) -> argparse.ArgumentParser:
    """Image or video, questions, budgets and options, length of the answers, model."""
    parser.add_argument("image", metavar="IMAGE", help="a file, such as photo.png or photo.jpg; with --video a video")
    parser.add_argument("questions", metavar="QUESTION", nargs=questions, type=question, help="in quotes")
    parser.add_argument(
        "--video",
        action="store_true",
        help="IMAGE is a video: a video file, an animated GIF, PNG or WebP, or a folder with an image for each frame "
        "(one a second, in the order of their names); a budget then holds for each frame, of Qwen-VL for each pair",
    )
    add_number(parser, "--frames", least=2)
    add_budget(parser, [None, MODEL], "all model")
    add_number(parser, "--max-new-tokens", max_new_tokens, least)
    add_model(parser)
    add_call_options(parser)
    return parser


def _asked_about(options: argparse.Namespace) -> Image.Image | Video:
    """The image or video of a command, read before a model is loaded.

    Raises:
        ValueError: one that cannot be read, options that mean nothing for it, or a video for a model whose videos are
            not pruned, or while torchvision is missing.
    """
    from mmtok.visuals import FRAMES, read_image, read_video, require_videos

    path = Path(options.image)
    if options.video:
        if options.padding == "exclude":
            raise ValueError("--padding exclude means nothing for a video, whose frames are not padded: leave it out.")
        require_videos(base_of(options.model), options.revision, f"--model {options.model}")
        return read_video(options.image, options.frames or FRAMES)
    if options.frames is not None:
        raise ValueError(f"--frames {options.frames} is for videos: give --video too, or leave it out.")
    is_video = str(guess_type(path.name)[0]).startswith("video/")
    kind = "a folder" if path.is_dir() else "a video" if is_video else ""
    if kind:
        raise ValueError(f"{path} is {kind}: give --video to ask about its frames.")
    return read_image(options.image)


def ask(options: argparse.Namespace) -> None:
    """Asks and prints."""
    from mmtok.apps.answering import answer_inputs, warm_up
    from mmtok.apps.demo import COVERAGE
    from mmtok.evaluation.checkpoint import model_inputs
    from mmtok.visuals import cut_off

    image, pruning_options = _asked_about(options), call_pruning_options(options)
    answers = []
    with steps(2 + len(options.questions) * len(options.budget), quiet=options.quiet) as begin:
        begin("Loading the model")
        pipe = load_model(options)
        begin("Warming up")
        warm_up(pipe, image, options.questions[0])
        lost = cut_off(image, pipe.processor.image_processor)
        budgets = budgets_of(options.budget, pipe.model.config, pipe.model.generation_config)
        for each in options.questions:
            given = {"max_new_tokens": options.max_new_tokens, "begin": begin, **pruning_options}
            answers += answer_inputs(pipe, model_inputs(pipe, image, each), each, budgets, **given)
    if options.json:
        print_json([answer.as_json() for answer in answers])
    else:
        _print(answers, "question", "budget", "answer", "tokens in the prompt", "coverage", "time")
        explain(options, *_covered(answers), _PROMPT_LEGEND, COVERAGE, _TIME_LEGEND)
    explain(options, unpruned(answers), lost, about_the_model(options.model))


def show(options: argparse.Namespace) -> None:
    """Draws the image or video and prints what was kept."""
    from mmtok.apps.answering import answer_inputs, explain_inputs
    from mmtok.apps.demo import COVERAGE
    from mmtok.apps.drawing import kept_figure
    from mmtok.apps.seen import frames_read, seen_of
    from mmtok.evaluation.checkpoint import model_inputs
    from mmtok.hub.handler import Video
    from mmtok.visuals import cut_off

    image, pruning_options = _asked_about(options), call_pruning_options(options)
    output = writable_image(options.output, "kept.png", overwrite=options.overwrite, source=Path(options.image))
    rows: list[Sequence[Explanation]] = []
    with steps(1 + len(options.questions) * len(options.budget), quiet=options.quiet) as begin:
        begin("Loading the model")
        pipe = load_model(options)
        lost = cut_off(image, pipe.processor.image_processor)
        budgets = budgets_of(options.budget, pipe.model.config, pipe.model.generation_config)
        for each in options.questions:
            inputs = model_inputs(pipe, image, each)
            if options.answers:
                given = {"max_new_tokens": options.max_new_tokens, "begin": begin, **pruning_options}
                rows.append(answer_inputs(pipe, inputs, each, budgets, **given))
                continue
            begin("Selecting")
            rows.append([explain_inputs(pipe, inputs, each, budget, **pruning_options) for budget in budgets])
    seen = seen_of(pipe, inputs, image, pruning_options)
    title = f"{Path(options.image).name}: {frames_read(seen, image)}" if isinstance(image, Video) else ""
    kept_figure(seen, rows, title=title, explain=options.explain).savefig(output, dpi=150)
    flat = [read for row in rows for read in row]
    if options.json:
        video = {"video": _video_json(seen, image)} if isinstance(image, Video) else {}
        print_json({"image": str(output), "cut_off": lost, **video, "selections": [read.as_json() for read in flat]})
        explain(options, unpruned(flat), about_the_model(options.model))
        return
    answered = ["answer"] if options.answers else []
    per_crop = [f"per {seen.unit}"] if seen.count > 1 else []
    _print(flat, "question", "budget", *answered, "vision tokens", *per_crop, "tokens in the prompt", "coverage")
    explain(options, *_covered(flat), _PROMPT_LEGEND, COVERAGE, unpruned(flat), about_the_model(options.model))
    for told in filter(None, (title, lost, f"Drawn in {output}.")):
        print(told)


def _video_json(seen: Seen, video: Video) -> dict[str, Any]:
    """Which frames of the file were read, the crop that each is in, and the crops that are drawn."""
    together = 1 if seen.unit == "frame" else 2
    return {
        "total_frames": video.total,
        "frames": [
            {"index": index, "seconds": round(seconds, 3), "crop": place // together}
            for place, (index, seconds) in enumerate(zip(video.indices, video.seconds, strict=True))
        ],
        "drawn_crops": list(seen.numbers),
    }


def bench(options: argparse.Namespace) -> None:
    """Times and prints."""
    from mmtok.apps.demo import TOO_SMALL
    from mmtok.apps.timing import setting, time_budgets

    image, pruning_options = _asked_about(options), call_pruning_options(options)
    with steps(2 + options.repeats, quiet=options.quiet) as begin:
        begin("Loading the model")
        pipe = load_model(options)
        timings = time_budgets(
            pipe,
            image,
            options.questions[0],
            budgets_of(options.budget, pipe.model.config, pipe.model.generation_config),
            new_tokens=options.max_new_tokens,
            repeats=options.repeats,
            begin=begin,
            **pruning_options,
        )
        measured_on = setting(pipe)
    if options.json:
        print_json({"setting": measured_on, "options": pruning_options, "timings": [asdict(each) for each in timings]})
        explain(options, unpruned(timings))
        return
    print(", ".join(f"{name} {value}" for name, value in {**measured_on, **pruning_options}.items()))
    _print(
        timings,
        "budget",
        "tokens in the prompt",
        "first token",
        "total",
        **{
            "first token, compared": lambda each: f"{timings[0].first_token / each.first_token:.2f} x",
            "total, compared": lambda each: f"{timings[0].total / each.total:.2f} x",
        },
    )
    explain(
        options,
        f"first token: vision tower, projector, selection, prefill; total: with an answer of {options.max_new_tokens} "
        f"tokens. Medians of {options.repeats} rounds, compared with the first budget of the table.",
        unpruned(timings),
        TOO_SMALL if about_the_model(options.model) else "",
    )


def _covered(read: Sequence[Explanation]) -> list[str]:
    """Which words of each question the kept tokens have to cover."""
    words = dict.fromkeys((each.question, each.words) for each in read)
    return [f"Covered words of {question!r}: {covered}" for question, covered in words]
