"""A :class:`~stem_ae.manipulate.beam.Beam` on the virtual microscope: for rehearsals, statistics and tests."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Rest, ScanFrame, VirtualMicroscope
from stem_ae.manipulate.beam import NO_COUNTS, Counts, Region, Scan

FloatArray = NDArray[np.float64]

_NEAR = 8.0  # Å: atoms farther from the beam do not count
_SAME_PLACE = 0.01  # Å: the signal is worked out anew when the beam is farther from where it was
_ASIDE = (-0.5, -0.5)  # a fraction of the field
_FLY_BACK = 0.2  # of a line's time


class SimulatedClock:
    """A clock that goes on when it is told to, so that a simulation takes as long as its arithmetic."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Return seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class VirtualBeam:
    """The beam of a virtual microscope whose clock is a :class:`SimulatedClock`.

    Parameters
    ----------
    microscope : VirtualMicroscope
        The specimen and its conditions.
    clock : SimulatedClock
        The microscope's.
    field : ScanField
        What the survey covers.
    column : stem_ae.imaging.virtual_microscope.Beam
        Energy, angle, current.
    sampling : float
        Å per pixel of all scans.
    reading_s, read_s : float
        Length of one reading, and of the time from one :meth:`read` to the next.
    blanker_s : float
        How long the blanker takes.
    seed : int
        Of the counts.
    """

    def __init__(
        self,
        microscope: VirtualMicroscope,
        clock: SimulatedClock,
        field: ScanField,
        column: Column,
        sampling: float = 0.2,
        reading_s: float = 1e-4,
        read_s: float = 1e-3,
        blanker_s: float = 1e-3,
        seed: int = 0,
    ) -> None:
        for name, value in (("sampling", sampling), ("reading_s", reading_s), ("read_s", read_s)):
            checks.positive(value, name)
        checks.number(blanker_s, "blanker_s", least=0.0, unit="s")
        if microscope.clock is not clock:
            raise StemAeError("The virtual microscope goes by another clock: give both the same one.")
        self.microscope = microscope
        self.is_blanked = True
        self._clock, self._field, self._column, self._sampling = clock, field, column, sampling
        self._reading_s, self._read_s, self._blanker_s = reading_s, read_s, blanker_s
        self._rng = np.random.default_rng(seed)
        self._lock = threading.RLock()
        self._place = _ASIDE
        self._scanning = False
        self._signal: tuple[object, FloatArray, float] | None = None

    @property
    def current_pa(self) -> float:
        """Beam current in pA."""
        return self._column.current_pa

    @property
    def probe(self) -> AberratedProbe:
        """The focused beam."""
        return self._column.probe(self.microscope.conditions.source_sigma, self._field.rotation)

    @property
    def readings_s(self) -> tuple[float, float]:
        """Length of one reading, twice."""
        return self._reading_s, self._reading_s

    def now(self) -> float:
        """Return the time in seconds."""
        return self._clock()

    # --- a resting beam ---------------------------------------------------------------------------------------------

    def park(self, position: FloatArray | None) -> None:
        """Point the beam at a position, or beside the field."""
        with self._lock:
            if position is None:
                self._place = _ASIDE
            else:
                x, y = (np.asarray(position, float) + self._sampling / 2) / self._field.fov
                self._place = float(x), float(y)
            self._rest()

    def unblank(self) -> None:
        """Let the beam onto the specimen."""
        with self._lock:
            self.is_blanked = False
            self._rest()

    def blank(self) -> Counts:
        """Take the beam off; until the blanker has done so there are readings."""
        with self._lock:
            if self.is_blanked:
                return NO_COUNTS
            counts = NO_COUNTS if self._scanning else self._count(self._blanker_s)
            self.is_blanked = True
            self._rest()
            return counts

    def _rest(self) -> None:
        is_resting = not (self.is_blanked or self._scanning)
        self.microscope.rest(Rest(self._field, self._place, self._column) if is_resting else None)

    def read(self) -> Counts:
        """Return the readings of the next millisecond."""
        with self._lock:
            return NO_COUNTS if self.is_blanked else self._count(self._read_s)

    def _count(self, seconds: float) -> Counts:
        """Let the beam stand for a time in which atoms may leave, and count."""
        reading_s = self._reading_s
        n = max(round(seconds / reading_s), 1)
        start, before, known = self.now(), self._rate(), self._events()
        self._clock.advance(n * reading_s)
        self.microscope.advance()
        expected = np.full(n, before * reading_s)
        for time_s in self._events()[len(known) :]:
            after = self._rate()  # several in one millisecond are seen as one step
            share = np.clip((time_s - start) / reading_s - np.arange(n), 0, 1)
            expected = reading_s * (share * before + (1 - share) * after)
        return Counts(self._rng.poisson(expected).astype(float), np.full(n, reading_s))

    def _events(self) -> list[float]:
        """Return when the beam has changed the specimen."""
        microscope = self.microscope
        return sorted([e.time_s for e in microscope.ejections] + [e.time_s for e in microscope.exchanges])

    def _rate(self) -> float:
        """Return the detected electrons per second with the beam where it is."""
        microscope = self.microscope
        place = self._field.moved(microscope.drift()).to_specimen(self._place)
        specimen, conditions = microscope.specimen, microscope.conditions
        if self._signal is not None:
            known, where, rate = self._signal
            if known is specimen and np.linalg.norm(where - place) < _SAME_PLACE:
                return rate
        away = specimen.positions[:, :2] - place
        near = np.linalg.norm(away, axis=1) < _NEAR
        weights = cross_section(specimen.numbers[near])
        blur = conditions.thermal_sigma
        fraction = float(expected_fraction(away[near], weights, (1, 1), 0.1, self.probe, blur)[0, 0])
        rate = self._column.electrons(1.0) * (fraction + conditions.background)
        self._signal = specimen, place, rate
        return rate

    # --- a scanning beam --------------------------------------------------------------------------------------------

    def survey(self, dose: float) -> Scan:
        """Scan the whole field."""
        half = self._sampling / 2
        width, height = self._field.fov
        return self.scan((-half, -half, width - half, height - half), dose)

    def scan(self, region: Region, dose: float) -> Scan:
        """Scan a part of the field, in whole pixels."""
        step = self._sampling
        left, top, right, bottom = np.rint((np.array(region) + step / 2) / step)
        shape = (int(bottom - top), int(right - left))
        whole = np.divide(self._field.fov, step)
        middle = np.array([(left + right) / 2, (top + bottom) / 2]) / whole
        field = self._field.part((middle[0], middle[1]), (shape[1] / whole[0], shape[0] / whole[1]))
        dwell_us = dose * step**2 / self._column.electrons(1e-6)
        line_s = shape[1] * dwell_us * 1e-6
        with self._lock:
            self._scanning = True
            self._rest()
            start = self.now()
            frame = self.microscope.begin_frame(field, shape, dwell_us, self._column)
        try:
            image = self._image(frame)  # slow; blanking meanwhile does not wait for it
        finally:
            with self._lock:
                self._scanning = False
                self._clock.advance(shape[0] * line_s * (1 + _FLY_BACK))
                if not self.is_blanked:
                    self.microscope.expose_scan(frame, shape[0] * shape[1])
                self._rest()
        return Scan(image, step, np.array([left, top]) * step, start, line_s, frame.electrons)

    def _image(self, frame: ScanFrame) -> FloatArray:
        if self.is_blanked:
            return frame.dark_counts(frame.shape[0] * frame.shape[1]).reshape(frame.shape)
        return frame.counts("HAADF")
