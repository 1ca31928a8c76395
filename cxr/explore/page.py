"""The widgets of `explore.ipynb`: they change what is chosen, and show its picture and its tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape

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
# By what is chosen: the dropdown's name, its tooltip and its width in pixels.
_AXES = {
    "study": ("study", "the MLflow experiment", 170),
    "architecture": ("network", "the architecture of the network", 215),
    "seed": ("seed", "the seed of the training", 110),
    "method": ("method", "attribution method", 210),
    "variant": (
        "maps at",
        "the layer or the definition of the maps: the one that was scored, or another one",
        285,
    ),
    "metric": ("rank by", "images are ranked by this metric, from the most drift to the least", 390),
    "label": ("class", "rank only the images of this class", 240),
}


class Page:
    """Widgets around an `Explorer`. A notebook displays `widget`.

    Each change of a widget changes the explorer, updates all widgets and draws the picture again. If something
    cannot be shown (an artifact is missing, say), a message beside the buttons says so, and the picture is empty.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self._following = False  # true while widgets are set from the explorer: their changes are not a person's
        self.axes = {
            axis: widgets.Dropdown(description=name, tooltip=tooltip, style=_NAMED, layout=_wide(width))
            for axis, (name, tooltip, width) in _AXES.items()
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
        """Display the current view as a picture and tables that need no kernel and no widgets."""
        from IPython.display import HTML, Image, display

        display(Image(self.picture.value), HTML(self.notes.value + self.table.value))

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
        """Call `act` with each value that a person gives the widget, and show the result."""

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
        """Write the picture at 200 dots per inch beside the study's report. Its name says what is shown."""
        name = "{architecture}_s{seed}_{method}_{variant}_{image_id}".format_map(self.explorer.choice)
        study = tracking.project() / "mlruns" / "studies" / _file_name(self.explorer.choice["study"])
        path = study / "explore" / f"{_file_name(name)}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(self._figure(self._view()), dpi=200))
            self.message.value = f"saved: <code>{escape(str(path))}</code>"
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
    """An option of an axis, in words."""
    if axis == "method":
        return METHOD_LABELS[value]
    if axis == "metric":
        return METRICS[value].label
    if axis == "variant":
        return variant_in_words(value, layers(explorer.run)[value])
    return value or "all classes"


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.\-]", "_", text)
