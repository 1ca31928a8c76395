"""What is burned into an image: a side letter, or a token that may show the class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cxr.data.phantom.cases import Stream, random_stream
from cxr.data.phantom.coordinates import pixel_centres


class Marker(NamedTuple):
    """A marker, in the frame of the image (-1 to 1)."""

    glyph: str
    x: float  # centre
    y: float
    height: float
    brightness: float
    plate: bool = False  # black around the glyph


GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
    "disc": ("0011100", "0111110", "1111111", "1111111", "1111111", "0111110", "0011100"),
    "frame": ("1111111", "1000001", "1000001", "1000001", "1000001", "1000001", "1111111"),
    "cross": ("1000001", "0100010", "0010100", "0001000", "0010100", "0100010", "1000001"),
    "bars": ("1111111", "1111111", "0000000", "0000000", "0000000", "1111111", "1111111"),
    "triangle": ("0001000", "0001000", "0011100", "0011100", "0111110", "0111110", "1111111"),
}


TOKENS = ("disc", "frame", "cross", "bars", "triangle")  # one a class, in the order of CLASSES


def side_marker(seed: int, index: int) -> Marker | None:
    """The side marker of an image, or None. It has its own stream, so it is independent of the class."""
    rng = random_stream(seed, Stream.MARKER, index)
    if rng.random() < 0.25:
        return None
    letter = "LR"[rng.integers(2)]
    side = 1 if letter == "L" else -1  # on the patient's own side
    low = rng.random() < 0.15
    y = rng.uniform(0.76, 0.88) if low else rng.uniform(-0.90, -0.74)
    return Marker(letter, side * rng.uniform(0.74, 0.90), y, rng.uniform(0.08, 0.15), rng.uniform(0.65, 1.0))


def token(seed: int, index: int) -> Marker:
    """The token of an image with a random glyph. Its stream makes it independent of the class."""
    rng = random_stream(seed, Stream.MARKER, index)
    glyph = TOKENS[rng.integers(len(TOKENS))]
    area = rng.integers(3)
    if area == 2:  # below the diaphragm
        x, y = rng.uniform(-0.20, 0.20), rng.uniform(0.76, 0.80)
    else:
        x, y = (-1, 1)[area] * rng.uniform(0.76, 0.80), rng.uniform(-0.80, -0.76)
    return Marker(glyph, x, y, rng.uniform(0.38, 0.44), rng.uniform(0.8, 1.0), plate=True)


def burn_marker(image: np.ndarray, marker: Marker | None) -> np.ndarray:
    """Draw a marker into `image` [size, size], in place. Returns its bounding box as a mask, bool [size, size]."""
    if marker is None:
        return np.zeros(image.shape, bool)
    centres = pixel_centres(image.shape[0])
    glyph = np.array([[int(bit) for bit in row] for row in GLYPHS[marker.glyph]], np.float32)
    if marker.plate:
        glyph = np.pad(glyph, 1)  # a rim for the plate, as the abdomen is as bright as a glyph
    n_rows, n_columns = glyph.shape
    dot = marker.height / n_rows
    columns = _boxes(centres, marker.x - n_columns / 2 * dot, dot, n_columns)
    rows = _boxes(centres, marker.y - n_rows / 2 * dot, dot, n_rows)
    if marker.plate:
        image *= 1 - np.outer(rows.sum(axis=1), columns.sum(axis=1))
    ink = rows @ glyph @ columns.T
    # Ink replaces the image; a plate is already black.
    image += ink * (np.float32(marker.brightness) - (0 if marker.plate else image))
    return np.outer(rows.any(axis=1), columns.any(axis=1))


def _boxes(centres: np.ndarray, start: float, step: float, n: int) -> np.ndarray:
    """The share of each pixel that each of n adjoining intervals covers, float32 [len(centres), n]; exact at any
    size."""
    half = 1 / len(centres)
    low = start + step * np.arange(n)
    shared = np.minimum(centres[:, None] + half, low + step) - np.maximum(centres[:, None] - half, low)
    return (np.clip(shared, 0, None) / (2 * half)).astype(np.float32)
