"""How many electrons went where."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae.imaging.damage import fluence
from stem_ae.imaging.probe import Probe
from stem_ae.manipulate.beam import Region

FloatArray = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Spent:
    """The dose that a specimen has received.

    Parameters
    ----------
    scans : tuple of (Region, float)
        What was scanned, and with how many e/Å².
    exposures : tuple of ((2,) array, float)
        Where the beam rested, and with how many electrons.
    """

    scans: tuple[tuple[Region, float], ...] = ()
    exposures: tuple[tuple[FloatArray, float], ...] = ()

    @property
    def electrons(self) -> float:
        """All of them."""
        scanned = sum(dose * (x1 - x0) * (y1 - y0) for (x0, y0, x1, y1), dose in self.scans)
        return scanned + sum(electrons for _, electrons in self.exposures)

    def moved(self, shift: ArrayLike) -> Spent:
        """Return the same where the specimen has moved by ``shift``, ``(2,)`` in Å."""
        shift = np.asarray(shift, float)
        x, y = shift.tolist()
        return Spent(
            tuple(((x0 + x, y0 + y, x1 + x, y1 + y), dose) for (x0, y0, x1, y1), dose in self.scans),
            tuple((position + shift, electrons) for position, electrons in self.exposures),
        )


class DoseLedger:
    """Adds up scans and exposures. Positions are those of the specimen: of the first survey, drift taken off.

    Parameters
    ----------
    probe : Probe
        The beam, whose tails dose the surroundings of an exposure.
    before : Spent, optional
        What the specimen has had before, which counts.
    """

    def __init__(self, probe: Probe, before: Spent | None = None) -> None:
        before = before or Spent()
        self._probe = probe
        self._scans, self._exposures = list(before.scans), list(before.exposures)
        self.electrons = before.electrons
        """All of them."""

    @property
    def spent(self) -> Spent:
        """Everything that was entered, and what was before."""
        return Spent(tuple(self._scans), tuple(self._exposures))

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
