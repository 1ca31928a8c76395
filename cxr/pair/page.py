"""The report of a comparison as one HTML page, which opens with the answer.

Names of files and classes may hold anything: all text is escaped, and the page loads nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from cxr.core import tables
from cxr.core.methods import LABELS
from cxr.core.params import DriftParams
from cxr.pair import answer, checking, gates, images, models, result
from cxr.report import zones

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 1.5em auto; padding: 0 1em }
h1 { font-size: 1.5em; margin: 0 0 .4em } h2 { font-size: 1.15em; margin: 1.5em 0 .4em } p { margin: .4em 0 }
.lead { font-size: 1.15em; font-weight: 600 }
.banner, .caution { padding: .4em .8em; border-left: 8px solid #a33f00; background: #fff3d6 }
.banner { background: #ffd27a }
table { border-collapse: collapse; font-size: .87em; margin: .5em 0 }
th, td { padding: .25em .7em; border-bottom: 1px solid #d5d9dd; text-align: left; vertical-align: top }
td { overflow-wrap: anywhere }
th { background: #f3f4f6; white-space: pre-line } .fails td { background: #fff3d6 }
summary { cursor: pointer; font-weight: 600; padding: .3em 0 } details { border-top: 1px solid #ddd }
img { max-width: 100%; height: auto }
"""
_HOW_TO_READ = (
    "Medians over images; the intervals describe these models only. 0 of the corrected overlap is what two "
    "patients share, and 1 is identical maps."
)
_CHECKS = {"yes": "pass", "not checked": "not checked", "no": "FAIL their checks"}


def html(
    said: Sequence[str],
    networks: Mapping[str, models.Model],
    chosen: pd.DataFrame,
    summaries: Mapping[str, Mapping[str, float]],
    checked: pd.DataFrame,
    performances: Mapping[str, float],
    settings: DriftParams,
    *,
    figure: Figure,
    chest: pd.DataFrame,
    notes: Sequence[str] = (),
) -> str:
    """The page.

    Args:
        said: `answer.sentences`.
        figure: `result.figure`.
        chest: `chest.of_pair`.
        notes: reasons to doubt the result.
        The others as for `result.text`.
    """
    checks = checking.by_method(checked, list(summaries))
    first, *more = said
    title = f"Does the evidence differ? {models.label({name: model.path for name, model in networks.items()})}"
    synthetic = "The images are drawn by a program. Nothing here is about patients."
    measured = gates.judge(
        [gates.parse(text) for text in settings.gate], result.measured(summaries, checked, performances)
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class='banner'><b>SYNTHETIC DATA</b> {synthetic}</p>" if settings.data == "phantom" else "",
        f"<p class='lead'>{escape(first)}</p>",
        *(f"<p>{escape(text)}</p>" for text in more),
        *(f"<p class='caution'><b>Caution:</b> {escape(note)}</p>" for note in (*notes, *images.lacking(chosen))),
        *(f"<p><b>{escape(gates.line(one))}</b></p>" for one in measured),
        _table(_marked(answer.rows(summaries, level=settings.level), list(checks.values()))),
        f"<p>{escape(_capital(result.which_images(chosen, settings)))}. {_HOW_TO_READ}</p>",
        _picture("drift between the two models, and examples", figure),
        _details("The two models", _table(_models(networks, performances)), open_=True),
    ]
    if len(checked):
        reasons = checked[["model", "method", "n_images", "passes_checks", "reason"]]
        shown = reasons.assign(
            method=reasons["method"].map(LABELS),
            passes_checks=reasons["passes_checks"].map({True: "yes", False: "NO"}),
        )
        parts.append(_details("Do the maps pass their checks?", _table(shown.rename(columns=_HEADINGS))))
    if len(chest):
        from cxr.report import figures  # Matplotlib takes a while to load

        sketch = _picture("evidence in the zones of the chest", figures.zones(chest[chest["label"] == zones.ALL]))
        moved = zones.largest(chest).drop(columns="architecture", errors="ignore")
        shown = moved.assign(method=moved["method"].map(LABELS)) if len(moved) else moved
        more = _table(shown) if len(moved) else ""
        parts.append(_details("From where to where in the chest? Before is A, after is B", sketch + more))
    for method, summary in summaries.items():
        mark = "" if checks[method] == "yes" else f" ({tables.MEANING[checks[method]]})"
        shown = tables.readable(result.overview(summary)).rename(
            columns={"value": f"median [{tables.percent(settings.level)}]"}
        )
        parts.append(_details(f"All metrics, {LABELS[method]}{mark}", _table(shown)))
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


_HEADINGS = {"n_images": "images", "passes_checks": "passes its checks"}


def _marked(shown: pd.DataFrame, checks: Sequence[str]) -> pd.DataFrame:
    """With the column "maps" before the numbers; methods whose maps fail come last."""
    order = pd.Series(list(checks)).map(list(_CHECKS).index).sort_values(kind="stable").index
    shown = shown.assign(maps=[_CHECKS[check] for check in checks]).iloc[order]
    return shown[["method", "maps", *shown.columns[1:-1]]]


def _models(networks: Mapping[str, models.Model], performances: Mapping[str, float]) -> pd.DataFrame:
    """A row a model: model, file, accuracy, AUC, pixels, preprocessing, layer with its grid, SHA-256."""
    rows = []
    for name, model in networks.items():
        checkpoint = models.CHECKPOINTS.get(name, "")
        known = {
            words: f"{performances[f'{metric}_{checkpoint}']:.3f}"
            if f"{metric}_{checkpoint}" in performances
            else "-"
            for metric, words in (("accuracy", "accuracy"), ("auc_macro", "macro AUC"))
        }
        preprocessing = f"{model.network.adapted.preprocessing}: {model.network.adapted.preprocessing_why}"
        row = {"model": name, "file": model.path, **known, "pixels": model.size, "preprocessing": preprocessing}
        rows.append({**row, "explained at": f"{model.layer} ({model.grid})", "SHA-256": model.sha256[:8]})
    return pd.DataFrame(rows)


def _details(title: str, body: str, *, open_: bool = False) -> str:
    return f"<details{' open' * open_}><summary>{escape(title)}</summary>{body}</details>"


def _table(shown: pd.DataFrame) -> str:
    heads = "".join(f"<th>{escape(str(name))}</th>" for name in shown)
    rows = "".join(
        f"<tr{' class=fails' * any('FAIL' in str(cell) for cell in row)}>"
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in row)
        + "</tr>"
        for row in shown.itertuples(index=False)
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _picture(what: str, figure: Figure) -> str:
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", bbox_inches="tight", dpi=110)
        content = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{escape(what)}' src='data:image/png;base64,{content}'>"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
