"""How many electrons went where."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae.imaging.damage import fluence
from stem_ae.imaging.probe import Probe
from stem_ae.manipulate.beam import Region

FloatArray = NDArray[np.float64]


class DoseLedger:
    """Adds up scans and exposures. Positions are those of the specimen: of the first survey, drift taken off.

    Parameters
    ----------
    probe : Probe
        The beam, whose tails dose the surroundings of an exposure.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._scans: list[tuple[Region, float]] = []
        self._exposures: list[tuple[FloatArray, float]] = []
        self.electrons = 0.0
        """All of them."""

    def scanned(self, region: Region, dose: float) -> None:
        """Enter a scan of a region with a dose in e/Å²."""
        self._scans.append((region, dose))
        self.electrons += dose * (region[2] - region[0]) * (region[3] - region[1])

    def exposed(self, position: ArrayLike, electrons: float) -> None:
        """Enter an exposure of a point."""
        self._exposures.append((np.asarray(position, float), electrons))
        self.electrons += electrons

    def at(self, points: ArrayLike) -> FloatArray:
        """Return the dose so far in e/Å² at points ``(N, 2)``."""
        points = np.asarray(points, float).reshape(-1, 2)
        dose = np.zeros(len(points))
        for (x0, y0, x1, y1), scanned in self._scans:
            x, y = points.T
            dose += scanned * ((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
        for position, electrons in self._exposures:
            dose += electrons * fluence(self._probe, (0.0, 0.0), points - position)
        return dose

    def allowance(self, position: FloatArray, points: FloatArray, local_dose: float) -> float:
        """Return how many electrons may go to a position until one of the points ``(N, 2)`` has this dose in e/Å²."""
        left = np.maximum(local_dose - self.at(points), 0.0)
        per_electron = fluence(self._probe, (0.0, 0.0), points - position)
        reached = per_electron > 0
        return float(np.min(left[reached] / per_electron[reached], initial=np.inf))
