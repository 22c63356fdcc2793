"""The drift of a specimen, estimated from where it was found: at any time, with its uncertainty."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Find = tuple[float, ...]
"""Time in seconds, x and y in Å, and their error in Å if it is not :data:`ERROR`."""

FASTEST = 0.3
"""Å/s: standard deviation per axis of the drift's velocity before it was measured (18 Å/min)."""
ERROR = 0.08
"""Å: standard deviation per axis of a find whose own is not known."""
_LASTING_S = 60.0  # the time in which a drift changes by half of itself ...
_UNSTEADY = 0.003  # Å/s: ... or by this, if it is hardly there
_SURPRISE = 5.0  # standard deviations: a find so far off resets the estimate of the velocity


@dataclasses.dataclass(frozen=True)
class Motion:
    """The estimate of the drift since the last find: the state of a Kalman filter.

    The velocity changes by chance (white acceleration), by about half of itself in a minute. A find that is far from
    what was expected says that the velocity was not what it was believed to be.
    """

    time_s: float
    place: FloatArray
    """``(2,)`` in Å at that time."""
    velocity: FloatArray
    """``(2,)`` in Å/s."""
    covariance: FloatArray
    """Of place and velocity along each axis, ``(2, 2)``."""
    was_surprising: bool = False
    """Whether the last find was far from its expected place."""

    @classmethod
    def of(cls, finds: Sequence[Find], fastest: float = FASTEST) -> Motion:
        """Return the estimate from finds in order of time, at least one."""
        (time_s, x, y, *_), *later = finds
        # The first one is where the drift counts from: it is known, whatever its own error, which the others share.
        motion = cls(time_s, np.array([x, y], float), np.zeros(2), np.diag([0.0, fastest**2]))
        for when, x, y, *error in later:
            motion = motion._found(when, np.array([x, y], float), error[0] if error else ERROR)
        return motion

    def _found(self, time_s: float, place: FloatArray, error: float) -> Motion:
        now = self.at(time_s)
        off = place - now.place
        elapsed = time_s - self.time_s
        is_surprising = float(np.abs(off).max()) > _SURPRISE * math.hypot(now.deviation, error)
        covariance = now.covariance
        if is_surprising and elapsed > 0:
            change = float(np.abs(off).max())
            covariance = covariance + change**2 * np.array([[1.0, 1 / elapsed], [1 / elapsed, 1 / elapsed**2]])
        gain = covariance[0] / (covariance[0, 0] + error**2)
        return Motion(
            time_s, now.place + gain[0] * off, now.velocity + gain[1] * off,
            covariance - np.outer(gain, covariance[0]), is_surprising,
        )  # fmt: skip

    def at(self, time_s: float) -> Motion:
        """Return the prediction for a later time."""
        dt = max(time_s - self.time_s, 0.0)
        step = np.array([[1.0, dt], [0.0, 1.0]])
        speed2 = 0.25 * float(self.velocity @ self.velocity) + _UNSTEADY**2
        unrest = speed2 / _LASTING_S * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
        return Motion(
            max(time_s, self.time_s), self.place + dt * self.velocity, self.velocity,
            step @ self.covariance @ step.T + unrest, self.was_surprising,
        )  # fmt: skip

    @property
    def deviation(self) -> float:
        """Standard deviation of the place along each axis, in Å."""
        return math.sqrt(self.covariance[0, 0])
