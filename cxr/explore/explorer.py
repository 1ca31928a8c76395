"""What is chosen (study, network, method, image, ...), and the images in the order of their drift."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from cxr import tracking
from cxr.core.errors import InputError, some
from cxr.core.methods import METHODS
from cxr.explore import runs
from cxr.explore.view import View, gather
from cxr.metrics.metric_table import METRICS
from cxr.report import scores
from cxr.tracking import StoredRun

AXES = ("study", "architecture", "seed", "method", "variant", "metric", "label", "image_id")
"""What is chosen, in this order. The options of each depend on the choices before it."""


class NothingToShow(InputError):
    """There is no finished study. A notebook shows the message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints instead of the traceback, which would hide what to do."""
        return [f"Nothing to show: {self}"]


class Explorer:
    """What is chosen, and the images in the order of their drift.

    `choice` maps each of AXES to a value. Change it with `choose`, `step`, `go_to` and `find`.
    """

    def __init__(self, study: str = "", *, metric: str = "overlap") -> None:
        """
        Args:
            study: the name of the study (the MLflow experiment); empty: the one with the newest score run.
            metric: images are ranked by this metric at first; a key of `metric_table.METRICS`.

        Raises:
            NothingToShow: the store holds no finished score run.
            InputError: there is no such study or metric.
        """
        self._studies = tracking.experiments_with("score")
        if not self._studies:
            raise NothingToShow(
                f"no finished study in {tracking.resolve()}: run `make study` first, or name the store that has "
                "one in MLFLOW_TRACKING_URI"
            )
        if study and study not in self._studies:
            raise InputError(
                f"name: no finished score run in the experiment '{study}': choose one of {some(self._studies)}, "
                "or leave it empty for the newest"
            )
        if metric not in METRICS:
            raise InputError(f"primary_metric: unknown metric '{metric}': known are {', '.join(METRICS)}")
        self._runs: dict[str, dict[tuple[str, ...], StoredRun]] = {}
        self.choice: dict[str, str] = {}
        self.choose(study=study or self._studies[0], metric=metric)

    # ------------------------------------------------------------------------------------------ choosing

    def choose(self, **wanted: str) -> None:
        """Choose values of AXES. The other choices stay if they are still possible; if not, each becomes the first
        of its options. So the same image stays in view when the architecture or the method changes.

        Raises: InputError: an axis or a value does not exist; the choice is then unchanged.
        """
        unknown = set(wanted) - set(AXES)
        if unknown:
            raise InputError(f"cannot choose {some(sorted(unknown))}: known are {', '.join(AXES)}")
        choice: dict[str, str] = {}
        for axis in AXES:
            options = self._options(axis, choice)
            if axis in wanted and wanted[axis] not in options:
                raise InputError(f"{axis}: '{wanted[axis]}' is not among {some(options)}")
            value = wanted.get(axis, self.choice.get(axis))
            choice[axis] = value if value in options else next(iter(options))
        self.choice = choice

    def options(self, axis: str) -> list[str]:
        """The options of an axis, given the choices before it. Images: from the most drift to the least."""
        return list(self._options(axis, self.choice))

    def _options(self, axis: str, choice: Mapping[str, str]) -> Mapping[str, int] | list[str]:
        if axis == "study":
            return self._studies
        cells = self._cells(choice["study"])
        if axis in ("architecture", "seed", "method"):
            place = ("architecture", "seed", "method").index(axis)
            before = tuple(choice[name] for name in ("architecture", "seed", "method")[:place])
            found = dict.fromkeys(key[place] for key in cells if key[:place] == before)
            return list(found)
        run = self._run(choice)
        if axis == "variant":
            return ["default", *runs.variants(run)]
        table = runs.scores(run.run_id, choice["variant"])
        if axis == "metric":
            return [name for name in METRICS if name in table]
        if axis == "label":
            return ["", *sorted(set(table["label"]))]
        return runs.order(run.run_id, choice["variant"], choice["metric"], choice["label"])

    def _cells(self, study: str) -> dict[tuple[str, ...], StoredRun]:
        """The score runs of a study by architecture, seed and method."""
        if study not in self._runs:
            found = {run.run_id: run for run in tracking.find("score", experiment=study)}
            runs = [found[key] for key in scores.latest_cells(list(found.values()))]
            cells = {tuple(run.params[name] for name in ("architecture", "seed", "method")): run for run in runs}
            self._runs[study] = dict(sorted(cells.items(), key=_cell_order))
        return self._runs[study]

    def _run(self, choice: Mapping[str, str]) -> StoredRun:
        cells = self._cells(choice["study"])
        return cells[choice["architecture"], choice["seed"], choice["method"]]

    @property
    def run(self) -> StoredRun:
        """The score run that is shown."""
        return self._run(self.choice)

    # --------------------------------------------------------------------------------------------- ranking

    @property
    def order(self) -> list[str]:
        """Images from the most drift to the least, by the chosen metric and within the chosen class.

        For metrics without a direction of stability, the size of the change counts. Of equal values the lower id
        comes first. Images with an empty map have no rank and come last.
        """
        return self.options("image_id")

    @property
    def place(self) -> int:
        """The place of the chosen image in `order`, from 1."""
        return self._options("image_id", self.choice)[self.choice["image_id"]] + 1

    def step(self, by: int) -> None:
        """Go `by` places towards less drift (1: the next-most-drifted image), or, if negative, towards more. It
        stops at the ends."""
        self.go_to(min(max(self.place + by, 1), len(self.order)))

    def go_to(self, place: int) -> None:
        """Show the image at a place of `order`, from 1. Raises InputError if there is no such place."""
        order = self.order
        if not 1 <= place <= len(order):
            raise InputError(f"place {place}: choose one of the places 1 to {len(order)}")
        self.choose(image_id=order[place - 1])

    def find(self, text: str) -> None:
        """Show the image with this id; or else the most drifted image, in any class, whose id contains `text`.

        Raises: InputError: there is none.
        """
        every = runs.order(self.run.run_id, self.choice["variant"], self.choice["metric"], "")
        text = text.strip()
        found = text if text in every else next((key for key in every if text and text in key), None)
        if found is None:
            scored = "those that both checkpoints classify correctly"
            scored = scored if self.run.params["images"] == "correct" else "all of the split"
            raise InputError(
                f"no scored image has '{text}' in its id: scored images are {scored}, such as {next(iter(every))}"
            )
        here = found in self._options("image_id", self.choice)
        self.choose(image_id=found, **({} if here else {"label": ""}))

    def ranking(self) -> pd.DataFrame:
        """`order` as a table: place, image_id, label, patient_id, and the metrics that the run has."""
        table = runs.scores(self.run.run_id, self.choice["variant"]).loc[self.order].reset_index()
        table.insert(0, "place", range(1, len(table) + 1))
        names = [name for name in METRICS if name in table]
        return table[["place", "image_id", "label", "patient_id", *names]]

    # ------------------------------------------------------------------------------------------- showing

    def view(self, *, q: float = 0.20, grid: str = "image") -> View:
        """All there is to show of the chosen image: see `cxr.explore.view.gather`."""
        return gather(self.run, self.choice, q=q, grid=grid)


def _cell_order(item: tuple[tuple[str, ...], StoredRun]) -> tuple[str, int, int]:
    """Seeds by number, methods as the parameters list them."""
    architecture, seed, method = item[0]
    return architecture, int(seed), METHODS.index(method)
