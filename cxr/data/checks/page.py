"""The findings of `cxr check`: lines for a terminal, and one self-contained HTML page.

Names of files, classes and columns come from the data and may hold anything. So all text on the page is escaped,
and the page may only load inline styles and inline pictures.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from cxr.core.files import atomic
from cxr.data.checks.findings import Finding, Picture, Report

_ROWS = 500  # of a table on the page; the others are counted
_BLUE, _GREY, _ORANGE = "#0072B2", "#7F7F7F", "#D55E00"  # Okabe and Ito: any colour vision
_COLOURS = {"error": "#a40000", "warning": "#8a5300", "note": "#3c4a57"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #1b1f23 }
h1 { font-size: 1.5em } h2 { font-size: 1.1em; margin-top: 2em }
.tag { color: #fff; border-radius: 3px; padding: 0 .5em; font-size: .85em }
.wide { overflow-x: auto; max-height: 30em; overflow-y: auto }
table { border-collapse: collapse; font-size: .85em }
th, td { padding: .2em .7em; border-bottom: 1px solid #d5d9dd; text-align: left; vertical-align: top }
th { position: sticky; top: 0; background: #f3f4f6 }
figure { display: inline-block; margin: .4em .8em .4em 0; vertical-align: top; max-width: 100% }
figcaption { font-size: .75em; max-width: 330px; overflow-wrap: anywhere }
img { max-width: 100%; height: auto }
"""


def lines(report: Report, *, width: int = 100) -> str:
    """The report as text: what was checked, then one paragraph per finding, errors first."""
    head = _one_line(f"{report.name}: {_looked_at(report)}")
    out = [head, ""]
    for finding in report.findings:
        label = f"{finding.severity.upper():<8}{finding.check}: "
        text = textwrap.wrap(label + _one_line(finding.text), max(40, width), subsequent_indent=" " * 8)
        # The page names all files; here are a few.
        names = [_one_line(name) for name in finding.files[:3]]
        more = f" and {len(finding.files) - 3} more" if len(finding.files) > 3 else ""
        out += text + ([" " * 8 + ", ".join(names) + more] if names else [])
    return "\n".join([*out, "", _numbers(report)])


def write(report: Report, path: str | Path) -> Path:
    """Write the page, whole or not at all; make its folder if needed. Returns the path."""
    with atomic(path) as temporary:
        temporary.write_text(page(report), encoding="utf-8")
    return Path(path)


def page(report: Report) -> str:
    """The report as one HTML page without scripts and without links to other pages."""
    parts = [_section(finding) for finding in report.findings]
    counts = _table(report.counts) if len(report.counts) else ""
    title = f"Checks of {report.name}"
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{_text(title)}</h1><p>{_text(_looked_at(report))}</p><p><strong>{_numbers(report)}</strong></p>{counts}"
        f"{''.join(parts)}</body></html>\n"
    )


def _looked_at(report: Report) -> str:
    how = "every pixel decoded" if report.full else "by their headers; --full decodes every pixel"
    if report.counts.empty:
        return f"{report.source}, checked up to the splits only"
    return (
        f"{report.images} images of {report.patients} patients {report.classes}, {report.source}, {how}; "
        f"{report.seconds:.1f} s"
    )


def _numbers(report: Report) -> str:
    counts = {kind: len(report.of(kind)) for kind in ("error", "warning", "note")}
    return ", ".join(f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in counts.items())


def _section(finding: Finding) -> str:
    tag = f"<span class='tag' style='background:{_COLOURS[finding.severity]}'>{finding.severity}</span>"
    parts = [f"<h2>{tag} {_text(finding.check)}</h2><p>{_text(finding.text)}</p>"]
    if finding.table is not None and "balanced accuracy" in finding.table:
        parts.append(_figure(_png_of(betrayal(finding.table)), "balanced accuracy of each variable", wide=True))
    parts += [_picture(picture) for picture in finding.pictures]
    if finding.table is not None:
        parts.append(_table(finding.table))
    return "\n".join(parts)


def betrayal(table: pd.DataFrame) -> Figure:
    """Bars: the balanced accuracy with which each variable predicts the class, with intervals and chance."""
    table = table.iloc[:20].iloc[::-1]
    chance = 1 / sum(name.startswith("AUC ") for name in table.columns)
    figure = Figure(figsize=(8.4, 1.1 + 0.3 * len(table)), layout="constrained")
    axis = figure.subplots()
    value = table["balanced accuracy"].to_numpy()
    errors = np.clip([value - table["low"], table["high"] - value], 0, None)
    colours = [_BLUE if betrays else _GREY for betrays in table["betrays"]]
    axis.barh(range(len(table)), value, color=colours, xerr=errors, ecolor="black", capsize=2, height=0.7)
    axis.axvline(chance, color=_ORANGE, linestyle="--", label=f"chance ({chance:.2f})")
    # A "$" in the name of a column is not a formula.
    axis.set_yticks(
        range(len(table)), [textwrap.shorten(_one_line(n), 40) for n in table["variable"]], parse_math=False
    )
    axis.set(xlim=(0, 1), xlabel="balanced accuracy, cross-validated over patients, with 95 % interval")
    axis.set_ylim(-0.6, len(table) - 0.4)
    figure.legend(frameon=False, loc="outside upper right")
    return figure


def _png_of(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _picture(picture: Picture) -> str:
    gap = ((0, 0), (0, 4))  # white, to the right of each
    sheet = np.hstack([np.pad(image, gap, constant_values=255) for image in picture.images])
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    return _figure(buffer.getvalue(), picture.caption)


def _figure(png: bytes, caption: str, *, wide: bool = False) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image = f"<img src='{source}' alt='{html.escape(_one_line(caption))}'>"
    return f"<figure>{image}{'' if wide else f'<figcaption>{_text(caption)}</figcaption>'}</figure>"


def _table(table: pd.DataFrame) -> str:
    shown = table.head(_ROWS)
    with pd.option_context("display.max_colwidth", None):  # otherwise pandas cuts long paths
        body = shown.map(_cell).rename(columns=_one_line).to_html(index=False, escape=True, border=0)
    more = f"<p>{len(table) - _ROWS} more rows</p>" if len(table) > _ROWS else ""
    return f"<div class='wide'>{body}</div>{more}"


def _cell(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, (float, np.floating)) else _one_line(value)


def _one_line(value: object) -> str:
    """A text without line breaks and control characters, which would change a terminal."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value)
    )


def _text(value: object) -> str:
    return html.escape(_one_line(value))
