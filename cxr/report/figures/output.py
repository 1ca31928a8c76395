"""A figure as a picture: shown in a notebook, or as an array."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure


def show(figure: Figure) -> None:
    """Display a figure in a notebook and close it.

    As an image, for with `MPLBACKEND=Agg` in the environment `plt.show()` would show nothing.
    """
    from IPython.display import Image, display

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    display(Image(buffer.getvalue()))


def pixels(figure: Figure, *, dpi: int = 90) -> np.ndarray:
    """A figure as uint8 [h, w, 3], for MLflow's image grid; the figure is closed."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    array = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return array
