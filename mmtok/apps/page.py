"""The web page of a model: ask about an image or video with a budget, and compare with all vision tokens and others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image
from transformers.utils import is_torchvision_available

from mmtok.evaluation.checkpoint import model_inputs
from mmtok.hub.handler import Limits, Video, is_utf8
from mmtok.hub.options import PruningOptions, check_option, options_within
from mmtok.image_cache import MEMORY_LIMIT, EncodedImageCache
from mmtok.publish.card import budget_table
from mmtok.visuals import FRAMES, cut_off, read_image, read_video

from . import page_text
from .answering import Answer, Budget, answer_inputs, explain_inputs, stream_answer, warm_up
from .demo import COVERAGE, KNOWS, TIMES, TOO_SMALL, example
from .drawing import overlay
from .seen import frames_read, seen_of

if TYPE_CHECKING:
    from transformers import ImageTextToTextPipeline

LIMITS = Limits()  # those of the endpoint: the page is a server too
# Headline, then answer and facts of the budget and of all tokens, the drawing and what is said below it, the budgets.
CLEARED = (page_text.headline(None), "", "", "", "", None, "", "")
_SEED = 7  # of the drawn image that the page of the embedded model begins with
_PHOTO = "cheetah1.jpg"  # of Gradio: what the page of another model begins with
_QUESTIONS = ("What animal is in the image? Answer with one word.", "Describe the image.", "What is behind it?")
_ANSWER_TOKENS = 64
_COMPARED: tuple[Budget, ...] = (0.25, 0.1, 0.05, 1)  # beside all tokens
# Fonts of the user's own machine: the page fetches nothing from other servers.
_FONT = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]


@dataclass(frozen=True)
class BudgetControl:
    """The slider for the budget of a model: in tokens of a crop, or in percent where it is a share.

    It goes from 1 to `most`, and begins at the model's `own` budget.
    """

    label: str
    most: int
    own: int | float
    percent: bool = False

    @classmethod
    def of(cls, config: Any, generation_config: Any = None) -> BudgetControl:
        """For the model of these configurations."""
        found = PruningOptions.from_config(config, **options_within(generation_config))
        full = budget_table(config.to_dict()).tokens_per_crop
        own = (full or 1.0) if found.vision_token_budget is None else found.vision_token_budget
        label = "Vision tokens to keep" + (" of each crop" if hasattr(config, "image_grid_pinpoints") else "")
        if isinstance(own, float):
            return cls(f"{label}, in percent", 100, round(100 * own, 2), percent=True)
        if full is None:
            return cls(label, max(1024, own), own)
        return cls(f"{label} (of {full})", full, min(own, full))

    def budget(self, value: Any) -> int | float:
        """The `vision_token_budget` of a value of the slider.

        Raises:
            ValueError: no number, or one that is not a budget.
        """
        # JSON has one kind of number.
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(value, bool) or not isinstance(whole, (int, float) if self.percent else int):
            raise ValueError(
                f"The budget is {value!r}: give a {'number' if self.percent else 'whole number of vision tokens'}."
            )
        chosen: int | float = check_option("vision_token_budget", whole / 100 if self.percent else whole)
        return chosen


def build_page(
    pipe: ImageTextToTextPipeline, *, embedded: str | None = None, image_memory: int = MEMORY_LIMIT
) -> gr.Blocks:
    """The page, which begins with an image and the answer to a question about it.

    Args:
        pipe: from `mmtok.apps.answering.load_pipeline`, or `pipeline("image-text-to-text", model=model,
            processor=processor)` of a loaded model that prunes. All users of the page share it.
        embedded: the name of an embedded model, of which the page says what it is and for which it draws images.
        image_memory: bytes of encoded images that are kept for further questions about them, of all users.
    """
    control = BudgetControl.of(pipe.model.config, pipe.model.generation_config)
    cache = EncodedImageCache(pipe.model, image_memory)
    image, questions = _drawn(embedded, _SEED) if embedded else (read_image(gr.get_image(_PHOTO)), list(_QUESTIONS))
    warm_up(pipe, image, questions[0])
    begun: list[Any] = list(CLEARED)
    for part in _growing(pipe, cache, image, questions[0], control.budget(control.own)):
        begun = [old if isinstance(new, dict) else new for old, new in zip(begun, part, strict=True)]

    def respond(kind: str, image: Any, video: Any, question: Any, value: Any) -> Iterator[tuple[Any, ...]]:
        yield from answers(pipe, cache, control, kind, video if kind == "video" else image, question, value)

    with gr.Blocks(title=page_text.TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(page_text.heading(*_model_link(pipe, embedded)), elem_id="head")
        gr.HTML(page_text.note(KNOWS.get(embedded or "", "")), visible=bool(embedded), elem_id="notice")
        with gr.Row():
            with gr.Column(min_width=300, scale=4):
                kind, *sources = _sources(pipe, image)
                # One line at first: Enter then asks, where in a box of several it would begin a new line.
                question = gr.Textbox(questions[0], label="Question", lines=1, max_lines=4, elem_id="question")
                budget = gr.Slider(
                    1, control.most, value=control.own, step=0.5 if control.percent else 1, label=control.label,
                    elem_id="budget",
                )  # fmt: skip
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
                with gr.Row(elem_id="examples"):
                    examples = [gr.Button(text, size="sm", min_width=120) for text in questions]
                    another = gr.Button("Another image", size="sm", elem_id="another", visible=bool(embedded))
            with gr.Column(min_width=300, scale=5):
                outputs = _results(begun)
        outputs.append(gr.HTML(begun[-1], elem_id="budgets"))
        gr.HTML(page_text.note(f"{COVERAGE} {TIMES}" + (f" {TOO_SMALL}" if embedded else "")), elem_id="explained")
        answer: dict[str, Any] = {
            "fn": respond,
            "inputs": [kind, *sources, question, budget],
            "outputs": outputs,
            "concurrency_limit": 2,
            "concurrency_id": "answers",
        }
        within: dict[str, Any] = {"api_visibility": "private"}
        gr.on([ask.click, question.submit], **answer, api_name="ask")
        # The slider answers while it is moved: of the moves that come meanwhile, the last one counts.
        budget.change(**answer, **within, trigger_mode="always_last", show_progress="hidden")
        for button in examples:
            button.click(lambda text: text, button, question, **within).then(**answer, **within)
        if embedded:

            def draw() -> tuple[Image.Image, str]:
                image, [first, *_] = _drawn(embedded)
                return image, first

            another.click(draw, outputs=[sources[0], question], **within).then(**answer, **within)
        uploads = [event for source in sources if isinstance(source, gr.Image | gr.Video)
                   for event in (source.upload, source.clear)]  # fmt: skip
        within |= {"outputs": outputs[0], "show_progress": "hidden"}
        gr.on([question.input, *uploads], lambda: page_text.headline(None, page_text.STALE), **within)
    return page


def serve(page: gr.Blocks, **settings: Any) -> Any:
    """Serves the page; `settings` are those of `gradio.Blocks.launch`."""
    theme = gr.themes.Soft(font=_FONT, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        block_label_text_color="*primary_700",
        block_title_text_color="*primary_700",
    )
    page.queue(max_size=32)
    # In the head: of `css` Gradio rewrites the selectors.
    head = f"<style>{page_text.STYLE}</style>"
    settings = {"max_file_size": LIMITS.image_bytes, **settings}
    return page.launch(theme=theme, head=head, footer_links=["api", "gradio", "settings"], **settings)


def answers(
    pipe: ImageTextToTextPipeline,
    cache: EncodedImageCache,
    control: BudgetControl,
    kind: str,
    path: Any,
    question: Any,
    value: Any,
) -> Iterator[tuple[Any, ...]]:
    """Yields the outputs of the page as the answers grow.

    Where there is no image or no question, or the model refuses them, the headline says so, with no older answer. What
    comes from a browser can be anything: `kind` ("image" or "video"), the path of the upload (None for none), the
    question, and the value of the slider.
    """
    yield CLEARED
    try:
        budget = control.budget(value)
        if not isinstance(question, str) or not question.strip():
            raise ValueError("There is no question: write one, such as “Describe the image.”")
        if len(question) > LIMITS.characters:
            raise ValueError(f"The question has {len(question):,} characters: write at most {LIMITS.characters:,}.")
        if not is_utf8(question):
            raise ValueError("The question has half of a surrogate pair, which is not text: leave it out.")
        yield from _growing(pipe, cache, _opened(path, kind), question, budget)
    except ValueError as error:
        # A mistake of the user is not a failure of the program: Gradio's own errors would lie over every output.
        yield page_text.headline(None, str(error)), *CLEARED[1:]


def _opened(path: Any, kind: str) -> Image.Image | Video:
    """What was uploaded.

    Raises:
        ValueError: nothing, or a file that cannot be decoded or is over a limit.
    """
    if not isinstance(path, str):
        raise ValueError(f"There is no {kind}: upload one first.")
    if Path(path).stat().st_size > LIMITS.image_bytes:
        raise ValueError(f"The {kind} has more than {LIMITS.image_bytes:,} bytes: upload a smaller one.")
    try:
        return read_video(path, FRAMES) if kind == "video" else read_image(path, LIMITS.pixels)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path} cannot be read as {'a video' if kind == 'video' else 'an image'}: ")
        raise ValueError(f"The {kind} cannot be used: {reason}") from error


def _growing(
    pipe: ImageTextToTextPipeline, cache: EncodedImageCache, image: Image.Image | Video, question: str, budget: Budget
) -> Iterator[tuple[Any, ...]]:
    """The image is encoded once for all budgets, and not again for a further question about it."""
    inputs = model_inputs(pipe, image, question)
    seen, frames = seen_of(pipe, inputs, image), ""
    if isinstance(image, Video):
        columns = ceil(len(seen.crops) ** 0.5)  # as wide as high, for a phone too
        seen, frames = replace(seen, grid=(ceil(len(seen.crops) / columns), columns)), frames_read(seen, image)
    inputs = cache.inputs(inputs)
    all_read, read = (explain_inputs(pipe, inputs, question, chosen) for chosen in (None, budget))
    below = page_text.below(read, cut_off(image, pipe.processor.image_processor), frames)
    # Once: what is said meanwhile of a change of the question has to stay, and Gradio writes each drawing to a file
    # that browsers read meanwhile.
    yield page_text.headline(read), "", "", "", "", overlay(seen, read.selection), below, ""
    shown = {budget: ("", ""), None: ("", "")}
    for chosen, explained in ((budget, read), (None, all_read)):
        for part in stream_answer(pipe, inputs, chosen, max_new_tokens=_ANSWER_TOKENS):
            shown[chosen] = page_text.answer(part.text), page_text.facts(part, explained)
            yield gr.skip(), *shown[budget], *shown[None], gr.skip(), gr.skip(), gr.skip()
    compared = [
        Answer(**vars(all_read), answer=part.text, seconds=part.seconds),
        *answer_inputs(pipe, inputs, question, _COMPARED, max_new_tokens=_ANSWER_TOKENS),
    ]
    # Of small images two shares can be as many tokens.
    compared = [*{each.vision_tokens: each for each in reversed(compared)}.values()][::-1]
    drawings = [overlay(seen, None if each.budget is None else each.selection) for each in compared]
    yield *(gr.skip(),) * 7, page_text.budget_cards(compared, drawings)


def _sources(pipe: ImageTextToTextPipeline, image: Any) -> tuple[Any, Any, Any]:
    """Which of the two is asked about, "image" or "video", and both; of a family that prunes no videos the image."""
    kind = gr.State("image")
    settings: dict[str, Any] = {"height": 300, "buttons": []}

    def images() -> Any:
        own: dict[str, Any] = {"type": "filepath", "image_mode": None, "format": "png"}
        own |= {"sources": ["upload", "clipboard"], "elem_id": "image"}
        return _as_file(gr.Image(image, label="Image: upload or paste", **own, **settings))

    if not pipe.model.video_arguments or not is_torchvision_available():
        return kind, images(), gr.State(None)
    with gr.Tabs():
        with gr.Tab("Image") as first:
            source = images()
        with gr.Tab("Video") as second:
            video = _as_file(gr.Video(label="Video: upload", sources=["upload"], elem_id="video", **settings))
    for name, tab in (("image", first), ("video", second)):
        tab.select(lambda name=name: name, outputs=kind, show_progress="hidden", api_visibility="private")
    return kind, source, video


def _as_file(component: Any) -> Any:
    """The component, which hands over the file as it was uploaded, for `_opened` to decode or to refuse in a sentence.

    Gradio itself opens an image, and refuses it without one. A subclass would have it write a stub beside this module.
    """
    component.preprocess = lambda payload: payload.path if payload else None
    return component


def _results(begun: list[Any]) -> list[Any]:
    """The outputs but for the budgets, with their first values."""
    headline = gr.HTML(begun[0], elem_id="headline")
    with gr.Row():
        with gr.Column(min_width=140):
            gr.HTML("<b>With these tokens</b>")
            pruned = [gr.HTML(begun[1], elem_id="pruned-answer"), gr.HTML(begun[2], elem_id="pruned-facts")]
        with gr.Column(min_width=140):
            gr.HTML("<b>With all vision tokens</b>")
            full = [gr.HTML(begun[3], elem_id="full-answer"), gr.HTML(begun[4], elem_id="full-facts")]
    drawing = gr.Image(
        begun[5], show_label=False, interactive=False, height=320, elem_id="pruned-image", buttons=["fullscreen"]
    )
    return [headline, *pruned, *full, drawing, gr.HTML(begun[6], elem_id="below")]


def _drawn(embedded: str, seed: int | None = None) -> tuple[Image.Image, list[str]]:
    """An image for an embedded model, and questions about it."""
    drawn = example(seed, embedded)
    return drawn.image, [question.text for question in drawn.questions]


def _model_link(pipe: ImageTextToTextPipeline, embedded: str | None) -> tuple[str, str]:
    """Name and address of the model."""
    name = str(pipe.model.name_or_path)
    if embedded:
        return "model", f"{page_text.CODE}/tree/main/mmtok/tiny"
    if Path(name).exists():
        return f"model {Path(name).name}", f"{page_text.CODE}/blob/main/docs/publishing.md"
    return name, f"https://huggingface.co/{name}"
