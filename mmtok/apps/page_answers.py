"""What the page shows when it is asked: the answers as they grow, drawings, and several budgets side by side."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from configuration_mmtok import check_option
from mmtok.hub.handler import Limits, is_text, size_refusal
from mmtok.image_cache import EncodedImageCache
from mmtok.images import cut_off

from . import page_text
from .answering import Budget, answer_inputs, explain_inputs, model_inputs, stream_answer
from .drawing import overlay
from .seen import seen_images

if TYPE_CHECKING:
    from transformers import ImageTextToTextPipeline

# The outputs of the page, in this order: headline, then answer, facts and drawing of all tokens and of the budget, the
# note on what was cut off, the table of budgets.
CLEARED = (page_text.headline(None), *("", "", None) * 2, "", "")
LIMITS = Limits()  # those of the endpoint: the page is a server too
_COMPARED: tuple[Budget, ...] = (None, 0.25, 0.1, 0.05, 1)  # shares of a crop's tokens, and a single one


def answers(
    pipe: ImageTextToTextPipeline,
    cache: EncodedImageCache,
    canvas: Any,
    question: str,
    budget: Any,
    *,
    max_new_tokens: int,
) -> Iterator[tuple[Any, ...]]:
    """Yields the outputs of the page as the answers grow.

    The image is encoded once for all budgets, and not again for a further question about it. The drawings come first
    and once: Gradio writes each of them to a file that browsers read meanwhile.

    Raises:
        gradio.Error: no image or no question, or what the model refused; the page shows the sentence, and no older
            answer beside it.
    """
    yield CLEARED
    try:
        image = canvas_image(canvas)
        if not isinstance(question, str) or not question.strip():
            raise ValueError("There is no question: write one, such as “Describe the image.”")
        if len(question) > LIMITS.characters:
            raise ValueError(f"The question has {len(question):,} characters: write at most {LIMITS.characters:,}.")
        if not is_text(question):
            raise ValueError("The question has half of a surrogate pair, which is no text: leave it out.")
        if isinstance(budget, float) and budget.is_integer():
            budget = int(budget)  # JSON has one kind of number
        if not isinstance(budget, int):
            raise ValueError(f"The budget is {budget!r}: give a number of vision tokens.")
        check_option("vision_token_budget", budget)
        yield from _growing(pipe, cache, image, question, budget, max_new_tokens)
    except ValueError as error:
        yield CLEARED
        # A mistake of the user is no failure of the program, and writes no traceback into its log.
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error


def _growing(
    pipe: ImageTextToTextPipeline,
    cache: EncodedImageCache,
    image: Image.Image,
    question: str,
    budget: int,
    max_new_tokens: int,
) -> Iterator[tuple[Any, ...]]:
    inputs = model_inputs(pipe, image, question)
    [seen] = seen_images(inputs, pipe.model.config, pipe.processor.image_processor)
    inputs = cache.inputs(inputs)
    all_read, read = (explain_inputs(pipe, inputs, question, chosen) for chosen in (None, budget))
    lost = page_text.note(f"{page_text.covered(read)} {cut_off(image.size, pipe.processor.image_processor)}")
    # Once: what is said meanwhile of a change of the question has to stay.
    yield page_text.headline(read), "", "", overlay(seen, None), "", "", overlay(seen, read.selection), lost, ""
    shown = {None: ("", ""), budget: ("", "")}
    for chosen, explained in ((budget, read), (None, all_read)):
        for part in stream_answer(pipe, inputs, chosen, max_new_tokens=max_new_tokens):
            shown[chosen] = page_text.answer(part.text), page_text.facts(part, explained)
            yield gr.skip(), *shown[None], gr.skip(), *shown[budget], gr.skip(), gr.skip(), gr.skip()
    compared = answer_inputs(pipe, inputs, question, _COMPARED, max_new_tokens=max_new_tokens)
    yield *(gr.skip(),) * 8, page_text.budget_table(compared)


def canvas_image(canvas: Any) -> Image.Image:
    """The image on the canvas as RGB, on white.

    Raises:
        ValueError: an empty canvas, or an image that is too large or too thin.
    """
    composite = canvas.get("composite") if isinstance(canvas, dict) else canvas
    if composite is None or _is_empty(composite):
        raise ValueError("There is no image, or the file was none: upload a PNG, JPEG or WebP, paste one, or draw.")
    width, height = composite.size
    refusal = size_refusal(width, height, LIMITS.pixels)
    if refusal:
        raise ValueError(f"The image cannot be used: {refusal}")
    if composite.mode == "RGBA":
        composite = Image.alpha_composite(Image.new("RGBA", composite.size, "white"), composite)
    return composite.convert("RGB")


def _is_empty(image: Image.Image) -> bool:
    transparent = image.mode == "RGBA" and image.getchannel("A").getextrema()[1] == 0
    return image.width < 1 or image.height < 1 or transparent
