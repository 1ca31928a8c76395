"""One prepared map, with what several metrics need of it: its values, their sum and their order.

A metric that needs more of a map (a centroid, ranks, moments in windows) computes it in a function of its own and
asks for it through `Features.once`.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np


class Features:
    """What the metrics need of one prepared map (`cxr.metrics.map_grids.prepare`), each computed once, on demand.

    It is kept apart from the comparison: a map that is compared with several others (of the other checkpoint, of
    another image of its class, of another seed) is then sorted and filtered once.
    """

    def __init__(self, prepared: np.ndarray):
        """`prepared`: float32 [H, W], minimum 0 and maximum 1."""
        self.shape = prepared.shape
        self.flat32 = np.ascontiguousarray(prepared, dtype=np.float32).ravel()
        self.flat = self.flat32.astype(np.float64)
        self._computed: dict[tuple, Any] = {}

    @property
    def pixels(self) -> int:
        """Number of pixels, H W."""
        return self.flat.size

    @cached_property
    def total(self) -> float:
        """Sum of all values."""
        return float(self.flat.sum())

    @cached_property
    def order(self) -> np.ndarray:
        """int64 [H W]: pixel indices from the highest value to the lowest; among equal values the lower first.

        Bit patterns of floats >= 0 have the order of the floats. One 64-bit key of (inverted pattern, index)
        therefore turns a stable argsort into a plain sort, which NumPy vectorises: several times faster.
        """
        keys = (~self.flat32.view(np.uint32)).astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= np.arange(self.pixels, dtype=np.uint64)
        keys.sort()
        keys &= np.uint64(0xFFFFFFFF)
        return keys.view(np.int64)

    @cached_property
    def descending(self) -> np.ndarray:
        """float64 [H W]: the values from the highest to the lowest."""
        return self.flat[self.order]

    def once(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        """`compute(self, *arguments)`: computed at the first call and kept for the next ones.

        Parameters
        ----------
        compute : a function of a module, not a lambda: it is the key under which the result is kept.
        arguments : further arguments, hashable.
        """
        key = (compute, *arguments)
        if key not in self._computed:
            self._computed[key] = compute(self, *arguments)
        return self._computed[key]


def top_count(q: float, pixels: int) -> int:
    """Number of pixels in the top-q area: round(q * pixels), halves to the even side, at least 1."""
    return max(1, round(q * pixels))
