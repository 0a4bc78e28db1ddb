"""A page to try a staged model: upload or draw a picture, ask, slide the budget, compare with all tokens."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from .answering import Explanation, explain, model_inputs
from .embedded import example
from .overlay import overlay
from .seen_image import seen_images
from .streaming import PartialAnswer, stream_answer

if TYPE_CHECKING:
    from transformers import ImageTextToTextPipeline

_TITLE = "MMTok: ask with fewer vision tokens"
_HELP = """\
A LLaVA reads a picture as hundreds of vision tokens. MMTok keeps the few that together cover your question and the
picture. Upload or paste a picture, or draw on this one, and ask. **Bright patches** are what the language model reads;
the frame shows the gain of a patch, from yellow to dark violet, and the bar in it what the gain covers: orange your
question, blue the picture."""
_EMBEDDED = """\
This is the small model that comes with the package. It knows circles, squares, triangles, diamonds, crosses, rings,
stars and bars in red, green, blue, yellow, purple, orange, cyan and pink. Try *Is there a red circle in the image?*,
*What color is the star?*, *How many objects are in the image?* or *Describe the image.*"""
_CANVAS = 384  # pixels of the canvas: small pictures are shown larger, so that they can be drawn on
# Fonts of the reader's own machine: the page fetches nothing from other servers.
_FONT = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
_STYLE = """
.answer { font-size: 1.35rem; font-weight: 600; min-height: 2.2rem; overflow-wrap: anywhere; }
.result .html-container { padding: 0 !important; }
/* The pictures stay side by side, however long the answers are. */
.result > * { flex-grow: 0 !important; }
.result > .grows { flex-grow: 1 !important; }
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
@media (max-width: 500px) { #canvas { height: 360px !important; } }
"""


def build_page(pipe: ImageTextToTextPipeline, *, embedded: bool) -> gr.Blocks:
    """The page.

    Args:
        pipe: from `mmtok.apps.answering.load_pipeline`; shared by all readers of the page.
        embedded: whether it is the embedded model, which only knows coloured shapes.
    """
    tokens = int(pipe.model.config.image_seq_length)
    picture, question = new_example(7)

    def respond(canvas: Any, question: str, budget: int) -> Iterator[tuple[Any, ...]]:
        yield from answer_both(pipe, canvas, question, budget, max_new_tokens=64)

    def another() -> tuple[Image.Image, str]:
        return new_example()

    with gr.Blocks(title=_TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {_TITLE}\n{_HELP}" + (f"\n\n{_EMBEDDED}" if embedded else ""))
        with gr.Row():
            with gr.Column(min_width=300):
                canvas = gr.ImageEditor(
                    picture,
                    label="Picture",
                    type="pil",
                    sources=["upload", "clipboard"],
                    brush=gr.Brush(default_size=28, colors=["#dc2828", "#28aa3c", "#3250dc", "#ebd732"]),
                    layers=False,
                    height=440,
                    elem_id="canvas",
                )
            with gr.Column(min_width=300):
                # One line at first: Enter then asks, where in a box of several it would begin a new line.
                asked = gr.Textbox(question, label="Question", lines=1, max_lines=4, elem_id="question")
                budget = gr.Slider(
                    1, tokens, value=min(8, tokens), step=1, label="Vision tokens kept per crop", elem_id="budget"
                )
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
                if embedded:
                    gr.Button("Another picture", elem_id="another").click(another, outputs=[canvas, asked])
        with gr.Row(equal_height=True):
            with gr.Column(min_width=300, elem_classes="result"):
                gr.Markdown("### All tokens")
                full = _result("full", "What the language model reads")
            with gr.Column(min_width=300, elem_classes="result"):
                gr.Markdown("### MMTok")
                pruned = _result("pruned", "The patches that were kept")
        gr.on(
            [ask.click, asked.submit],
            respond,
            inputs=[canvas, asked, budget],
            outputs=[*full, *pruned],
            show_progress_on=[full[0], pruned[0]],
            concurrency_limit=2,
        )
    return page


def launch(pipe: ImageTextToTextPipeline, *, embedded: bool, **settings: Any) -> Any:
    """Serves the page; `settings` are those of `gradio.Blocks.launch`."""
    theme = gr.themes.Soft(font=_FONT, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        block_label_text_color="*primary_700",
        block_title_text_color="*primary_700",
    )
    page = build_page(pipe, embedded=embedded)
    return page.launch(theme=theme, css=_STYLE, footer_links=["api", "gradio", "settings"], **settings)


def new_example(seed: int | None = None) -> tuple[Image.Image, str]:
    """An image on a canvas that is large enough to draw on, and a question about it."""
    drawn = example(seed)
    return drawn.image.resize((_CANVAS, _CANVAS), Image.Resampling.NEAREST), drawn.questions[0].text


def answer_both(
    pipe: ImageTextToTextPipeline, canvas: Any, question: str, budget: int, *, max_new_tokens: int
) -> Iterator[tuple[Any, ...]]:
    """Yields answer, facts and picture for all tokens and for the budget, as the answers grow.

    The pictures come first and once: Gradio writes each of them to a file that browsers read meanwhile.

    Raises:
        gradio.Error: no picture or no question, or what the model refused; the page shows the sentence.
    """
    picture = drawn_picture(canvas)
    if picture is None:
        raise _refusal("There is no picture, or the file was none: upload a PNG, JPEG or WebP, paste one, or draw.")
    if not question or not question.strip():
        raise _refusal("There is no question: write one, such as “Is there a red circle in the image?”")
    try:
        kept = [explain(pipe, picture, question, chosen) for chosen in (None, int(budget))]
        [seen] = seen_images(model_inputs(pipe, picture, question), pipe.model.config, pipe.processor.image_processor)
        waiting = _answer(""), ""
        yield *waiting, overlay(seen, None), *waiting, overlay(seen, kept[1].selection)
        full = pruned = waiting
        for part in stream_answer(pipe, picture, question, None, max_new_tokens=max_new_tokens):
            full = _answer(part.text), _facts(part, kept[0])
            yield *full, gr.skip(), *pruned, gr.skip()
        for part in stream_answer(pipe, picture, question, int(budget), max_new_tokens=max_new_tokens):
            pruned = _answer(part.text), _facts(part, kept[1])
            yield *full, gr.skip(), *pruned, gr.skip()
    except ValueError as error:
        raise _refusal(str(error)) from error


def drawn_picture(canvas: Any) -> Image.Image | None:
    """The picture on the canvas as RGB, on white; None for an empty canvas."""
    composite = canvas.get("composite") if isinstance(canvas, dict) else canvas
    if composite is None or composite.width < 1 or composite.height < 1:
        return None
    if composite.mode == "RGBA":
        if composite.getchannel("A").getextrema()[1] == 0:
            return None
        return Image.alpha_composite(Image.new("RGBA", composite.size, "white"), composite).convert("RGB")
    return composite.convert("RGB")


def _refusal(sentence: str) -> gr.Error:
    """What the reader did is no failure of the program, which would be worth a traceback in its log."""
    return gr.Error(html.escape(sentence, quote=False), print_exception=False)


def _result(name: str, label: str) -> tuple[gr.HTML, gr.HTML, gr.Image]:
    return (
        gr.HTML(_answer(""), elem_id=f"{name}-answer", elem_classes="grows"),
        gr.HTML("", elem_id=f"{name}-facts"),
        gr.Image(
            label=label,
            show_label=False,
            type="pil",
            interactive=False,
            elem_id=f"{name}-picture",
            buttons=["fullscreen"],
        ),
    )


def _answer(text: str) -> str:
    """The answer as it grows, announced by screen readers."""
    return f'<div class="answer" aria-live="polite">{html.escape(text) or "&nbsp;"}</div>'


def _facts(part: PartialAnswer, kept: Explanation) -> str:
    """What was read and how long it took; the whole time stands there when the answer is whole."""
    prompt = part.prompt_tokens or kept.prompt_tokens
    whole = f", all after {1000 * part.seconds:.0f} ms" if part.finished else ""
    return (
        f"<div>{kept.vision_tokens} vision tokens, prompt of {prompt}, coverage {kept.coverage:.1%}<br>"
        f"first word after {1000 * part.first_token:.0f} ms{whole}</div>"
    )
