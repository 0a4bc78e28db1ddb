"""Texts and style of the page: HTML and CSS, without Gradio."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from .answering import Answer, Explanation, PartialAnswer, counted, fewer
from .drawing import CUT_OFF, READ

TITLE = "MMTok: ask with fewer vision tokens"
PAPER = "https://arxiv.org/abs/2508.18264"
CODE = "https://github.com/mmtok/mmtok"
STALE = "The question or image has changed since this answer: press Ask."
STYLE = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; padding: 8px 16px !important; }
.html-container { padding: 0 !important; }
.head h1 { margin: 0 !important; font-size: 1.3rem !important; }
.head p { margin: 2px 0 !important; font-size: .85rem; }
.headline { font-size: 1.2rem; font-weight: 600; } .headline.told { color: var(--error-text-color); }
.answer { min-height: 1.6rem; max-height: 16rem; overflow: auto; overflow-wrap: anywhere; white-space: pre-wrap; }
.answer.short { font-size: 1.25rem; font-weight: 600; }
.facts, .note, .legend { font-size: .8rem; } .facts { min-height: 3.2rem; }
.swatch { display: inline-block; width: 1.4em; height: .9em; vertical-align: middle; margin-right: .4em; }
.budgets { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; font-size: .85rem; }
.budgets img { width: 100%; max-height: 160px; object-fit: contain; object-position: left; margin: 4px 0 !important; }
.budgets .answer { font-size: .95rem; font-weight: 400; max-height: 9rem; }
#image img { object-fit: contain !important; width: 100%; height: 100%; }
#examples { gap: 8px !important; } #examples button { flex: 0 0 auto; }
@media (max-width: 640px) {
  .gradio-container, .gradio-container .fillable { padding: 4px !important; }
  .column, .row { gap: 8px !important; }
  .gradio-container label span { font-size: .8rem !important; }
  .head h1 { font-size: 1.05rem !important; } .head p { font-size: .8rem; } .head .about { display: none; }
  .headline { font-size: 1rem; } .facts { font-size: .75rem; }
  #notice { order: 1; } #explained { order: 2; }
  #image, #video { height: 190px !important; }
  #examples { flex-wrap: nowrap !important; overflow-x: auto; scrollbar-width: none; }
}
"""
_SHORT = 40  # characters of an answer that is shown in large type
_THUMBNAIL = 320  # pixels


def heading(model: str, model_address: str) -> str:
    """Title, what vision tokens are, links, and the name of the model."""
    links = ((PAPER, "paper"), (CODE, "code"), (model_address, model))
    shown = " · ".join(
        f'<a href="{html.escape(address)}" target="_blank">{html.escape(name)}</a>' for address, name in links
    )
    return (
        f'<div class="head"><h1>{TITLE}</h1><p><span class="about">The model reads an image as a grid of patches, its '
        "vision tokens. MMTok keeps the few that together stand for the question and the image, and drops the others. "
        f"</span>{shown}</p></div>"
    )


def headline(kept: Explanation | None, told: str = "") -> str:
    """ "8 of 144 vision tokens, 18x fewer"; or what is told in its place, such as that the answer is an older one."""
    if kept is None:
        return f'<div class="headline told" role="status">{html.escape(told, quote=False) or "&nbsp;"}</div>'
    total = counted(kept.all_vision_tokens, "vision token")
    text = f"{kept.vision_tokens:,} of {total}, {fewer(kept.vision_tokens, kept.all_vision_tokens)}"
    return f'<div class="headline">{text}</div>'


def answer(text: str) -> str:
    """The answer as it grows, announced by screen readers; a short one in large type."""
    style = "answer short" if len(text) <= _SHORT else "answer"
    return f'<div class="{style}" aria-live="polite">{html.escape(text) or "&nbsp;"}</div>'


def facts(part: PartialAnswer, kept: Explanation) -> str:
    """What was read and how long it took; the total time is shown when the answer is complete."""
    whole = f", all after {1000 * part.seconds:,.0f} ms" if part.finished else ""
    return (
        f'<div class="facts">{counted(kept.vision_tokens, "vision token")} in a prompt of '
        f"{counted(kept.prompt_tokens, 'token')}<br>first word after {1000 * part.first_token:,.0f} ms{whole}</div>"
    )


def below(kept: Explanation, cut_off: str, told: str) -> str:
    """What stands below the drawing: what is read, how well it stands for the rest, and what else is told."""
    swatches = [(READ, "outlined: read by the language model; dark: not read")]
    if cut_off:
        swatches.append((CUT_OFF, "hatched: cut off before the model"))
    legend = "".join(
        f'<span><span class="swatch" style="border:2px solid rgb{color}"></span>{text}&emsp;</span>'
        for color, text in swatches
    )
    sentences = (
        f"The kept tokens stand for {kept.coverage:.0%} of the question and the image (coverage).",
        f"Words of the question that they cover: {kept.words}.",
        cut_off,
        told,
    )
    return f'<div class="legend">{legend}</div>{note(" ".join(each for each in sentences if each))}'


def budget_cards(answers: Sequence[Answer], drawings: Sequence[Image.Image]) -> str:
    """Several budgets side by side, each with its drawing; the first answer is that with all tokens."""
    cards = []
    for each, drawing in zip(answers, drawings, strict=True):
        kept = f"{'all ' if each.budget is None else ''}{counted(each.vision_tokens, 'vision token')}"
        same = (
            "" if each.budget is None else " · same answer" if each.answer == answers[0].answer else " · another answer"
        )
        cards.append(
            f'<div class="card"><b>{kept}</b><img alt="what is read with {kept}" src="{_embedded(drawing)}">'
            f"{answer(each.answer or '(no answer)')}"
            f'<div class="note">coverage {each.coverage:.0%} · {1000 * each.seconds:,.0f} ms{same}</div></div>'
        )
    return f'<div class="budgets">{"".join(cards)}</div>' if cards else ""


def note(text: str) -> str:
    """A small paragraph."""
    return f'<div class="note">{html.escape(text) or "&nbsp;"}</div>'


def _embedded(drawing: Image.Image) -> str:
    """A small copy as the address of an image, so that nothing is written to a file for it."""
    small, file = drawing.copy(), BytesIO()
    small.thumbnail((2 * _THUMBNAIL, _THUMBNAIL))
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
