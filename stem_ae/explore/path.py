"""The beam's way between measurements: how far it goes, in which order, and where it must not come again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

APART = 1.0
"""Å between two exposures, if nothing else is said.

About the diameter of a corrected probe with its source size, so that no exposure adds to the dose of another one; less
than atomic columns are apart, so that each of them may be measured.
"""


def within(points: FloatArray, places: FloatArray, radius: float) -> NDArray[np.bool_]:
    """Return for each of ``points (N, 2)`` whether it lies closer than ``radius`` to one of ``places (n, 2)``, in Å.

    The same place is always too close, and points of a grid whose step is ``radius`` never are.
    """
    near = np.zeros(len(points), dtype=bool)
    limit = max(radius * (1 - 1e-9), 1e-9)
    for place in places:
        near |= np.hypot(*(points - place).T) < limit
    return near


def gain_less_travel(gain: FloatArray, distance: FloatArray, open_: NDArray[np.bool_], weight: float) -> FloatArray:
    """Return the gain, scaled so that the median of the open candidates is 0 and the best is 1, less the travel.

    ``weight`` is what a move across the longest distance costs: with 0.5, a place half as good as the best is taken
    if it is near and the best is at the far end.
    """
    middle, best = np.median(gain[open_]), gain[open_].max()
    scaled = (gain - middle) / (best - middle if best > middle else 1.0)
    longest = distance[open_].max()
    return scaled - weight * distance / (longest if longest > 0 else 1.0)


def length(route: FloatArray) -> float:
    """Return the length of a route through ``(n, 2)`` places, in their unit."""
    return float(np.hypot(*np.diff(route, axis=0).T).sum())


def short_route(places: FloatArray, start: FloatArray) -> IntArray:
    """Return an order in which to visit ``places (n, 2)`` from ``start``, open-ended: nearest neighbour, then 2-opt.

    For the ten or twenty places of a batch this is within a few per cent of the shortest route.
    """
    points = np.vstack([start, places])
    distance = np.hypot(*np.moveaxis(points[:, None] - points[None], -1, 0))
    left, order = set(range(1, len(points))), [0]
    while left:
        order.append(min(left, key=lambda k: distance[order[-1], k]))
        left.remove(order[-1])
    improved = True
    while improved:
        improved = False
        for i in range(1, len(order) - 1):
            for j in range(i + 1, len(order)):
                before, a, b = order[i - 1], order[i], order[j]
                after = order[j + 1] if j + 1 < len(order) else None
                gained = distance[before, a] - distance[before, b]
                gained += distance[b, after] - distance[a, after] if after is not None else 0.0
                if gained > 1e-9:
                    order[i : j + 1] = reversed(order[i : j + 1])
                    improved = True
    return np.array(order[1:], dtype=np.int64) - 1
