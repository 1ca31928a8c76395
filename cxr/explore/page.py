"""The widgets of `explore.ipynb`: they change what is chosen, and show its picture and its tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

import ipywidgets as widgets
from matplotlib.figure import Figure

from cxr import tracking
from cxr.core.errors import InputError
from cxr.explore.drawing import DPI, OUTLINES, WIDTH, draw, png
from cxr.explore.explorer import Explorer
from cxr.explore.runs import layers
from cxr.explore.tables import notes, tables
from cxr.explore.view import View, variant_in_words
from cxr.metrics.metric_table import METRICS
from cxr.report.figures import METHOD_LABELS

QS = (0.05, 0.10, 0.20, 0.30)  # as `overlap_q05`, `overlap_q10`, `overlap` and `overlap_q30`
_OFFERED = 1000  # ids that the browser is given to complete from
_NAMED = {"description_width": "58px"}
_NAMES = {
    "study": "study",
    "architecture": "network",
    "seed": "seed",
    "method": "method",
    "variant": "maps at",
    "metric": "rank by",
    "label": "class",
}
_TOOLTIPS = {
    "study": "the MLflow experiment",
    "architecture": "architecture",
    "seed": "the training's seed",
    "method": "attribution method",
    "variant": "the layer, or definition, of the maps: the one that was scored, or another that was kept",
    "metric": "images are ranked by this metric, from the most drift to the least",
    "label": "rank the images of this class only",
}


class Page:
    """Widgets around an `Explorer`: `widget` is what a notebook displays.

    Each change of a widget changes the explorer, brings all widgets up to date and draws anew. What cannot be
    shown (an artifact that is not there any more) is said beside the buttons, and the picture is then empty.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self._following = False  # widgets follow the explorer, and must not lead it
        widths = {"study": 170, "architecture": 215, "seed": 110, "method": 210, "variant": 285}
        widths |= {"metric": 390, "label": 240}
        self.axes = {
            axis: widgets.Dropdown(
                description=name, tooltip=_TOOLTIPS[axis], style=_NAMED, layout=_wide(widths[axis])
            )
            for axis, name in _NAMES.items()
        }
        self.place = widgets.IntSlider(
            value=1, min=1, max=2, description="rank", continuous_update=False, style=_NAMED, layout=_wide(420)
        )
        self.more = widgets.Button(description="◀ more drifted", tooltip="one rank up", layout=_wide(130))
        self.less = widgets.Button(
            description="next-most drifted ▶", tooltip="one rank down", button_style="primary", layout=_wide(165)
        )
        self.id = widgets.Combobox(
            description="find id", placeholder="an id, or part of one", continuous_update=False, style=_NAMED
        )
        self.id.layout = _wide(260)
        self.q = widgets.Dropdown(
            options=[(f"top {100 * q:.0f} %", q) for q in QS],
            value=0.20,
            description="areas",
            style=_NAMED,
            layout=_wide(150),
        )
        self.grid = widgets.Dropdown(
            options=[("smooth, as scored", "image"), ("the layer’s own grid", "native")],
            description="maps",
            style=_NAMED,
            layout=_wide(230),
        )
        self.beneath = _tick("radiograph beneath", True)
        self.outlines = {name: _tick(f"{name} outline", name == "lesion") for name in OUTLINES}
        self.save = widgets.Button(description="save picture", tooltip="as a PNG file", layout=_wide(110))
        self.message = widgets.HTML(layout=widgets.Layout(flex="1 1 280px"))
        self.notes, self.table = widgets.HTML(), widgets.HTML()
        full = widgets.Layout(width="100%", max_width=f"{WIDTH * DPI:.0f}px")
        self.picture = widgets.Image(format="png", layout=full)
        rows = (
            [self.axes[axis] for axis in ("study", "architecture", "seed", "method", "variant")],
            [self.axes["metric"], self.axes["label"], self.id],
            [self.grid, self.q, self.beneath, *self.outlines.values(), self.save],
            [self.more, self.less, self.place, self.message],
        )
        flow = widgets.Layout(flex_flow="row wrap", align_items="center")
        bars = [widgets.HBox(row, layout=flow) for row in rows]
        self.widget = widgets.VBox([*bars, self.picture, self.notes, self.table])
        self._wire()
        self._do(lambda: None)

    def still(self) -> None:
        """Display the current view as a picture and tables, which need no kernel and no widgets."""
        from IPython.display import HTML, Image, display

        display(Image(self.picture.value), HTML(self.notes.value + self.table.value))

    def export(self, path: str | Path | None = None) -> Path:
        """Write the current picture, at 200 dots an inch, and return its path (default: beside the study's report,
        named after what it shows)."""
        choice = self.explorer.choice
        if path is None:
            words = (
                choice["architecture"],
                f"s{choice['seed']}",
                choice["method"],
                choice["variant"],
                choice["image_id"],
            )
            folder = tracking.project() / "mlruns" / "studies" / _file_name(choice["study"]) / "explore"
            path = folder / f"{_file_name('_'.join(words))}.png"
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(self._figure(self._view()), dpi=200))
        return path

    # ---------------------------------------------------------------------------------- widgets lead

    def _wire(self) -> None:
        for axis, widget in self.axes.items():
            self._on(widget, lambda value, axis=axis: self.explorer.choose(**{axis: value}))
        self._on(self.place, self.explorer.go_to)
        self._on(self.id, self._find)
        for widget in (self.grid, self.q, self.beneath, *self.outlines.values()):
            self._on(widget, lambda _: None)
        self.more.on_click(lambda _: self._do(lambda: self.explorer.step(-1)))
        self.less.on_click(lambda _: self._do(lambda: self.explorer.step(1)))
        self.save.on_click(lambda _: self._saved())

    def _on(self, widget: widgets.Widget, act: Callable[[object], None]) -> None:
        """Call `act` with a value that a person gave the widget, and show what comes of it."""

        def changed(change: Mapping[str, object]) -> None:
            if not self._following:
                self._do(lambda: act(change["new"]))

        widget.observe(changed, "value")

    def _do(self, act: Callable[[], None]) -> None:
        said = ""
        try:
            act()
        except InputError as error:
            said = str(error)
        self._follow()
        try:
            view = self._view()
            self.picture.value = png(self._figure(view))
            self.notes.value, self.table.value = notes(view), tables(view)
        except InputError as error:
            said = str(error)
            self.picture.value, self.notes.value, self.table.value = b"", "", ""
        self.message.value = f"<b>{escape(said)}</b>" if said else ""

    def _find(self, text: str) -> None:
        if text.strip():
            self.explorer.find(text)

    def _saved(self) -> None:
        try:
            self.message.value = f"saved: <code>{escape(str(self.export()))}</code>"
        except (InputError, OSError) as error:
            self.message.value = f"<b>{escape(str(error))}</b>"

    # -------------------------------------------------------------------------------- widgets follow

    def _follow(self) -> None:
        explorer, self._following = self.explorer, True
        try:
            for axis, widget in self.axes.items():
                options = tuple((_option(explorer, axis, value), value) for value in explorer.options(axis))
                if widget.options != options:
                    widget.options = options
                widget.value = explorer.choice[axis]
            order, place = explorer.order, explorer.place
            self.place.max = max(2, len(order))  # a slider needs two places
            self.place.value, self.place.disabled = place, len(order) < 2
            self.more.disabled, self.less.disabled = place == 1, place == len(order)
            self.id.value = ""
            self.id.options = tuple(sorted(order)) if len(order) <= _OFFERED else ()
        finally:
            self._following = False

    def _view(self) -> View:
        return self.explorer.view(q=self.q.value, grid=self.grid.value)

    def _figure(self, view: View) -> Figure:
        chosen = [name for name, box in self.outlines.items() if box.value]
        return draw(view, outlines=chosen, beneath=self.beneath.value)


def _wide(pixels: int) -> widgets.Layout:
    return widgets.Layout(width=f"{pixels}px")


def _tick(name: str, value: bool) -> widgets.Checkbox:
    return widgets.Checkbox(value=value, description=name, indent=False, layout=_wide(30 + 7 * len(name)))


def _option(explorer: Explorer, axis: str, value: str) -> str:
    """An option of an axis as a reader would name it."""
    if axis == "method":
        return METHOD_LABELS[value]
    if axis == "metric":
        return METRICS[value].label
    if axis == "variant":
        return variant_in_words(value, layers(explorer.run)[value])
    return value or "all classes"


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.\-]", "_", text)
