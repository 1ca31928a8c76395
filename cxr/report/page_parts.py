"""Parts of the report in HTML: its first screen, and answers as badges that unfold. Every value is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from cxr.report.judgement import OPEN, Judgement

if TYPE_CHECKING:
    from IPython.display import HTML

# Okabe and Ito's palette, darker where it holds white text. The word in a badge says the same as its colour.
_BLUE, _RED, _AMBER, _PURPLE, _GREY = "#005a8f", "#a33f00", "#ffd27a", "#7a3b69", "#5e5e5e"
_COLOURS = {
    **dict.fromkeys(("yes", "towards", "supported"), _BLUE),
    **dict.fromkeys(("no", "away", "contradicted"), _RED),
    **{"in part": _PURPLE, "fragile": _AMBER},
}
_STYLE = """
.cxr-page h1 {font-size: 26px; margin: 8px 0 10px}
.cxr-page p {font-size: 15px; line-height: 1.45; margin: 4px 0; max-width: 960px}
.cxr-page .cxr-lead {font-size: 17px; font-weight: 600}
.cxr-page .cxr-banner {background: #ffd27a; color: #000; border-left: 8px solid #a33f00; padding: 6px 10px}
.cxr-page details {border-top: 1px solid #ddd; padding: 4px 0; font-size: 14px}
.cxr-page summary {cursor: pointer}
.cxr-page details p {font-size: 13px; margin: 4px 0 6px 140px}
.cxr-page .cxr-badge {display: inline-block; min-width: 100px; padding: 2px 8px; margin-right: 8px;
  border-radius: 4px; font-size: 13px; text-align: center}
"""


def first_screen(sentences: Sequence[str], *, name: str, warning: str = "") -> HTML:
    """The title, the answer, and the banner of a study of synthetic images.

    Args:
        sentences: of `cxr.report.opening.sentences`.
        name: of the study.
        warning: of `cxr.report.opening.warning`; empty: no banner.
    """
    banner = f'<p class="cxr-banner"><b>SYNTHETIC DATA</b> {escape(warning)}</p>' if warning else ""
    first, *more = map(escape, sentences)
    answer = "".join(f"<p>{text}</p>" for text in more)
    title = f"<h1>Does the evidence move under fine-tuning? Study <code>{escape(name)}</code></h1>"
    return _html(f'{title}{banner}<p class="cxr-lead">{first}</p>{answer}')


def badges(judged: Mapping[str, Judgement]) -> HTML:
    """One line a question or claim: a badge with its answer; what it rests on unfolds.

    What an open answer lacks stands before its numbers: they may come from maps that fail their checks.
    """
    return _html("".join(_badge(question, *judgement) for question, judgement in judged.items()))


def _badge(question: str, answer: str, evidence: str, needed: str) -> str:
    colour = _COLOURS.get(answer, _GREY)
    style = f"background: {colour}; color: {'#000' if colour == _AMBER else '#fff'}"
    parts = [needed, evidence] if answer == OPEN else [evidence, needed]
    texts = "".join(f"<p>{escape(part[0].upper() + part[1:])}</p>" for part in parts if part)
    return (
        f'<details><summary><b class="cxr-badge" style="{style}">{escape(answer)}</b> {escape(question)}</summary>'
        f"{texts}</details>"
    )


def _html(body: str) -> HTML:
    from IPython.display import HTML

    return HTML(f'<style>{_STYLE}</style><div class="cxr-page">{body}</div>')
