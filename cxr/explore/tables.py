"""The tables and notes of one image, as HTML. Names come from the data and are escaped."""

from __future__ import annotations

import re
from html import escape

import numpy as np
import pandas as pd

from cxr.explore.view import LEVELS, View

_STYLE = """<style>
.explore { overflow-x: auto; font-size: 12px; line-height: 1.35 }
.explore th, .explore td { padding: 1px 6px; text-align: right; white-space: nowrap }
.explore p { margin: 4px 0 }
.explore .caution { border-left: 4px solid #D55E00; padding-left: 7px }
</style>"""
_LEVELS_IN_WORDS = (
    "<i>Drifts more than</i>: the share of the other images that drift less. <i>Two patients</i>: the map before "
    "against the map after of another patient of the class. <i>Two heads</i>: against maps of transfer heads that "
    "differ only by their seed. <i>Chance</i>: against the map after, moved to a random position."
)


def notes(view: View) -> str:
    """Cautions, and what the runs do not hold, as HTML. (The picture itself says if there is no course.)"""
    lines = [f'<p class="caution"><b>Caution:</b> {_code(text)}</p>' for text in view.cautions]
    lines += [f"<p>{_code(text)}</p>" for part, text in view.missing.items() if part != "course"]
    return f'{_STYLE}<div class="explore">{"".join(lines)}</div>' if lines else ""


def tables(view: View) -> str:
    """The metrics of the image beside those of all images of the cell, and its evidence by region, as HTML."""
    values, image, cell = view.values, "this image", f"median of {view.scores.count()} images"
    quartiles = [
        f"{_text(row.median)} [{_text(row.low)}, {_text(row.high)}]" if np.isfinite(row.median) else "–"
        for row in values[["low", "median", "high"]].itertuples()
    ]
    columns = {
        ("identical", "maps"): values["identical"].map("{:g}".format),
        (image, "value"): values["value"].map(_text),
        (image, "drifts more than"): values["drifts_more"].map("{:.0%}".format).replace("nan%", "–"),
        **{(image, name): values[level].map(_text) for level, name in LEVELS.items()},
        (cell, "value [quartiles]"): quartiles,
        **{(cell, name): values[f"{level}_median"].map(_text) for level, name in LEVELS.items()},
    }
    chosen = values.index == view.choice["metric"]
    table = pd.DataFrame(columns).set_axis(np.where(chosen, "▶ ", "") + values["label"])
    out = f"{table.to_html(border=0)}<p>{_LEVELS_IN_WORDS}</p>"
    if len(view.located):
        located = view.located.set_index("region")
        shares = {
            "share of area": located["area"].map(_percent),
            "share of map before": located["before"].map(_percent),
            "share of map after": located["after"].map(_percent),
            "change": located["change"].map(_change),
            "mean change of the cell": located["change_mean"].map(_change),
        }
        out += pd.DataFrame(shares).to_html(border=0)
    return f'{_STYLE}<div class="explore">{out}</div>'


def _code(text: str) -> str:
    """Escaped text; words between backticks become code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _text(value: float, form: str = ".3f") -> str:
    text = f"{round(value, 3) + 0.0:{form}}".replace("-", "\N{MINUS SIGN}")  # + 0.0: no minus before a zero
    return text if np.isfinite(value) else "–"


def _percent(value: float) -> str:
    return _text(value, ".1%")


def _change(value: float) -> str:
    return _text(value, "+.1%")
