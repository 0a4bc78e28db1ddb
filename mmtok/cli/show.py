"""`mmtok show`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .asked import add_video_options, asked_about
from .common import (
    add_parser,
    add_question_options,
    budget_name,
    call_pruning_options,
    opened_pipeline,
    print_json,
)
from .tables import print_covered, print_table
from .values import add_output_option, writable_image

if TYPE_CHECKING:
    from PIL import Image
    from transformers import ImageTextToTextPipeline

    from mmtok.apps.answering import Explanation
    from mmtok.apps.seen import Seen
    from mmtok.videos import Video

_DESCRIPTION = """\
Draws which vision tokens of an image the language model reads: one row for each question, one drawing for each budget.
The patches of kept tokens are outlined and stay bright, the others are dark; what the image processor cuts off is
hatched. Crops are laid out as they were cut: overview and tiles of LLaVA-NeXT, overview and mosaic of LLaVA-OneVision.
Of a video at most 8 frames are drawn; Qwen-VL reads frames in pairs, of which the first is drawn."""


def add_command(commands: Any, name: str, help: str) -> None:
    """Adds the command."""
    example = (
        'mmtok show photo.jpg "Is there a dog?" "What colour is the car?" --budgets all 64 16 4\n'
        'mmtok show --video clip.mp4 "Where is the ball?" --model ./qwen3-vl-mmtok --budgets 0.2'
    )
    parser = add_parser(commands, name, help, _DESCRIPTION, example)
    add_question_options(parser, ["all", "16", "8", "4"], 32)
    add_video_options(parser)
    add_output_option(parser, "kept.png")
    parser.add_argument("--answers", action="store_true", help="answer the questions too")
    explain = "draw for every kept token its gain, what of it covers the question and the image, and when it was picked"
    parser.add_argument("--explain", action="store_true", help=explain)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draws the image or video and prints what was kept."""
    from mmtok.apps.answering import model_inputs
    from mmtok.apps.drawing import kept_figure
    from mmtok.apps.progress import steps
    from mmtok.apps.seen import frames_read, seen_images, seen_video
    from mmtok.images import cut_off
    from mmtok.videos import Video

    image = asked_about(options)
    output = writable_image(options.output, "kept.png", overwrite=options.overwrite, source=options.image)
    title = lost = ""
    with steps(1 + len(options.questions) * len(options.budgets)) as begin:
        begin("Loading the model")
        with opened_pipeline(options) as pipe:
            rows = [_read(pipe, image, question, options, begin) for question in options.questions]
            inputs = model_inputs(pipe, image, options.questions[0])
            if isinstance(image, Video):
                seen = seen_video(inputs, image, pipe.model.config, pipe.processor.video_processor)
                title = f"{options.image.name}: {frames_read(seen, image)}"
            else:
                [seen] = seen_images(inputs, pipe.model.config, pipe.processor.image_processor, [image])
                lost = cut_off(image.size, pipe.processor.image_processor)
    kept_figure(seen, rows, title=title, explain=options.explain).savefig(output, dpi=150)
    if options.json:
        video = {"video": _video_json(seen, image)} if isinstance(image, Video) else {}
        selections = [read.as_json() for row in rows for read in row]
        print_json({"image": str(output), "cut_off": lost, **video, "selections": selections})
        return
    _print(seen, rows, options.answers)
    for told in (title, lost, f"Drawn in {output}."):
        if told:
            print(told)


def _print(seen: Seen, rows: Sequence[Sequence[Explanation]], answers: bool) -> None:
    columns: dict[str, Callable[[Any], str]] = {
        "question": lambda read: read.question,
        "budget": lambda read: budget_name(read.budget),
        "answer": lambda read: read.answer,
        "vision tokens": lambda read: f"{read.vision_tokens} of {read.all_vision_tokens}",
        f"per {seen.unit}": _per_crop,
        "tokens in the prompt": lambda read: f"{read.prompt_tokens} of {read.full_prompt_tokens}",
        "coverage": lambda read: f"{read.coverage:.1%}",
    }
    if not answers:
        del columns["answer"]
    if seen.count == 1:
        del columns[f"per {seen.unit}"]
    cells = [[cell(read) for cell in columns.values()] for row in rows for read in row]
    print_table(list(columns), cells, left=["question", "answer"])
    print_covered([row[0] for row in rows])


def _per_crop(read: Explanation) -> str:
    """How many vision tokens stay of each crop, frame or pair: "4", or "3 to 5" where it differs."""
    few, many = min(read.tokens_per_crop), max(read.tokens_per_crop)
    return f"{few:,}" if few == many else f"{few:,} to {many:,}"


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


def _read(
    pipe: ImageTextToTextPipeline,
    image: Image.Image | Video,
    question: str,
    options: argparse.Namespace,
    begin: Callable[[str], None],
) -> Sequence[Explanation]:
    """What is read with each budget, and with `--answers` what is answered."""
    from mmtok.apps.answering import ask_with_budgets, explain_inputs, model_inputs

    pruning_options = call_pruning_options(options)
    if options.answers:
        given = {"max_new_tokens": options.max_new_tokens, "begin": begin, **pruning_options}
        return ask_with_budgets(pipe, image, question, options.budgets, **given)
    inputs, read = model_inputs(pipe, image, question), []
    for budget in options.budgets:
        begin("Selecting")
        read.append(explain_inputs(pipe, inputs, question, budget, **pruning_options))
    return read
