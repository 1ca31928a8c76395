"""The texts of a figure as a reader sees them, for tests of figures."""

from dataclasses import dataclass
from unittest import mock

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

PAGE = 7.3  # inches: wider figures are made smaller, to fit a page


@dataclass(frozen=True)
class Drawn:
    """What was drawn of a figure: its texts, their sizes in points on a page, and their corners in pixels."""

    texts: list[str]
    sizes: list[float]
    boxes: np.ndarray  # [n, 4]: left, bottom, right, top; of a turned text its middle half
    size: np.ndarray  # width and height of the figure in pixels

    @property
    def smallest(self) -> float:
        return min(self.sizes)

    def faults(self, *, touch: float = 1.5) -> list[str]:
        """Texts that lie on one another, by more than `touch` pixels, or beyond the figure's edge."""
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        beyond = (low < -1).any(axis=1) | (high > self.size + 1).any(axis=1)
        found = [f"{self.texts[number]!r} is cut off" for number in np.flatnonzero(beyond)]
        shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
        pairs = np.argwhere(np.tril((shared > touch).all(axis=2), -1))
        return found + [f"{self.texts[a]!r} lies on {self.texts[b]!r}" for a, b in pairs]


def drawn(figure: Figure) -> Drawn:
    """All texts that are drawn, in the order in which they are; not those of hidden axes."""
    found: dict[Text, np.ndarray] = {}
    draw = Text.draw

    def record(text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent(renderer)
            found[text] = (box.expanded(0.5, 0.5) if text.get_rotation() % 90 else box).extents
        return draw(text, renderer, *args, **kwargs)

    with mock.patch.object(Text, "draw", record):
        figure.canvas.draw()
    scale = min(1.0, PAGE / figure.get_figwidth())
    return Drawn(
        texts=[text.get_text() for text in found],
        sizes=[text.get_fontsize() * scale for text in found],
        boxes=np.array([*found.values()]).reshape(-1, 4),
        size=figure.get_size_inches() * figure.dpi,
    )
