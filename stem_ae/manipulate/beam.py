"""What a manipulation needs of an instrument, and the values that pass between the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.imaging.probe import Probe

FloatArray = NDArray[np.float64]
READING_S = 1e-3
"""Seconds: what an instrument is asked for whose readings come one by one through Python.

Shorter ones would hold up the user interface, and gain little beside a blanker that takes as long.
"""
Region = tuple[float, float, float, float]
"""x0, y0, x1, y1 in Å."""


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """Readings that came in together.

    Parameters
    ----------
    counts : (n,) array
        Detected electrons of each reading, in order; none if the stream has broken off.
    exposure_s : (n,) array
        Length of each in seconds.
    """

    counts: FloatArray
    exposure_s: FloatArray

    def __getitem__(self, which: slice) -> Counts:
        """Return some of them."""
        return Counts(self.counts[which], self.exposure_s[which])

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        """Yield the counts and the seconds of each."""
        return zip(self.counts.tolist(), self.exposure_s.tolist(), strict=True)


NO_COUNTS = Counts(np.zeros(0), np.zeros(0))


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """One image.

    Parameters
    ----------
    image : (H, W) array
        Detected electrons per pixel.
    sampling : float
        Å per pixel.
    origin : (2,) array
        Centre of the first pixel, x and y in Å in the survey image; zero for the survey itself.
    start_s : float
        When it began, on the beam's clock.
    line_s : float
        Seconds from line to line.
    electrons : float
        Electrons that each pixel received.
    problem : str
        Why it is not usable, though the specimen was exposed; empty if it is. See :mod:`stem_ae.microscope.usable`.
    """

    image: FloatArray
    sampling: float
    origin: FloatArray
    start_s: float
    line_s: float
    electrons: float
    problem: str = ""

    @property
    def dose(self) -> float:
        """Electrons per Å²."""
        return self.electrons / self.sampling**2

    @property
    def region(self) -> Region:
        """What it covers, in Å in the survey image."""
        left, top = self.origin - self.sampling / 2
        height, width = np.multiply(self.image.shape, self.sampling)
        return float(left), float(top), float(left + width), float(top + height)

    def times_s(self, atoms: Atoms2D) -> FloatArray:
        """Return when each atom found in it was scanned, ``(N,)`` on the beam's clock."""
        times: FloatArray = self.start_s + (atoms.positions[:, 1] / self.sampling + 0.5) * self.line_s
        return times


class Beam(Protocol):
    """An instrument with a scanned, blankable beam and a detector whose electrons are counted.

    Positions are in Å as the survey image has them: x, y (down) from the centre of its first pixel. What drifts is the
    specimen; positions given here are where the beam goes. :meth:`blank` may be called from any thread at any time.

    A beam of a microscope that others use as well has its ``interlock``
    (:class:`~stem_ae.microscope.interlock.Interlock`), which then commands the blanker.
    """

    @property
    def is_blanked(self) -> bool:
        """Whether the beam is off the specimen, as read."""
        ...

    @property
    def current_pa(self) -> float:
        """Beam current in pA."""
        ...

    @property
    def probe(self) -> Probe:
        """The focused beam."""
        ...

    @property
    def readings_s(self) -> tuple[float, float]:
        """Lengths of the shortest and the longest reading that have to be expected, in seconds."""
        ...

    def now(self) -> float:
        """Return the time in seconds on the clock that everything here goes by."""
        ...

    def blank(self) -> Counts:
        """Take the beam off the specimen and return the readings complete until then that were not read yet."""
        ...

    def unblank(self) -> None:
        """Let the beam onto the specimen, where it is parked."""
        ...

    def park(self, position: FloatArray | None) -> None:
        """Point the beam at a position, ``(2,)`` in Å; None: to where it does no harm."""
        ...

    def read(self) -> Counts:
        """Wait some milliseconds and return the readings of that time; none if the stream has broken off."""
        ...

    def survey(self, dose: float) -> Scan:
        """Scan the whole field with a dose in e/Å². The beam is unblanked already, and is where it was afterwards."""
        ...

    def scan(self, region: Region, dose: float) -> Scan:
        """Scan a part of the field with a dose in e/Å², likewise."""
        ...
