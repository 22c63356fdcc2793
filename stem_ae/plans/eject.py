"""Ejecting atoms as a bluesky plan: each survey and each attempt is one operation of one device.

The loop that reacts in milliseconds is :class:`stem_ae.manipulate.EjectionRun`'s; the plan gives it documents, a pause,
and the guarantee that the microscope is safe afterwards.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np
from bluesky import plan_stubs as bps
from numpy.typing import NDArray

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.imaging.dose import electrons_per_pixel
from stem_ae.imaging.probe import Probe
from stem_ae.manipulate.beam import NO_COUNTS, READING_S, Counts, Region, Scan
from stem_ae.manipulate.guard import Interrupted
from stem_ae.manipulate.run import Attempt, EjectionRun
from stem_ae.microscope.devices import Microscope, Operation
from stem_ae.microscope.frame import Frame, Image
from stem_ae.microscope.instrument import Cancelled
from stem_ae.microscope.interlock import LEASE_MORE_S, LEASE_TIMES, BeamAlarm, Interlock
from stem_ae.microscope.usable import filled, problem_of, problem_of_reading
from stem_ae.plans import stubs
from stem_ae.plans.stubs import Plan

FloatArray = NDArray[np.float64]

_LONGEST_READING_S = 0.03  # the kit's micro-scans, and readings that the user interface has held up
_SHORTEST_DWELL_US = 0.1
_STEP_S = 180.0  # no survey, and nothing of an attempt but its exposure, takes longer
_WAIT_S = 0.05


class MicroscopeBeam:
    """A microscope's devices as the :class:`~stem_ae.manipulate.beam.Beam` that an eject run works with.

    Parameters
    ----------
    microscope : Microscope
        Its devices.
    frame : Frame
        The survey: field and pixels of the image in which the targets were chosen.
    current_pa : float
        Beam current in pA.
    probe : Probe
        The focused beam.
    electrons_per_count : float
        Detected electrons for one unit of the dark-field image.
    """

    def __init__(
        self, microscope: Microscope, frame: Frame, current_pa: float, probe: Probe, electrons_per_count: float = 1.0
    ) -> None:
        self.current_pa, self.probe = checks.positive(current_pa, "current_pa", checks.MOST_PA, "pA"), probe
        checks.positive(electrons_per_count, "electrons_per_count")
        self.readings_s = (READING_S, _LONGEST_READING_S)
        self._microscope, self._frame, self._gain = microscope, frame, electrons_per_count
        self._cancel = threading.Event()
        self.interlock.cancels(self._end)

    def now(self) -> float:
        """Return seconds of the clock that images have as ``clock_s``: nobody can set it."""
        return time.monotonic()

    @property
    def interlock(self) -> Interlock:
        """The microscope's."""
        return self._microscope.interlock

    @property
    def is_blanked(self) -> bool:
        """Whether the beam is off the specimen, as read."""
        return self.interlock.read() == "blanked"

    def unblank(self) -> None:
        """Let the beam onto the specimen, unless the microscope was stopped."""
        try:
            self.interlock.unblank()
        except Cancelled as error:
            raise Interrupted from error

    def blank(self) -> Counts:
        """Blank at once and cancel what is under way. What the detector had not given is lost."""
        try:
            self.interlock.blank()
        finally:
            self._end()
        return NO_COUNTS

    def _begin(self) -> threading.Event:
        """Return what cancels the operation that begins; at once, if the beam is to be off meanwhile."""
        self._cancel = cancel = threading.Event()
        if not self.interlock.is_to_be_on:
            cancel.set()
        return cancel

    def _end(self) -> None:
        self._cancel.set()

    def park(self, position: FloatArray | None) -> None:
        """Point the beam at a position of the survey image, or away."""
        place = None if position is None else self._frame.to_plane(position)
        self._microscope.probe.set(None if place is None else (float(place[0]), float(place[1])))

    def read(self) -> Counts:
        """Return one reading of the dark-field detector; none if it was cancelled, or is no number."""
        self.interlock.renew(READING_S + LEASE_MORE_S)
        try:
            reading = self._microscope.instrument.read_dark_field(READING_S, self._begin())
        except Cancelled:
            return NO_COUNTS
        if problem_of_reading(reading):
            return NO_COUNTS
        electrons = max(reading.counts * self._gain, 0.0)  # readout noise may be below zero
        return Counts(np.array([electrons]), np.array([reading.exposure_s]))

    def survey(self, dose: float) -> Scan:
        """Scan the whole field."""
        return self._scan(dataclasses.replace(self._frame, dwell_us=self._dwell_us(dose)), np.zeros(2))

    def scan(self, region: Region, dose: float) -> Scan:
        """Scan a part of the field, in whole pixels."""
        step = self._frame.sampling[0]
        left, top, right, bottom = np.rint((np.array(region) + step / 2) / step)
        middle = self._frame.to_plane(np.array([left + right - 1, top + bottom - 1]) / 2 * step)
        size, shape = ((right - left) * step, (bottom - top) * step), (int(bottom - top), int(right - left))
        part = self._frame.part((float(middle[0]), float(middle[1])), size, shape, self._dwell_us(dose))
        return self._scan(part, np.array([left, top]) * step)

    def _dwell_us(self, dose: float) -> float:
        electrons = dose * self._frame.sampling[0] ** 2
        return max(electrons / electrons_per_pixel(self.current_pa, 1.0), _SHORTEST_DWELL_US)

    def _scan(self, frame: Frame, origin: FloatArray) -> Scan:
        self.interlock.renew(LEASE_TIMES * frame.seconds + LEASE_MORE_S)
        try:
            image: Image = self._microscope.instrument.scan(frame, self._begin())
        except Cancelled as error:
            raise Interrupted from error
        problem = problem_of(image.data, "The scan", frame.shape)
        data = np.full(frame.shape, np.nan) if problem else np.asarray(filled(image.data), float)
        return Scan(
            data * self._gain, frame.sampling[0], origin, image.clock_s - frame.seconds,
            frame.shape[1] * frame.dwell_us * 1e-6, electrons_per_pixel(self.current_pa, frame.dwell_us), problem,
        )  # fmt: skip


class Ejector:
    """Triggerable: the next survey or attempt of a run. Readable: the last attempt.

    Parameters
    ----------
    run : EjectionRun
        What to carry out.
    """

    parent = None
    name = "ejector"

    def __init__(self, run: EjectionRun) -> None:
        self._run = run
        self.attempt: Attempt | None = None
        """The last step's, if it was one."""

    def trigger(self) -> Operation:
        """Do the next step; being interrupted is no failure."""
        self.attempt = None

        def work() -> None:
            try:
                self.attempt = self._run.step()
            except Interrupted:
                pass  # the plan waits, and comes back
            except BaseException as error:
                self._run.failed(error)
                raise

        longest_s = min(_STEP_S + self._run.longest_exposure_s, checks.MOST_S)
        return Operation(work, longest_s, "A survey or an exposure did not end: look at the scan, then start again.")

    def pause(self) -> None:
        """Blank and end what is under way; the target is tried again."""
        self._run.guard.pause()

    def resume(self) -> None:
        """Go on."""
        self._run.guard.resume()

    def _values(self) -> dict[str, Any]:
        a = self.attempt
        if a is None:
            raise StemAeError("Nothing was attempted yet.")
        deviation = math.nan if a.aim_deviation is None else a.aim_deviation
        return {
            "number": a.number, "site": a.site, "species": a.species, "x": float(a.position[0]),
            "y": float(a.position[1]), "aim_x": float(a.aim[0]), "aim_y": float(a.aim[1]),
            "aim_deviation": deviation, "exposure_s": a.exposure_s, "electrons": a.electrons,
            "outcome": str(a.outcome), "verdict": str(a.verdict), "bystanders": len(a.bystanders),
        }  # fmt: skip

    def read(self) -> OrderedDict[str, dict[str, Any]]:  # noqa: D102
        now = time.time()
        return OrderedDict((name, {"value": value, "timestamp": now}) for name, value in self._values().items())

    def describe(self) -> OrderedDict[str, dict[str, Any]]:  # noqa: D102
        return OrderedDict(
            (name, {"source": "stem_ae", "dtype": "string" if isinstance(value, str) else "number", "shape": []})
            for name, value in self._values().items()
        )

    def read_configuration(self) -> OrderedDict[str, dict[str, Any]]:  # noqa: D102
        return OrderedDict()

    def describe_configuration(self) -> OrderedDict[str, dict[str, Any]]:  # noqa: D102
        return OrderedDict()


def eject(microscope: Microscope, run: EjectionRun, **settings: Any) -> Plan:
    """Carry out a run; the result is why it ended. While it is not armed, or paused by its guard, the plan waits.

    A scan that is no image suspends the run as in other plans: see :func:`stem_ae.plans.stubs.until_usable`.

    Parameters
    ----------
    microscope : Microscope
        Its devices.
    run : EjectionRun
        On a :class:`MicroscopeBeam` of this microscope.
    **settings
        More for the start document.
    """

    def plan() -> Plan:
        ejector = Ejector(run)
        run.suspension = microscope.suspension
        while not run.reason and not run.guard.stopped:
            yield from bps.checkpoint()
            if run.guard.interlock.alarm:
                raise BeamAlarm(run.guard.interlock.alarm)
            if run.guard.interrupted:
                yield from bps.sleep(_WAIT_S)
                continue
            yield from bps.trigger(ejector, wait=True)
            while run.suspended:
                yield from stubs.noted(microscope, *run.suspended.pop(0))
            if ejector.attempt is not None:
                yield from stubs.record([ejector], "attempts")
        return run.reason or "stopped"

    settings |= {"sites": run.policy.sites, "policy": type(run.policy).__name__}
    return stubs.as_run(microscope, "eject", plan(), **settings)
