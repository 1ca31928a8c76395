"""The figure of example images with their maps: a grid of classes and rules."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.report.figures.areas import SIDES, outline
from cxr.report.figures.style import FONT, WIDTH, plain


def examples(panels: Sequence[Mapping[str, object]], *, title: str = "") -> Figure:
    """Example images chosen by rule: a row a class, and for each rule image, map before and map after.

    Parameters
    ----------
    panels : dicts with class, rule (such as "least drift"), image (uint8 [h, w]), before and after (maps
        [h, w] in [0, 1]; NaN for an empty map, which is labelled), text (id and value; shown above the three).
        Classes and rules keep the order of `panels`; where a class has no panel for a rule, the figure says so.
    title : of the whole figure.

    All maps are on one colour scale, 0 to 1. The strongest 20 % of each map is outlined on it, and those of both
    maps on the image.
    """
    block = ExampleGrid.of(panels, top=0.62 if title else 0.38)
    figure = plt.figure(figsize=(block.width, block.height))
    block.draw(figure, at=(0.0, 0.0), names=("before", "after"))
    figure.suptitle(title, fontsize=9.5, weight="bold", y=1 - 0.08 / block.height, va="top")
    return figure


@dataclass(frozen=True)
class ExampleGrid:
    """Example images, laid out in inches, to be drawn anywhere in a figure."""

    placed: dict[tuple[str, str], Mapping[str, object]]  # by class and rule
    left: float
    top: float
    tile: float  # the width of an image
    tall: float  # its height

    _RIGHT: ClassVar[float] = 0.1
    _BOTTOM: ClassVar[float] = 0.85
    _GAP: ClassVar[float] = 0.1

    @classmethod
    def of(cls, panels: Sequence[Mapping[str, object]], *, top: float = 0.38) -> ExampleGrid:
        placed = {(panel["class"], panel["rule"]): panel for panel in panels}
        height, width = np.shape(panels[0]["image"])
        longest = max(len(word) for label, _ in placed for word in plain(label).split())
        left = float(np.clip(0.15 + 0.065 * longest, 0.5, 1.6))
        rules = len({rule for _, rule in placed})
        tile = min((WIDTH - left - cls._RIGHT - cls._GAP * (rules - 1)) / (3 * rules), 1.9)
        return cls(placed, left, top, tile, tile * height / width)

    @property
    def classes(self) -> list[str]:
        return list(dict.fromkeys(label for label, _ in self.placed))

    @property
    def rules(self) -> list[str]:
        return list(dict.fromkeys(rule for _, rule in self.placed))

    @property
    def width(self) -> float:
        return self.left + self._RIGHT + 3 * self.tile * len(self.rules) + self._GAP * (len(self.rules) - 1)

    @property
    def height(self) -> float:
        return self.top + self._row * len(self.classes) + self._BOTTOM

    @property
    def _row(self) -> float:
        return self.tall + 0.26

    def draw(self, figure: Figure, *, at: tuple[float, float], names: tuple[str, str]) -> None:
        """Draw the grid into `figure`, `at` inches from its left and top; `names` are those of the two maps."""
        size = figure.get_size_inches()
        tile, tall = self.tile, self.tall

        def spot(x: float, y: float) -> tuple[float, float]:
            """A point at inches from the left and from the top."""
            return (at[0] + x) / size[0], 1 - (at[1] + y) / size[1]

        def place(x: float, y: float, wide: float, high: float) -> Axes:
            return figure.add_axes((*spot(x, y + high), wide / size[0], high / size[1]))

        heat = plt.cm.ScalarMappable(plt.Normalize(0, 1), "inferno")
        for line, label in enumerate(self.classes):
            y = self.top + self._row * line + 0.22
            name = textwrap.fill(plain(label), 12, break_long_words=False)
            figure.text(*spot(self.left - 0.12, y + tall / 2), name, ha="right", va="center", fontsize=FONT)
            for block, rule in enumerate(self.rules):
                x = self.left + block * (3 * tile + self._GAP)
                middle = x + 1.5 * tile
                if line == 0:
                    figure.text(
                        *spot(middle, self.top - 0.02), rule, ha="center", va="bottom", weight="bold", fontsize=9
                    )
                panel = self.placed.get((label, rule))
                if panel is None:
                    style = {"ha": "center", "va": "center", "fontsize": FONT, "color": "0.4"}
                    figure.text(*spot(middle, y + tall / 2), "no such image", **style)
                    continue
                # the text belongs to all three pictures and may be wider than one of them
                figure.text(*spot(middle, y - 0.03), panel["text"], ha="center", va="bottom", fontsize=FONT)
                for number, part in enumerate(("image", "before", "after")):
                    axis = place(x + number * tile + 0.015, y, tile - 0.03, tall)
                    _example(axis, panel["image"], None if part == "image" else panel[part], heat)
                    for side in SIDES if part == "image" else (part,):
                        outline(axis, np.asarray(panel[side], float), side, width=1.0)
                    if line == len(self.classes) - 1:
                        text, colour = (("image", "black"), *zip(names, SIDES.values(), strict=True))[number]
                        axis.set_xlabel(text, fontsize=FONT, labelpad=2, color=colour)
        inside = self.width - self.left
        below = place(self.left + 0.2 * inside, self.height - 0.48, 0.5 * inside, 0.12)
        bar = figure.colorbar(heat, cax=below, orientation="horizontal")
        bar.set_label("attribution, min-max of each map; outlined: its strongest 20 %", fontsize=FONT, labelpad=2)
        bar.ax.tick_params(labelsize=FONT)


def _example(axis: Axes, image: np.ndarray, values: np.ndarray | None, heat: plt.cm.ScalarMappable) -> None:
    """Draw an image, and a map over it where there is one; an empty map is named."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    shape = np.shape(image)
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    axis.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
    if values is None:
        return
    values = np.asarray(values, float)
    if np.isfinite(values).all():
        axis.imshow(values, cmap=heat.cmap, norm=heat.norm, alpha=0.55, extent=extent, aspect="auto")
    else:
        paper = {"facecolor": "black", "alpha": 0.6, "linewidth": 0}
        style = {"color": "white", "fontsize": FONT, "ha": "center", "va": "center", "bbox": paper}
        axis.text(0.5, 0.5, "empty\nmap", transform=axis.transAxes, **style)
