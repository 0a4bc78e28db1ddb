"""Texts and style of the page: HTML and CSS, without Gradio."""

from __future__ import annotations

import html

from .answering import Answer, Explanation, PartialAnswer, counted, fewer
from .drawing import READ

TITLE = "MMTok: ask with fewer vision tokens"
PAPER = "https://arxiv.org/abs/2508.18264"
CODE = "https://github.com/mmtok/mmtok"
STALE = "The question has changed since this answer: press Ask."
STYLE = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; padding: 8px 16px !important; }
.html-container { padding: 0 !important; }
.head h1 { margin: 0 !important; font-size: 1.3rem !important; }
.head p { margin: 2px 0 !important; font-size: .85rem; }
.headline { font-size: 1.2rem; font-weight: 600; } .headline.stale { color: #b3261e; }
.answer { font-size: 1.25rem; font-weight: 600; min-height: 1.8rem; overflow-wrap: anywhere; }
.facts { font-size: .8rem; min-height: 3.2rem; }
.note { font-size: .8rem; } .legend { font-size: .8rem; line-height: 1.5; }
.swatch { display: inline-block; width: 2.4em; height: .8em; vertical-align: middle; margin-right: .4em; }
.budgets { width: 100%; font-size: .8rem; } .budgets td, .budgets th { padding: 1px 6px !important; text-align: left; }
.budgets td { white-space: nowrap; } .budgets td:nth-child(2) { white-space: normal; width: 100%; }
@media (max-width: 500px) { #canvas { height: 250px !important; } }
"""


def heading(model_address: str, notice: str) -> str:
    """Title, links, and what the model is."""
    links = ((PAPER, "paper"), (CODE, "code"), (model_address, "model"))
    shown = " · ".join(f'<a href="{html.escape(address)}" target="_blank">{name}</a>' for address, name in links)
    return (
        f'<div class="head"><h1>{TITLE}</h1><p>A LLaVA reads an image as hundreds of vision tokens. MMTok keeps the '
        f"few that cover the question and the image. {shown}</p>"
        + (f'<p class="notice">{html.escape(notice)}</p>' if notice else "")
        + "</div>"
    )


def headline(kept: Explanation | None, *, stale: bool = False) -> str:
    """ "8 of 144 vision tokens, 18x fewer"; or that what is shown is an older answer."""
    if stale:
        return f'<div class="headline stale" role="status">{STALE}</div>'
    if kept is None:
        return '<div class="headline">&nbsp;</div>'
    total = kept.all_vision_tokens
    text = f"{kept.vision_tokens} of {counted(total, 'vision token')}, {fewer(kept.vision_tokens, total)}"
    return f'<div class="headline">{text}</div>'


def covered(kept: Explanation) -> str:
    """Which words of the question the kept tokens have to cover."""
    return f"Words that the kept tokens cover: {kept.words}."


def answer(text: str) -> str:
    """The answer as it grows, announced by screen readers."""
    return f'<div class="answer" aria-live="polite">{html.escape(text) or "&nbsp;"}</div>'


def facts(part: PartialAnswer, kept: Explanation) -> str:
    """What was read and how long it took; the total time is shown when the answer is complete."""
    prompt = part.prompt_tokens or kept.prompt_tokens
    whole = f", all after {1000 * part.seconds:.0f} ms" if part.finished else ""
    return (
        f'<div class="facts">{counted(kept.vision_tokens, "vision token")}, prompt of {counted(prompt, "token")}, '
        f"coverage {kept.coverage:.1%}<br>first word after {1000 * part.first_token:.0f} ms{whole}</div>"
    )


def budget_table(answers: list[Answer]) -> str:
    """Several budgets side by side."""
    rows = "".join(
        f"<tr><td>{'all ' if each.budget is None else ''}{each.vision_tokens}</td><td>{html.escape(each.answer)}</td>"
        f"<td>{each.coverage:.1%}</td><td>{1000 * each.seconds:.0f} ms</td></tr>"
        for each in answers
    )
    head = "<tr><th>vision tokens</th><th>answer</th><th>coverage</th><th>time</th></tr>"
    return f'<table class="budgets">{head}{rows}</table>' if rows else "<div>&nbsp;</div>"


def legend() -> str:
    """What the outlines in the image of the kept vision tokens mean."""
    swatch = f'<span class="swatch" style="border:2px solid {_css(READ)}"></span>'
    return f'<div class="legend">{swatch}read by the language model; the rest, dark, is not</div>'


def note(text: str) -> str:
    """A small line below the image."""
    return f'<div class="note">{html.escape(text) or "&nbsp;"}</div>'


def _css(color: tuple[int, int, int]) -> str:
    return f"rgb{color}"
