"""`mmtok ask`, `mmtok show` and `mmtok bench`: questions about one image or video."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import (
    about_the_model,
    add_budgets,
    add_call_options,
    add_frames,
    add_length,
    add_model,
    add_output,
    add_parser,
    at_least,
    base_of,
    budget_name,
    budgets_of,
    call_pruning_options,
    explain,
    nothing_pruned,
    opened_pipeline,
    print_json,
    print_table,
    question,
    writable_image,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from mmtok.apps.answer import Explanation
    from mmtok.apps.colors import ColorBy
    from mmtok.apps.figure import Panel
    from mmtok.apps.seen_image import SeenImage
    from mmtok.apps.seen_video import SeenVideo
    from mmtok.videos import Video

_ASK = """\
Answers questions about an image or video, each with every budget, and says how long a prompt the language model read,
how much of the full coverage the kept tokens have, and how long it took."""
_SHOW = """\
Draws which vision tokens of an image the language model reads: one row for each question, one column for each budget.
The patch of a kept token is framed in the colour of its gain; the bar in it splits the gain into what covers the
question (orange) and what covers the image (blue). Crops are laid out as they were cut: tiles of
LLaVA-NeXT, the mosaic of LLaVA-OneVision. Of a video there is a row of frames for each question and budget, at most 8;
Qwen-VL reads frames in pairs, of which the first is drawn."""
_BENCH = """\
Times a model on this machine with several budgets: time to first token (vision tower, projector, selection, prefill)
and total time of a longer answer. Medians over rounds in which every budget takes its turn, after one round that warms
up. The image or video is processed once, before the clock starts."""
_PROMPT_LEGEND = "tokens in the prompt: what the language model reads, of the whole prompt."
_TIME_LEGEND = "time: of `generate`, from the processor's output to the last token, after a call that warms up."


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
    parser.add_argument("--color-by", choices=["gain", "text share"], default="gain", help="colour of the frames")
    parser.add_argument("--answers", action="store_true", help="answer the questions too")
    parser.set_defaults(run=show)


def add_bench(commands: Any, name: str, help: str) -> None:
    """Adds `mmtok bench`."""
    example = 'mmtok bench --model ./llava-mmtok photo.jpg "Is there a dog?" --budget all 192 64 16'
    parser = _with_questions(add_parser(commands, name, help, _BENCH, example), 1, 16, least=2)
    parser.add_argument(
        "--repeats", metavar="N", type=at_least(1), default=5, help="rounds that count (default: %(default)s)"
    )
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
    add_frames(parser)
    add_budgets(parser)
    add_length(parser, max_new_tokens, least)
    add_model(parser)
    add_call_options(parser)
    return parser


def _asked_about(options: argparse.Namespace) -> Image.Image | Video:
    """The image or video of a command, read before a model is loaded.

    Raises:
        ValueError: one that cannot be read, options that mean nothing for it, or a video for a model whose videos are
            not pruned, or while torchvision is missing.
    """
    from mmtok.images import read_image
    from mmtok.videos import FRAMES, read_video, require_videos

    path = Path(options.image)
    if options.video:
        if options.exclude_padding is not None:
            raise ValueError("--exclude-padding means nothing for a video, whose frames are not padded: leave it out.")
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
    from mmtok.apps.answering import ask_with_budgets, warm_up
    from mmtok.apps.explained import COVERAGE
    from mmtok.apps.progress import steps

    image, pruning_options = _asked_about(options), call_pruning_options(options)
    answers = []
    with steps(2 + len(options.questions) * len(options.budget), quiet=options.quiet) as begin:
        begin("Loading the model")
        with opened_pipeline(options) as pipe:
            begin("Warming up")
            warm_up(pipe, image, options.questions[0])
            lost = _lost(image, pipe)
            budgets = budgets_of(options.budget, pipe.model.config, pipe.model.generation_config)
            for each in options.questions:
                given = {"max_new_tokens": options.max_new_tokens, "begin": begin, **pruning_options}
                answers += ask_with_budgets(pipe, image, each, budgets, **given)
    if options.json:
        print_json([answer.as_json() for answer in answers])
    else:
        print_table(
            ["question", "budget", "answer", "tokens in the prompt", "coverage", "time"],
            [
                [
                    answer.question,
                    budget_name(answer.budget),
                    answer.answer,
                    f"{answer.prompt_tokens} of {answer.full_prompt_tokens}",
                    f"{answer.coverage:.1%}",
                    f"{1000 * answer.seconds:.0f} ms",
                ]
                for answer in answers
            ],
            left=["question", "answer"],
        )
        explain(options, *_covered(answers), _PROMPT_LEGEND, COVERAGE, _TIME_LEGEND)
    explain(options, _unpruned(answers), lost, about_the_model(options.model))


def show(options: argparse.Namespace) -> None:
    """Draws the image or video and prints what was kept."""
    from mmtok.apps.answering import ask_with_budgets, explain_inputs, model_inputs
    from mmtok.apps.explained import COVERAGE
    from mmtok.apps.progress import steps
    from mmtok.apps.seen_image import seen_images
    from mmtok.apps.seen_video import SeenVideo, seen_video
    from mmtok.apps.video_figure import tokens_per_frame
    from mmtok.videos import Video

    image, pruning_options = _asked_about(options), call_pruning_options(options)
    output = writable_image(options.output, "kept.png", overwrite=options.overwrite, source=Path(options.image))
    seen: SeenImage | SeenVideo
    rows: list[Sequence[Explanation]] = []
    with steps(1 + len(options.questions) * len(options.budget), quiet=options.quiet) as begin:
        begin("Loading the model")
        with opened_pipeline(options) as pipe:
            lost = _lost(image, pipe)
            budgets = budgets_of(options.budget, pipe.model.config, pipe.model.generation_config)
            for each in options.questions:
                inputs = model_inputs(pipe, image, each)
                if options.answers:
                    given = {"max_new_tokens": options.max_new_tokens, "begin": begin, **pruning_options}
                    rows.append(ask_with_budgets(pipe, image, each, budgets, **given))
                    continue
                begin("Selecting")
                rows.append([explain_inputs(pipe, inputs, each, budget, **pruning_options) for budget in budgets])
            if isinstance(image, Video):
                seen = seen_video(inputs, image, pipe.model.config, pipe.processor.video_processor)
            else:
                [seen] = seen_images(inputs, pipe.model.config, pipe.processor.image_processor)
    _figure(seen, rows, options).savefig(output, dpi=150)
    flat = [read for row in rows for read in row]
    if options.json:
        video = {"video": seen.as_json()} if isinstance(seen, SeenVideo) else {}
        print_json({"image": str(output), "cut_off": lost, **video, "selections": [read.as_json() for read in flat]})
        explain(options, _unpruned(flat), about_the_model(options.model))
        return
    columns = ["question", "budget", "answer", "vision tokens", "tokens in the prompt", "coverage"]
    cells = [
        [
            read.question,
            budget_name(read.budget),
            getattr(read, "answer", ""),
            str(read.vision_tokens),
            f"{read.prompt_tokens} of {read.full_prompt_tokens}",
            f"{read.coverage:.1%}",
        ]
        for read in flat
    ]
    described = ""
    if isinstance(seen, SeenVideo):
        described = f"{seen.described()}."
        columns.insert(4, f"per {seen.unit}")
        for cell, read in zip(cells, flat, strict=True):
            cell.insert(4, tokens_per_frame(read))
    print_table(columns, cells, left=["question", "answer"])
    explain(options, *_covered(flat), described, _PROMPT_LEGEND, COVERAGE)
    explain(options, _unpruned(flat), lost, about_the_model(options.model))
    print(f"Drawn in {output}.")


def bench(options: argparse.Namespace) -> None:
    """Times and prints."""
    from mmtok.apps.explained import TOO_SMALL
    from mmtok.apps.progress import steps
    from mmtok.apps.timing import setting, time_budgets

    image, pruning_options = _asked_about(options), call_pruning_options(options)
    with steps(2 + options.repeats, quiet=options.quiet) as begin:
        begin("Loading the model")
        with opened_pipeline(options) as pipe:
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
    unpruned = nothing_pruned([each.budget for each in timings if each.prompt_tokens == each.full_prompt_tokens])
    if options.json:
        print_json({"setting": measured_on, "options": pruning_options, "timings": [asdict(each) for each in timings]})
        explain(options, unpruned)
        return
    print(", ".join(f"{name} {value}" for name, value in {**measured_on, **pruning_options}.items()))
    print_table(
        ["budget", "tokens in the prompt", "first token", "total", "first token, compared", "total, compared"],
        [
            [
                budget_name(each.budget),
                f"{each.prompt_tokens} of {each.full_prompt_tokens}",
                f"{1000 * each.first_token:.1f} ms",
                f"{1000 * each.total:.1f} ms",
                f"{timings[0].first_token / each.first_token:.2f} x",
                f"{timings[0].total / each.total:.2f} x",
            ]
            for each in timings
        ],
    )
    explain(
        options,
        f"Medians of {options.repeats} rounds; totals are of {options.max_new_tokens} tokens; compared with the first "
        "budget of the table.",
        unpruned,
        TOO_SMALL if about_the_model(options.model) else "",
    )


def _lost(image: Image.Image | Video, pipe: Any) -> str:
    from mmtok.images import cut_off
    from mmtok.videos import Video

    return "" if isinstance(image, Video) else cut_off(image.size, pipe.processor.image_processor)


def _unpruned(read: Sequence[Explanation]) -> str:
    found = {repr(each.budget): each.budget for each in read if each.prompt_tokens == each.full_prompt_tokens}
    return nothing_pruned(list(found.values()))


def _covered(read: Sequence[Explanation]) -> list[str]:
    """Which words of each question the kept tokens have to cover."""
    words = dict.fromkeys((each.question, each.words) for each in read)
    return [f"Covered words of {question!r}: {covered}" for question, covered in words]


def _figure(seen: SeenImage | SeenVideo, rows: Sequence[Sequence[Explanation]], options: argparse.Namespace) -> Figure:
    from mmtok.apps.figure import comparison_figure
    from mmtok.apps.seen_video import SeenVideo
    from mmtok.apps.video_figure import video_figure

    if isinstance(seen, SeenVideo):
        title = f"{Path(options.image).name}: {seen.described()}"
        return video_figure(seen, rows, title=title, color_by=options.color_by)
    panels = [[panel(seen, read, getattr(read, "answer", None), options.color_by) for read in row] for row in rows]
    return comparison_figure(panels, row_titles=options.questions, color_by=options.color_by)


def panel(seen: SeenImage, read: Explanation, answer: str | None, color_by: ColorBy = "gain") -> Panel:
    """What is read of an image with one budget, and what is answered, where that is known."""
    from mmtok.apps.figure import Panel
    from mmtok.apps.overlay import overlay
    from mmtok.apps.wording import counted

    title = counted(read.vision_tokens, "token")
    if answer is not None:
        title += f" → {answer or '(nothing)'}"
    drawn = overlay(seen, None if read.budget is None else read.selection, color_by=color_by)
    return Panel(drawn, title, f"prompt of {counted(read.prompt_tokens, 'token')} · coverage {read.coverage:.1%}")
