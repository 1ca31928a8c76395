"""The picture of one image: maps, difference, top areas, course, distribution, predictions.

All maps have one colour scale, 0 to 1, and all differences have -1 to 1, as in every figure of a study. Before is
blue and after is orange (Okabe and Ito's palette). Names come from the data and may hold any character: no text is
read as mathematics.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from skimage.measure import find_contours

from cxr.explore.view import LEVELS, View, variant_in_words
from cxr.metrics.metric_table import METRICS
from cxr.report.figures import COLOURS, METHOD_LABELS

_BEFORE, _AFTER, _BOTH = COLOURS[0], COLOURS[1], "#F0E442"
_HEAT, _DIFFERENCE = ScalarMappable(Normalize(0, 1), "inferno"), ScalarMappable(Normalize(-1, 1), "PuOr_r")
# Outlines of regions: colour and dashes, so that they can be told apart without colour too.
OUTLINES = {"lesion": (COLOURS[4], "solid"), "lung": (COLOURS[5], "dashed"), "marker": (COLOURS[2], "dotted")}
_LEVEL_COLOURS = {"two_patients": "#7F7F7F", "two_heads": COLOURS[5], "chance": "black"}
WIDTH, HEIGHT = 11.4, 6.7  # inches
DPI = 100
_LOWER = 3.55  # inches from the top: where the lower half begins
_BARS = 8  # classes whose probabilities are drawn


def draw(view: View, *, outlines: Sequence[str] = (), beneath: bool = True) -> Figure:
    """The picture of a view.

    Args:
        outlines: regions whose outlines are drawn, as far as the image has them.
        beneath: the radiograph is seen through the maps.

    It belongs to no window and to none of pyplot's: nothing has to be closed.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    # One axes in inches from the upper left for all that needs no ticks: twenty axes would take most of the time
    # that drawing takes.
    canvas = figure.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    canvas.axis("off")
    _titles(canvas, view)
    _maps(canvas, view, outlines, beneath)
    _write(canvas, 0.1, _LOWER, "During fine-tuning, epoch by epoch", weight="bold")
    _course(figure, canvas, view)
    _write(canvas, 6.0, _LOWER, "Among the images of this cell", weight="bold")
    _distribution(_place(figure, 6.42, _LOWER + 0.28, 2.3, 1.65), view)
    _write(canvas, 9.02, _LOWER, "What both checkpoints say", weight="bold")
    _probabilities(_place(figure, 9.98, _LOWER + 0.28, 1.25, 1.65), view)
    return figure


def png(figure: Figure, *, dpi: int = DPI) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    # The fastest compression: the picture goes no further than to the browser.
    figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _place(figure: Figure, x: float, y: float, wide: float, high: float) -> Axes:
    """An axes at inches from the left and from the top."""
    return figure.add_axes((x / WIDTH, 1 - (y + high) / HEIGHT, wide / WIDTH, high / HEIGHT))


def _write(canvas: Axes, x: float, y: float, text: str, **style: object) -> None:
    """Text whose top is at inches from the left and from the top."""
    canvas.text(x, y, text, **{"fontsize": 9, "va": "top", "parse_math": False, **style})


def _titles(canvas: Axes, view: View) -> None:
    chosen = view.choice
    among = f" of class {chosen['label']}" if chosen["label"] else ""
    by = f"by drift in “{METRICS[chosen['metric']].label}”"
    rank = f"rank {view.rank} of {view.n_ranked}{among} {by}" if view.rank else f"no rank {by}: a map is empty"
    _write(canvas, 0.1, 0.08, f"{_short(chosen['image_id'])}   class {view.label}", fontsize=11.5, weight="bold")
    _write(canvas, 0.1, 0.33, rank)
    maps = f"{METHOD_LABELS[chosen['method']]} for “{view.explained}”"
    at = f"{variant_in_words(chosen['variant'], view.layer)}, grid {view.grid}"
    cell = f"{chosen['study']}: {chosen['architecture']}, seed {chosen['seed']}\n{maps} at {at}"
    _write(canvas, WIDTH - 0.1, 0.08, cell, ha="right", linespacing=1.5)


def _maps(canvas: Axes, view: View, outlines: Sequence[str], beneath: bool) -> None:
    """The radiograph, both maps, their difference and the top-q areas, side by side."""
    side, gap, top = 2.14, 0.125, 0.83
    lefts = [0.1 + number * (side + gap) for number in range(5)]
    spots = [(left, left + side, top + side, top) for left in lefts]
    areas = f"top {100 * view.q:.0f} % of the area"
    names = ["radiograph", "before", "after", "after minus before", areas]
    names[4] += f": IoU {view.overlap:.2f}" if view.tops else ""
    drawn = [name for name in outlines if name in view.masks]
    for left, spot, name in zip(lefts, spots, names, strict=True):
        _write(canvas, left + side / 2, top - 0.04, name, ha="center", va="bottom")
        _grey(canvas, view.image, spot)
    empty = [not np.isfinite(values).all() for values in (view.before, view.after)]
    for spot, values, none in zip(spots[1:3], (view.before, view.after), empty, strict=True):
        if none:
            _say(canvas, spot, "empty map")
        else:
            _colour(canvas, _HEAT.to_rgba(values, alpha=0.55 if beneath else 1, bytes=True), spot)
    if any(empty):
        _say(canvas, spots[3], "no difference")
        _say(canvas, spots[4], "no areas")
    else:
        difference = view.after - view.before
        _colour(canvas, _DIFFERENCE.to_rgba(difference, alpha=0.7 if beneath else 1, bytes=True), spots[3])
        _colour(canvas, _areas(*view.tops), spots[4])
    for spot in spots:
        for name in drawn:
            _outline(canvas, view.masks[name], spot, *OUTLINES.get(name, ("white", "solid")))
    below = top + side + 0.08
    _bar(
        canvas,
        _HEAT,
        lefts[1] + 0.6,
        below,
        2 * side + gap - 1.2,
        "attribution, each map from its minimum to its maximum",
    )
    _bar(canvas, _DIFFERENCE, lefts[3] + 0.3, below, side - 0.6, "difference")
    x = lefts[0]
    for name in drawn:
        colour, dashes = OUTLINES.get(name, ("black", "solid"))
        canvas.plot([x, x + 0.28], [below + 0.07] * 2, color=colour, linestyle=dashes, linewidth=1.8)
        _write(canvas, x + 0.33, below, name, fontsize=7.5)
        x += 0.5 + 0.065 * len(name)
    parts = (("before only", _BEFORE, 0), ("both", _BOTH, 0.86), ("after only", _AFTER, 1.25))
    for name, colour, right in parts if view.tops else ():
        style = {"facecolor": colour, "edgecolor": "black", "linewidth": 0.5}
        canvas.add_patch(Rectangle((lefts[4] + right, below + 0.01), 0.1, 0.11, **style))
        _write(canvas, lefts[4] + right + 0.14, below, name, fontsize=7)


def _grey(canvas: Axes, image: np.ndarray, spot: tuple[float, ...]) -> None:
    canvas.imshow(image, cmap="gray", vmin=0, vmax=255, extent=spot, interpolation="bilinear", aspect="auto")


def _colour(canvas: Axes, pixels: np.ndarray, spot: tuple[float, ...]) -> None:
    """Colours [h, w, 4]: smooth maps are so already, and of a native grid the cells are to be seen."""
    canvas.imshow(pixels, extent=spot, interpolation="nearest", aspect="auto")


def _say(canvas: Axes, spot: tuple[float, ...], text: str, fontsize: float = 9) -> None:
    paper = {"facecolor": "black", "alpha": 0.7, "linewidth": 0}
    centre = (spot[0] + spot[1]) / 2, (spot[2] + spot[3]) / 2
    canvas.text(*centre, text, color="white", fontsize=fontsize, ha="center", va="center", bbox=paper)


def _bar(canvas: Axes, scale: ScalarMappable, x: float, y: float, wide: float, label: str) -> None:
    """A colour bar with its ends and its middle."""
    low, high = scale.get_clim()
    colours = scale.to_rgba(np.linspace(low, high, 256)[None], bytes=True)
    canvas.imshow(colours, extent=(x, x + wide, y + 0.09, y), interpolation="nearest", aspect="auto")
    canvas.add_patch(Rectangle((x, y), wide, 0.09, fill=False, linewidth=0.6))
    for share in (0, 0.5, 1):
        text = f"{low + share * (high - low):g}".replace("-", "\N{MINUS SIGN}")
        _write(canvas, x + share * wide, y + 0.11, text, ha="center", fontsize=8)
    _write(canvas, x + wide / 2, y + 0.25, label, ha="center", fontsize=8)


def _areas(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The three parts of two areas in their colours: float [h, w, 4], transparent outside of both."""
    out = np.zeros((*before.shape, 4))
    for part, colour in (
        (before & ~after, _BEFORE),
        (after & ~before, _AFTER),
        (before & after, _BOTH),
    ):
        out[part] = (*to_rgb(colour), 0.62)
    return out


def _outline(canvas: Axes, mask: np.ndarray, spot: tuple[float, ...], colour: str, dashes: str) -> None:
    """The edge of a mask, on black, so that it shows on any map."""
    left, right, bottom, top = spot
    padded = np.pad(mask, 1).astype(float)  # a region that reaches the border is closed there
    scale = np.array([right - left, bottom - top]) / mask.shape[::-1]
    edges = [np.clip(line[:, ::-1] - 0.5, 0, mask.shape[::-1]) for line in find_contours(padded, 0.5)]
    lines = [(left, top) + edge * scale for edge in edges]
    canvas.add_collection(LineCollection(lines, colors="black", linewidths=2.4), autolim=False)
    canvas.add_collection(LineCollection(lines, colors=colour, linestyles=dashes, linewidths=1.4), autolim=False)


def _course(figure: Figure, canvas: Axes, view: View) -> None:
    """Maps of the checkpoints during fine-tuning, each above its epoch, and the metric over epochs."""
    left, wide, top = 0.74, 4.9, _LOWER + 0.2
    if view.course is None:
        _write(canvas, 0.1, top + 0.1, _wrap(view.missing["course"].replace("`", "")))
        return
    course, metric = view.course, METRICS[view.choice["metric"]]
    last = float(course.epochs[-1])
    side = min(0.86, 0.9 * wide / len(course.shown))
    pad = last * side / (wide - side) / 2 + 0.05 * last  # so that the outermost maps end within the chart
    for epoch, values in zip(course.shown, course.maps, strict=True):
        x = left + wide * (epoch + pad) / (last + 2 * pad) - side / 2
        spot = (x, x + side, top + side, top)
        _grey(canvas, view.image, spot)
        if np.isfinite(values).all():
            _colour(canvas, _HEAT.to_rgba(values, alpha=0.55, bytes=True), spot)
        else:
            _say(canvas, spot, "empty", 7)
    axis = _place(figure, left, top + 0.95, wide, 1.42)
    axis.fill_between(
        course.epochs, course.low, course.high, color="0.85", linewidth=0, label="quartiles of all images"
    )
    axis.plot(course.epochs, course.median, color="0.45", linestyle="--", linewidth=1.3, label="their median")
    axis.plot(course.epochs, course.values, "-o", color=_AFTER, markersize=4.5, linewidth=1.6, label="this image")
    own = view.values.loc[metric.name, "value"]
    if np.isfinite(own):
        axis.axhline(own, color=_AFTER, linewidth=1, linestyle=":", label="its checkpoint after")
    axis.set_xlim(-pad, last + pad)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xticks([tick for tick in axis.get_xticks() if 0 <= tick <= last])
    axis.set_xlabel("epoch of fine-tuning (0: before)", fontsize=8, labelpad=2)
    axis.set_ylabel(_wrap(metric.label, 24), fontsize=8)
    axis.set_ylim(*_limits(np.concatenate([course.values, course.low, course.high, [own]]), metric.name))
    _bare(axis)
    axis.legend(fontsize=7, frameon=False, ncols=2, handlelength=1.8, loc="best")


def _distribution(axis: Axes, view: View) -> None:
    """Where the image lies among all scored images of the cell."""
    metric = METRICS[view.choice["metric"]]
    values, chosen = view.scores.dropna(), view.choice["label"]
    row = view.values.loc[metric.name]
    levels = row[[f"{level}_median" for level in LEVELS]].to_numpy(float)
    limits = _limits(np.concatenate([values.to_numpy(float), levels]), metric.name)
    bins = np.linspace(*limits, 31)
    axis.hist(values, bins=bins, color="0.8", label=f"all {len(values)} images")
    if chosen:
        own = values[view.of_label[values.index]]
        axis.hist(own, bins=bins, color="0.5", label=f"class {_short(chosen, 14)}: {len(own)}")
    if np.isfinite(row["median"]):
        axis.axvline(row["median"], color="0.25", linewidth=1.3, linestyle="--", label="their median")
    for level in LEVELS:
        middle = row[f"{level}_median"]
        if np.isfinite(middle):
            axis.axvline(
                middle,
                color=_LEVEL_COLOURS[level],
                linewidth=1.2,
                linestyle=":",
                label=f"median, {LEVELS[level]}",
            )
    if np.isfinite(row["value"]):
        axis.axvline(row["value"], color=_AFTER, linewidth=2.4, label="this image")
    axis.set_xlim(limits)
    axis.set_xlabel(_wrap(metric.label, 48), fontsize=8, labelpad=2)
    axis.set_ylabel("images", fontsize=8)
    _bare(axis)
    _legend(axis, 5.95, HEIGHT - 0.64)


def _probabilities(axis: Axes, view: View) -> None:
    """What both checkpoints say of the image."""
    table = view.predictions
    if len(table) > _BARS:
        likely = table[["before", "after"]].max(axis=1).where(table["class"] != view.label, 2)
        table = table.loc[likely.nlargest(_BARS).index.sort_values()]
    spots = np.arange(len(table))
    axis.barh(spots - 0.2, table["before"], 0.36, color=_BEFORE, label="before")
    axis.barh(spots + 0.2, table["after"], 0.36, color=_AFTER, label="after")
    axis.set_yticks(spots, [_short(name, 20) for name in table["class"]], fontsize=8, parse_math=False)
    for tick, name in zip(axis.get_yticklabels(), table["class"], strict=True):
        tick.set_weight("bold" if name == view.label else "normal")
    axis.set(xlim=(0, 1), ylim=(len(table) - 0.4, -0.6), xticks=[0, 0.5, 1])
    axis.set_xlabel("probability (true class bold)", fontsize=8, labelpad=2, loc="right")
    _bare(axis)
    _legend(axis, 9.0, HEIGHT - 0.64)


def _legend(axis: Axes, x: float, y: float) -> None:
    """A legend in two columns whose upper left corner is at inches from the left and from the top."""
    corner = {"bbox_to_anchor": (x / WIDTH, 1 - y / HEIGHT), "bbox_transform": axis.figure.transFigure}
    style = {"fontsize": 7, "frameon": False, "columnspacing": 1, "labelspacing": 0.25}
    legend = axis.legend(ncols=2, loc="upper left", borderaxespad=0, **corner, **style)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _limits(values: np.ndarray, metric: str) -> tuple[float, float]:
    """Axis limits of a metric: its bounds where those are a scale one reads, else as far as the values go."""
    known = METRICS[metric]
    values = values[np.isfinite(values)]
    if known.signed:
        reach = float(np.abs(values).max(initial=0.02)) * 1.1
        return -reach, reach
    if known.identical == 1:
        return min(0.0, float(values.min(initial=0)) * 1.05), 1.02
    return 0.0, float(values.max(initial=0.02)) * 1.05


def _bare(axis: Axes) -> None:
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _wrap(text: str, width: int = 74) -> str:
    return textwrap.fill(text, width)
