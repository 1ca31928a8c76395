"""Figures. Maps that are compared share one fixed colour scale; intervals are drawn; colours are colour-blind-safe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

# Okabe and Ito's palette (2008): distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def contact_sheet(images: np.ndarray, titles: Sequence[str], *, columns: int = 8) -> Figure:
    """Grey images [n, h, w] (uint8) in rows of `columns`, all on the scale 0 to 255, each under its title."""
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.6 * columns, 1.8 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=7)
    figure.tight_layout(pad=0.4)
    return figure


def history(table: pd.DataFrame, curves: Mapping[str, str], *, ylabel: str) -> Figure:
    """Curves over epochs: `curves` maps a label to a column of `table`, which has the column `epoch`."""
    figure, axis = plt.subplots(figsize=(5, 3))
    for colour, (label, column) in zip(COLOURS, curves.items(), strict=False):
        axis.plot(table["epoch"], table[column], marker="o", markersize=3, color=colour, label=label)
    axis.set(xlabel="epoch", ylabel=ylabel)
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure
