"""The figure of example images with their maps: a grid of classes and rules."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from cxr.report.figures import sheets
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

    def _row_top(self, line: int) -> float:
        """Where the pictures of a row begin, below the text above them."""
        return self.top + self._row * line + 0.22

    def draw(self, figure: Figure, *, at: tuple[float, float], names: tuple[str, str]) -> None:
        """Draw the grid into `figure`, `at` inches from its left and top; `names` are those of the two maps."""
        tile, tall = self.tile, self.tall
        right, bottom = self.width - self._RIGHT, self._row_top(len(self.classes) - 1) + tall
        axis = sheets.new_sheet(figure, (self.left, right, bottom, self.top), at=at)
        heat = sheets.heat()
        style = {"ha": "center", "fontsize": FONT}
        for line, label in enumerate(self.classes):
            y = self._row_top(line)
            name = textwrap.fill(plain(label), 12, break_long_words=False)
            axis.text(self.left - 0.12, y + tall / 2, name, ha="right", va="center", fontsize=FONT)
            for block, rule in enumerate(self.rules):
                x = self.left + block * (3 * tile + self._GAP)
                middle = x + 1.5 * tile
                if line == 0:
                    axis.text(middle, self.top - 0.02, rule, ha="center", va="bottom", weight="bold", fontsize=9)
                panel = self.placed.get((label, rule))
                if panel is None:
                    axis.text(middle, y + tall / 2, "no such image", va="center", color="0.4", **style)
                    continue
                # the text belongs to all three pictures and may be wider than one of them
                axis.text(middle, y - 0.03, panel["text"], va="bottom", **style)
                lefts = [x + number * tile for number in range(3)]
                extents = [(left + 0.015, left + tile - 0.015, y + tall, y) for left in lefts]
                _example(axis, panel, extents, heat)
                if line == len(self.classes) - 1:
                    below = zip(lefts, ("image", *names), ("black", *SIDES.values()), strict=True)
                    for left, text, colour in below:
                        axis.text(left + tile / 2, y + tall + 0.035, text, va="top", color=colour, **style)
        inside = self.width - self.left
        start, y = self.left + 0.2 * inside, self.height - 0.48
        bar = sheets.axes_at(figure, (start, start + 0.5 * inside, y + 0.12, y), at=at)
        sheets.colour_bar(bar, heat, "attribution, min-max of each map; outlined: its strongest 20 %")


def _example(axis: Axes, panel: Mapping[str, Any], extents: Sequence[sheets.Extent], heat: ScalarMappable) -> None:
    """Draw an image, alone and under each of its maps, with the outlines; an empty map is named."""
    image = sheets.picture(axis, panel["image"], extents[0])
    for side, extent in zip(SIDES, extents[1:], strict=True):
        values = panel[side]
        picture = sheets.picture(axis, panel["image"], extent, heat.to_rgba(values, alpha=0.55))
        outline(values, side, [image, picture], width=1.0)
        if not np.isfinite(values).all():
            left, right, bottom, top = extent
            paper = {"facecolor": "black", "alpha": 0.6, "linewidth": 0}
            style = {"color": "white", "fontsize": FONT, "ha": "center", "va": "center", "bbox": paper}
            axis.text((left + right) / 2, (bottom + top) / 2, "empty\nmap", **style)
