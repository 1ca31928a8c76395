"""The tables and notes of one image, as HTML. Names come from the data and are escaped."""

from __future__ import annotations

import re
from html import escape

import numpy as np

from cxr.explore.view import LEVELS, View

_STYLE = """<style>
.explore table { border-collapse: collapse; font-size: 12px; line-height: 1.35 }
.explore th, .explore td { padding: 1px 6px; text-align: right; vertical-align: bottom }
.explore td { white-space: nowrap } .explore td.name { white-space: normal; min-width: 200px }
.explore th { font-weight: 600; border-bottom: 1px solid #8a8a8a }
.explore .name { text-align: left } .explore .group { text-align: center; border-left: 1px solid #b5b5b5 }
.explore .first { border-left: 1px solid #b5b5b5 } .explore .chosen { font-weight: 700; background: #8080802e }
.explore p { margin: 4px 0; font-size: 12.5px; line-height: 1.4 }
.explore .caution { border-left: 4px solid #D55E00; padding-left: 7px }
.explore div { overflow-x: auto }
</style>"""
_LEVELS_IN_WORDS = (
    "<i>Drifts more than</i>: so many of the other images. <i>Two patients</i>: the map before against the "
    "map after of another patient of the class. <i>Two heads</i>: transfer heads that differ by their seed "
    "alone. <i>Chance</i>: the map after, moved to a random position."
)
_LOCATED = (
    "share of area",
    "share of map before",
    "share of map after",
    "change",
    "mean change of the cell",
)


def notes(view: View) -> str:
    """Cautions, and what the runs lack beside a course (the picture tells of that), as HTML."""
    lines = [f'<p class="caution"><b>Caution:</b> {_code(text)}</p>' for text in view.cautions]
    lines += [f"<p>{_code(text)}</p>" for part, text in view.missing.items() if part != "course"]
    return f'{_STYLE}<div class="explore">{"".join(lines)}</div>' if lines else ""


def tables(view: View) -> str:
    """Every metric of the image beside the cell's, and where its evidence lies, as HTML."""
    levels = "".join(f"<th{{}}>{LEVELS[level]}</th>" for level in LEVELS)
    head = (
        '<tr><th class="name" rowspan="2">metric</th><th rowspan="2">identical<br>maps</th>'
        f'<th class="group" colspan="{2 + len(LEVELS)}">this image</th>'
        f'<th class="group" colspan="{1 + len(LEVELS)}">median of {view.scores.count()} images</th></tr>'
        '<tr><th class="first">value</th><th>drifts more than</th>'
        f'{levels.replace("{}", "")}<th class="first">value [quartiles]</th>{levels.replace("{}", "")}</tr>'
    )
    rows = []
    for name, row in view.values.iterrows():
        cells = [_number(row["value"], 'class="first"'), f"<td>{_share(row['drifts_more'])}</td>"]
        cells += [_number(row[level]) for level in LEVELS]
        middle = f"{_text(row['median'])} [{_text(row['low'])}, {_text(row['high'])}]"
        cells.append(f'<td class="first">{middle if np.isfinite(row["median"]) else "–"}</td>')
        cells += [_number(row[f"{level}_median"]) for level in LEVELS]
        chosen = ' class="chosen"' if name == view.choice["metric"] else ""
        label = f'<td class="name">{escape(row["label"])}</td><td>{row["identical"]:g}</td>'
        rows.append(f"<tr{chosen}>{label}{''.join(cells)}</tr>")
    out = f"<table>{head}{''.join(rows)}</table>"
    out += f"<p>{_LEVELS_IN_WORDS}</p>"
    if len(view.located):
        head = "".join(f"<th>{name}</th>" for name in _LOCATED)
        rows = "".join(
            f'<tr><td class="name">{escape(row.region)}</td>{_percent(row.area)}{_percent(row.before)}'
            f"{_percent(row.after)}{_percent(row.change, '+')}{_percent(row.change_mean, '+')}</tr>"
            for row in view.located.itertuples()
        )
        out += f'<table><tr><th class="name">region</th>{head}</tr>{rows}</table>'
    return f'{_STYLE}<div class="explore">{out}</div>'


def _code(text: str) -> str:
    """Escaped; words between backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _text(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "–"


def _number(value: float, attributes: str = "") -> str:
    return f"<td {attributes}>{_text(value)}</td>"


def _share(value: float) -> str:
    return f"{value:.0%}" if np.isfinite(value) else "–"


def _percent(value: float, sign: str = "") -> str:
    text = f"{round(value, 3) + 0.0:{sign}.1%}".replace("-", "\N{MINUS SIGN}")  # + 0.0: no minus before a zero
    return f"<td>{text if np.isfinite(value) else '–'}</td>"
