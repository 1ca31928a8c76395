"""The picture of one image: maps, difference, top areas, course, distribution, predictions.

All maps have one colour scale, 0 to 1, and all differences have -1 to 1, as in every figure of a study. Before is
blue and after is orange (Okabe and Ito's palette).
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cxr.explore.view import LEVELS, View, variant_in_words
from cxr.metrics.metric_table import METRICS
from cxr.report.figures import COLOURS, METHOD_LABELS
from cxr.report.figures.style import BASELINES, wrapped

_BEFORE, _AFTER, _BOTH = COLOURS[0], COLOURS[1], "#F0E442"
_AREAS = {"before only": _BEFORE, "after only": _AFTER, "both": _BOTH}
_HEAT, _DIFFERENCE = ScalarMappable(Normalize(0, 1), "inferno"), ScalarMappable(Normalize(-1, 1), "PuOr_r")
# Outlines of regions: colour and dashes, so that they can be told apart without colour too.
OUTLINES = {"lesion": (COLOURS[4], "solid"), "lung": (COLOURS[5], "dashed"), "marker": (COLOURS[2], "dotted")}
WIDTH, HEIGHT = 11.4, 6.7  # inches
DPI = 100
_BARS = 8  # classes whose probabilities are drawn
_STYLE = {
    "text.parse_math": False,  # names come from the data and may hold any character
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.columnspacing": 1,
}


@matplotlib.rc_context(_STYLE)
def draw(view: View, *, outlines: Sequence[str] = (), beneath: bool = True) -> Figure:
    """The picture of a view.

    Args:
        outlines: names in OUTLINES; their outlines are drawn if the image has these regions.
        beneath: whether the radiograph shows through the maps.

    The figure is not one of pyplot's, so it need not be closed.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    figure.text(0.1 / WIDTH, 1 - 0.08 / HEIGHT, _title(view), va="top", fontsize=10)
    _maps(figure, view, outlines, beneath)
    _course(figure, view)
    _distribution(_place(figure, 6.42, 3.85, 2.3, 1.65), view)
    _probabilities(_place(figure, 9.98, 3.85, 1.25, 1.65), view)
    return figure


@matplotlib.rc_context(_STYLE)  # ticks are made only when they are drawn
def png(figure: Figure, *, dpi: int = DPI) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    # The fastest compression, as the picture only goes to the browser.
    figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _place(figure: Figure, x: float, y: float, wide: float, high: float) -> Axes:
    """An axes whose place and size are in inches from the left and from the top.

    Matplotlib's layouts take longer than drawing, and maps would move from image to image.
    """
    return figure.add_axes((x / WIDTH, 1 - (y + high) / HEIGHT, wide / WIDTH, high / HEIGHT))


def _title(view: View) -> str:
    chosen = view.choice
    among = f" of class {chosen['label']}" if chosen["label"] else ""
    by = f"by drift in “{METRICS[chosen['metric']].label}”"
    rank = f"rank {view.rank} of {view.n_ranked}{among} {by}" if view.rank else f"no rank {by}: a map is empty"
    maps = f"{METHOD_LABELS[chosen['method']]} for “{view.explained}”"
    at = f"{variant_in_words(chosen['variant'], view.layer)}, grid {view.grid}"
    cell = f"{chosen['study']}: {chosen['architecture']}, seed {chosen['seed']}"
    return f"{_short(chosen['image_id'])}, class {view.label}: {rank}\n{cell}; {maps} at {at}"


def _maps(figure: Figure, view: View, outlines: Sequence[str], beneath: bool) -> None:
    """The radiograph, both maps, their difference and the top-q areas, side by side."""
    axes = [_place(figure, 0.1 + 2.265 * number, 0.75, 2.14, 2.14) for number in range(5)]
    empty = {name: not np.isfinite(getattr(view, name)).all() for name in ("before", "after")}
    areas = f"top {100 * view.q:.0f} % of the area" + (f": IoU {view.overlap:.2f}" if view.tops else "")
    names = [name + ": empty map" * none for name, none in empty.items()]
    for axis, name in zip(axes, ["radiograph", *names, "after minus before", areas], strict=True):
        _picture(axis, view.image, name)
    for axis, values in ((axes[1], view.before), (axes[2], view.after)):
        _colour(axis, values, _HEAT, 0.55 if beneath else 1)
    _colour(axes[3], view.after - view.before, _DIFFERENCE, 0.7 if beneath else 1)
    bars = (
        (_HEAT, 2.965, 3.205, "attribution, each map from its minimum to its maximum"),
        (_DIFFERENCE, 7.195, 1.54, "difference"),
    )
    for scale, x, wide, label in bars:
        figure.colorbar(scale, cax=_place(figure, x, 2.97, wide, 0.09), orientation="horizontal", label=label)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 3, "handlelength": 1.5}
    if view.tops:
        before, after = (top.astype(int) for top in view.tops)
        number = ScalarMappable(Normalize(1, 3), ListedColormap(list(_AREAS.values())))
        _colour(axes[4], np.ma.masked_equal(before + 2 * after, 0), number, 0.62)
        axes[4].legend([Patch(color=colour) for colour in _AREAS.values()], _AREAS, **below)
    drawn = {name: OUTLINES[name] for name in outlines if name in view.masks}
    for axis in axes:
        for name, (colour, dashes) in drawn.items():
            lines = {"levels": [0.5], "extent": (0, 1, 0, 1), "origin": "lower"}
            axis.contour(view.masks[name], colors="black", linewidths=2.4, **lines)  # so that it shows on any map
            axis.contour(view.masks[name], colors=[colour], linestyles=[dashes], linewidths=1.4, **lines)
    if drawn:
        handles = [Line2D([], [], color=colour, linestyle=dashes) for colour, dashes in drawn.values()]
        axes[0].legend(handles, drawn, **below)


def _picture(axis: Axes, image: np.ndarray, name: str) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0), interpolation="bilinear")
    axis.set_title(name)
    axis.axis("off")


def _colour(axis: Axes, values: np.ndarray, scale: ScalarMappable, alpha: float) -> None:
    """Draw a map without smoothing, so that the cells of a native grid can be seen; NaN is left out."""
    axis.imshow(values, cmap=scale.cmap, norm=scale.norm, alpha=alpha, extent=(0, 1, 1, 0), interpolation="none")


def _course(figure: Figure, view: View) -> None:
    """Maps during fine-tuning, and below them the metric over the epochs."""
    axis = _place(figure, 0.74, 4.86, 4.9, 1.36)
    if view.course is None:
        axis.axis("off")
        missing = textwrap.fill(view.missing["course"].replace("`", ""), 74)
        axis.set_title(missing, loc="left")
        return
    course, metric = view.course, METRICS[view.choice["metric"]]
    width = 4.9 / len(course.shown)
    side = min(0.86, 0.9 * width)
    for number, (epoch, values) in enumerate(zip(course.shown, course.maps, strict=True)):
        small = _place(figure, 0.74 + width * (number + 0.5) - side / 2, 3.85, side, side)
        _picture(small, view.image, f"epoch {epoch}" if np.isfinite(values).all() else f"{epoch}: empty")
        _colour(small, values, _HEAT, 0.55)
    quartiles = {"color": "0.85", "linewidth": 0, "label": "quartiles of all images"}
    axis.fill_between(course.epochs, course.low, course.high, **quartiles)
    axis.plot(course.epochs, course.median, color="0.45", linestyle="--", linewidth=1.3, label="their median")
    axis.plot(course.epochs, course.values, "-o", color=_AFTER, markersize=4.5, linewidth=1.6, label="this image")
    own = view.values.loc[metric.name, "value"]
    if np.isfinite(own):
        axis.axhline(own, color=_AFTER, linewidth=1, linestyle=":", label="its checkpoint after")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="epoch of fine-tuning (0: before)", ylabel=wrapped(metric.label))
    axis.legend(ncols=2)


def _distribution(axis: Axes, view: View) -> None:
    """Where the image lies among all scored images of the cell."""
    metric = METRICS[view.choice["metric"]]
    values, chosen = view.scores.dropna(), view.choice["label"]
    row = view.values.loc[metric.name]
    bins = np.histogram_bin_edges(values, 30)
    axis.hist(values, bins=bins, color="0.8", label=f"all {len(values)} images")
    if chosen:
        own = values[view.of_label[values.index]]
        axis.hist(own, bins=bins, color="0.5", label=f"class {_short(chosen, 14)}: {len(own)}")
    lines = {"their median": (row["median"], "0.25", "--", 1.3)}
    for level, name in LEVELS.items():
        colour = BASELINES[level][1] if level in BASELINES else "black"
        lines[f"median, {name}"] = (row[f"{level}_median"], colour, ":", 1.3)
    lines["this image"] = (row["value"], _AFTER, "-", 2.4)
    for name, (value, colour, dashes, width) in lines.items():
        if np.isfinite(value):
            axis.axvline(value, color=colour, linestyle=dashes, linewidth=width, label=name)
    axis.set(title="Among the images of this cell", xlabel=metric.label, ylabel="images")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)


def _probabilities(axis: Axes, view: View) -> None:
    """What both checkpoints predict for the image."""
    table = view.predictions
    if len(table) > _BARS:
        likely = table[["before", "after"]].max(axis=1).where(table["class"] != view.label, 2)
        table = table.loc[likely.nlargest(_BARS).index.sort_values()]
    spots = np.arange(len(table))
    axis.barh(spots - 0.2, table["before"], 0.36, color=_BEFORE, label="before")
    axis.barh(spots + 0.2, table["after"], 0.36, color=_AFTER, label="after")
    axis.set_yticks(spots, [_short(name, 20) for name in table["class"]])
    for tick, name in zip(axis.get_yticklabels(), table["class"], strict=True):
        tick.set_weight("bold" if name == view.label else "normal")
    axis.set_title("What both checkpoints predict", loc="right")
    axis.set_xlabel("probability")
    axis.set(xlim=(0, 1), ylim=(len(table) - 0.4, -0.6), xticks=[0, 0.5, 1])
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"
