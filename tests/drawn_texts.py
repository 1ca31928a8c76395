"""The texts of a figure as a reader sees them, for tests of figures."""

from unittest import mock

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

PAGE = 7.3  # inches: wider figures are made smaller, to fit a page


def drawn(figure: Figure) -> list[Text]:
    """All texts that are drawn, in the order in which they are; not those of hidden axes."""
    found = []
    draw = Text.draw

    def record(text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            found.append(text)
        return draw(text, renderer, *args, **kwargs)

    with mock.patch.object(Text, "draw", record):
        figure.canvas.draw()
    return list(dict.fromkeys(found))


def smallest(figure: Figure) -> float:
    """The smallest size of a drawn text, in points, when the figure is as wide as a page at most."""
    size = min(text.get_fontsize() for text in drawn(figure))
    return size * min(1.0, PAGE / figure.get_figwidth())


def faults(figure: Figure, *, touch: float = 1.5) -> list[str]:
    """Texts that lie on one another, by more than `touch` pixels, or beyond the figure's edge."""
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [(text.get_text(), _box(text)) for text in drawn(figure)]
    found = [
        f"{name!r} is cut off"
        for name, (low, high) in boxes
        if (low < -1).any() or (high > (width + 1, height + 1)).any()
    ]
    for number, (name, (low, high)) in enumerate(boxes):
        for other, (other_low, other_high) in boxes[:number]:
            if min(np.minimum(high, other_high) - np.maximum(low, other_low)) > touch:
                found.append(f"{name!r} lies on {other!r}")
    return found


def _box(text: Text) -> tuple[np.ndarray, np.ndarray]:
    """The lower left and the upper right corner of a text, in pixels; of a turned text its middle half."""
    box = text.get_window_extent()
    if text.get_rotation() % 90:
        box = box.expanded(0.5, 0.5)
    return box.min, box.max
