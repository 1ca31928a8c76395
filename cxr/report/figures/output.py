"""A figure as an array."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure


def pixels(figure: Figure, *, dpi: int = 90) -> np.ndarray:
    """A figure as uint8 [h, w, 3], for MLflow's image grid. Closes the figure."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    array = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return array
