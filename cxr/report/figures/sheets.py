"""Pictures of images and maps, side by side on one axes: axes take far longer to make and draw than pictures."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from cxr.report.figures.style import FONT

Extent = tuple[float, float, float, float]
"""Where a picture lies: left, right, bottom, top, in the coordinates of its axes."""


def axes_at(figure: Figure, extent: Extent, *, at: tuple[float, float] = (0.0, 0.0)) -> Axes:
    """An axes over a part of a figure: `extent` is in inches to the right of `at` and below it.

    `at` itself is in inches from the figure's left and top.
    """
    left, right, bottom, top = extent
    wide, tall = figure.get_size_inches()
    return figure.add_axes(
        ((at[0] + left) / wide, 1 - (at[1] + bottom) / tall, (right - left) / wide, (bottom - top) / tall)
    )


def new_sheet(figure: Figure, extent: Extent, *, at: tuple[float, float] = (0.0, 0.0)) -> Axes:
    """An axes for pictures and texts, without a frame; its coordinates are the inches of `axes_at`."""
    axis = axes_at(figure, extent, at=at)
    axis.axis("off")
    axis.axis(extent)
    return axis


def picture(axis: Axes, image: np.ndarray, extent: Extent, colours: np.ndarray | None = None) -> AxesImage:
    """Draw an image, uint8 [h, w], and colours over it: RGBA from 0 to 1, [h, w, 4].

    They become one picture here, so that Matplotlib resamples one and not two.
    """
    shown = np.repeat(image[..., None], 3, axis=2)
    if colours is not None:
        alpha = colours[..., 3:]
        shown = np.rint((1 - alpha) * shown + 255 * alpha * colours[..., :3]).astype(np.uint8)
    return axis.imshow(shown, extent=extent, aspect="auto")


def heat() -> ScalarMappable:
    """The colours of maps, in every figure. NaN is transparent."""
    return ScalarMappable(Normalize(0, 1), "inferno")


def difference() -> ScalarMappable:
    """The colours of after minus before, in every figure."""
    return ScalarMappable(Normalize(-1, 1), "PuOr_r")


def colour_bar(axis: Axes, scale: ScalarMappable, label: str) -> None:
    """Fill an axes with the colours of a scale, from left to right, with its numbers and label below."""
    bar = axis.figure.colorbar(scale, cax=axis, orientation="horizontal")
    bar.set_label(label, fontsize=FONT, labelpad=2)
    bar.ax.tick_params(labelsize=FONT)
