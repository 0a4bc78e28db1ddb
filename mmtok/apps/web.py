"""The web page of a staged model: upload or draw an image, ask, set the budget, compare with all vision tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from mmtok.image_cache import MEMORY_LIMIT, EncodedImageCache

from . import page_text
from .answering import warm_up
from .demo import COVERAGE, KNOWS, TIMES, TOO_SMALL, example
from .page_answers import LIMITS, answers

if TYPE_CHECKING:
    from transformers import ImageTextToTextPipeline

_SEED = 7  # of the image that the page begins with
_CANVAS = 384  # pixels of the canvas: small images are shown larger, so that they can be drawn on
_ANSWER_TOKENS = 64
_QUESTIONS = ("Describe the image.", "What is in the middle of the image?", "How many people are there?")
# Fonts of the user's own machine: the page fetches nothing from other servers.
_FONT = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]


@dataclass(frozen=True)
class _Asking:
    """The inputs of the page."""

    canvas: gr.ImageEditor
    question: gr.Textbox
    budget: gr.Slider
    ask: gr.Button
    examples: dict[str, gr.Button]
    another: gr.Button | None

    @property
    def inputs(self) -> list[Any]:
        return [self.canvas, self.question, self.budget]


def build_page(pipe: ImageTextToTextPipeline, *, embedded: bool, image_memory: int = MEMORY_LIMIT) -> gr.Blocks:
    """The page.

    Args:
        pipe: from `mmtok.apps.answering.load_pipeline`; shared by all users of the page.
        embedded: whether it is the embedded model, of which the page says what it is and for which it draws images.
        image_memory: bytes of encoded images that are kept for further questions about them, of all users.
    """
    cache = EncodedImageCache(pipe.model, image_memory)

    def respond(canvas: Any, question: str, budget: int) -> Iterator[tuple[Any, ...]]:
        yield from answers(pipe, cache, canvas, question, budget, max_new_tokens=_ANSWER_TOKENS)

    with gr.Blocks(title=page_text.TITLE, analytics_enabled=False) as page:
        gr.HTML(page_text.heading(_model_address(pipe, embedded), KNOWS if embedded else ""), elem_id="head")
        with gr.Row():
            with gr.Column(min_width=300, scale=4):
                asking = _asking(pipe, embedded=embedded)
            with gr.Column(min_width=300, scale=5):
                outputs = _results()
        gr.HTML(page_text.note(f"{COVERAGE} {TIMES}" + (f" {TOO_SMALL}" if embedded else "")), elem_id="explained")
        answer: dict[str, Any] = {"fn": respond, "inputs": asking.inputs, "outputs": outputs, "concurrency_limit": 2}
        gr.on([asking.ask.click, asking.question.submit], **answer, concurrency_id="answers")
        # The slider answers while it is moved: of the moves that come meanwhile, the last one counts.
        asking.budget.change(**answer, trigger_mode="always_last", concurrency_id="answers", show_progress="hidden")
        for text, button in asking.examples.items():
            # A default argument: each button keeps its own text.
            button.click(lambda text=text: text, outputs=asking.question).then(**answer, concurrency_id="answers")
        if asking.another is not None:
            drawn = asking.another.click(_another, outputs=[asking.canvas, asking.question])
            drawn.then(**answer, concurrency_id="answers")
        # Not for the canvas: Gradio's editor hands its image to one listener only, and that one has to answer.
        asking.question.input(lambda: page_text.headline(None, stale=True), outputs=outputs[0], show_progress="hidden")
    return page


def launch(pipe: ImageTextToTextPipeline, *, embedded: bool, image_memory: int = MEMORY_LIMIT, **settings: Any) -> Any:
    """Serves the page: arguments of `build_page`, and `settings` of `gradio.Blocks.launch`."""
    warm_up(pipe, example(_SEED).image, _QUESTIONS[0])
    theme = gr.themes.Soft(font=_FONT, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        block_label_text_color="*primary_700",
        block_title_text_color="*primary_700",
    )
    page = build_page(pipe, embedded=embedded, image_memory=image_memory)
    page.queue(max_size=32)
    settings = {"max_file_size": LIMITS.image_bytes, **settings}
    return page.launch(theme=theme, css=page_text.STYLE, footer_links=["api", "gradio", "settings"], **settings)


def new_example(seed: int | None = None) -> tuple[Image.Image, list[str]]:
    """An image on a canvas that is large enough to draw on, and questions about it."""
    drawn = example(seed)
    image = drawn.image.resize((_CANVAS, _CANVAS), Image.Resampling.NEAREST)
    return image, [question.text for question in drawn.questions]


def _asking(pipe: ImageTextToTextPipeline, *, embedded: bool) -> _Asking:
    tokens = int(pipe.model.config.image_seq_length)
    image, questions = new_example(_SEED)
    # One line at first: Enter then asks, where in a box of several it would begin a new line.
    question = gr.Textbox(questions[0], label="Question", lines=1, max_lines=4, elem_id="question")
    budget = gr.Slider(
        1, tokens, value=min(8, tokens), step=1, label="Vision tokens per crop",
        elem_id="budget",
    )  # fmt: skip
    ask = gr.Button("Ask", variant="primary", elem_id="ask")
    canvas = gr.ImageEditor(
        image,
        label="Image: upload, paste or draw",
        type="pil",
        sources=["upload", "clipboard"],
        brush=gr.Brush(default_size=28, colors=["#dc2828", "#28aa3c", "#3250dc", "#ebd732"]),
        layers=False,
        height=320,
        elem_id="canvas",
    )
    with gr.Row(elem_id="examples"):
        texts = questions if embedded else _QUESTIONS
        buttons = {text: gr.Button(text, size="sm", min_width=150) for text in texts}
        another = gr.Button("Another image", size="sm", min_width=120, elem_id="another") if embedded else None
    return _Asking(canvas, question, budget, ask, buttons, another)


def _results() -> list[Any]:
    """The outputs, in the order of `page_answers`."""
    headline = gr.HTML(page_text.headline(None), elem_id="headline")
    with gr.Row():
        with gr.Column(min_width=200):
            pruned = _texts("pruned", "MMTok")
        with gr.Column(min_width=120):
            full = _texts("full", "All vision tokens")
    cut_off = gr.HTML("", elem_id="cut-off")
    with gr.Row():
        with gr.Column(min_width=200):
            pruned_image = _drawing("pruned")
        with gr.Column(min_width=120):
            gr.HTML(page_text.legend(), elem_id="legend")
    table = gr.HTML("", elem_id="budgets")
    gr.HTML(page_text.note("What the model reads with all vision tokens:"))
    full_image = _drawing("full")
    return [headline, *full, full_image, *pruned, pruned_image, cut_off, table]


def _texts(name: str, title: str) -> tuple[gr.HTML, gr.HTML]:
    gr.HTML(f"<b>{title}</b>")
    return gr.HTML("", elem_id=f"{name}-answer"), gr.HTML("", elem_id=f"{name}-facts")


def _drawing(name: str) -> gr.Image:
    return gr.Image(
        show_label=False, type="pil", interactive=False, height=300, elem_id=f"{name}-image", buttons=["fullscreen"]
    )


def _another() -> tuple[Image.Image, str]:
    image, questions = new_example()
    return image, questions[0]


def _model_address(pipe: ImageTextToTextPipeline, embedded: bool) -> str:
    """Where the model can be read about."""
    name = str(pipe.model.name_or_path)
    if embedded:
        return f"{page_text.CODE}/tree/main/mmtok/tiny"
    return f"{page_text.CODE}/blob/main/docs/publishing.md" if Path(name).exists() else f"https://huggingface.co/{name}"
