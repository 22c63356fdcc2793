"""Everything that unblanks the beam in an eject run goes through here."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import queue
import threading
from collections.abc import Iterator

import numpy as np

from stem_ae import checks
from stem_ae.manipulate.beam import NO_COUNTS, Beam, Counts
from stem_ae.microscope.deadline import within
from stem_ae.microscope.instrument import Cancelled
from stem_ae.microscope.interlock import ANSWER_S, BeamAlarm, Interlock

_PAUSE_WAIT_S = 0.3
_CLOCK_S = 0.1  # a clock that is synchronised may go back a little


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a run may cost.

    Parameters
    ----------
    total_electrons : float
        Electrons on the specimen, scans included. Infinity: no limit.
    local_dose : float
        e/Å² at any atom, the targets included. Infinity: no limit.
    armed_s : float
        How long one arming lasts, a week at most.

    Raises
    ------
    StemAeError
        If one is zero, negative or NaN.
    """

    total_electrons: float = 1e11
    local_dose: float = 3e9
    armed_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("total_electrons", "local_dose"):
            value = getattr(self, name)
            if not (isinstance(value, float) and value == math.inf):
                checks.positive(value, name)
        checks.positive(self.armed_s, "armed_s", checks.MOST_S, "s")


class Interrupted(Exception):  # noqa: N818  (no error: somebody wants a pause)
    """The run was paused, stopped, or is not armed any more."""


class _BeamSwitch:
    """A beam as the interlock commands it; keeps the readings that blanking returns."""

    def __init__(self, beam: Beam) -> None:
        self._beam = beam
        self._counts: queue.SimpleQueue[Counts] = queue.SimpleQueue()

    @property
    def is_blanked(self) -> bool:
        return self._beam.is_blanked

    def blank(self, blanked: bool) -> None:
        if blanked:
            self._counts.put(self._beam.blank())
        else:
            self._beam.unblank()

    def park(self, place: None) -> None:
        self._beam.park(place)

    def taken(self) -> Counts:
        """Return the readings that blanking has returned since the last call."""
        counts = [NO_COUNTS]
        with contextlib.suppress(queue.Empty):
            while True:
                counts.append(self._counts.get_nowait())
        return Counts(*(np.concatenate([getattr(c, name) for c in counts]) for name in ("counts", "exposure_s")))


def _has_read_back(beam: Beam) -> bool:
    """Return whether a beam has a read-back, which does not mean that it works now."""
    if inspect.getattr_static(beam, "is_blanked", None) is not None:
        return True
    try:
        within(ANSWER_S, lambda: beam.is_blanked)
    except AttributeError:
        return False
    except Exception:  # it fails, or hangs: unblanking will report it
        return True
    return True


class Guard:
    """Unblanks only inside :meth:`beam_on` and only while armed; blanks at once on stop or pause.

    Thread safe. The blanker itself is commanded by an :class:`Interlock`: the microscope's, if the beam has one
    (``beam.interlock``), or one of its own.

    Parameters
    ----------
    beam : Beam
        The instrument.
    limits : Limits
        Of these, only how long an arming lasts is kept here.
    """

    def __init__(self, beam: Beam, limits: Limits) -> None:
        self._beam = beam
        self._limits = limits
        self._switch = _BeamSwitch(beam)
        shared = getattr(beam, "interlock", None)
        self.interlock: Interlock = shared or Interlock(self._switch, is_readable=_has_read_back(beam))
        """The state of the beam as read, and the alarm."""
        self._lock = threading.Lock()
        self._armed_until = self._latest = -float("inf")  # on the beam's clock; when it was read last
        self.stopped = False
        """Whether the run was stopped, for good."""
        self.paused = False
        """Whether the run is to wait."""

    # --- arming -----------------------------------------------------------------------------------------------------

    @property
    def armed_left_s(self) -> float:
        """Seconds until the arming expires; zero if it has, or if the beam's clock was set back or is NaN."""
        with self._lock:
            now = self._beam.now()
            if not now >= self._latest - _CLOCK_S:  # how long ago the arming was is unknown
                self._armed_until = -float("inf")
                return 0.0
            self._latest = max(now, self._latest)
            left = self._armed_until - self._latest
            return min(left, self._limits.armed_s) if left > 0 else 0.0

    def arm(self) -> None:
        """Allow the beam for as long as :attr:`Limits.armed_s` says."""
        with self._lock:
            self._latest = now = self._beam.now()
            self._armed_until = now + self._limits.armed_s

    def disarm(self) -> None:
        """Disarm and blank. Returns at once, see :meth:`Interlock.darken`."""
        self._armed_until = -float("inf")
        self.interlock.darken()

    # --- interrupting -----------------------------------------------------------------------------------------------

    @property
    def interrupted(self) -> bool:
        """Whether the beam has to be off."""
        return self.stopped or self.paused or self.interlock.is_shut or not self.armed_left_s > 0

    def stop(self) -> None:
        """Blank, for good. Returns at once, see :meth:`Interlock.darken`."""
        self.stopped = True
        self.disarm()

    def pause(self) -> bool:
        """Blank until :meth:`resume`, and return whether the beam is off.

        An unblanking under way is waited for, but not for long: if the blanker does not answer by then, the beam is
        blanked as soon as it does, and :attr:`interlock` has the state.
        """
        self.paused = True
        return self.interlock.darken(_PAUSE_WAIT_S)

    def resume(self) -> None:
        """Take a pause back."""
        self.paused = False

    # --- the beam ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def beam_on(self) -> Iterator[None]:
        """Unblank, and blank at the end, whatever happens.

        Raises
        ------
        Interrupted
            If the beam is not to be on.
        BeamTaken
            If it was taken away meanwhile: see :meth:`Interlock.renew`.
        BeamAlarm
            If it could not be blanked.
        """
        moment = self.interlock.moment  # an interruption from here on makes it invalid
        self.check()
        try:
            try:
                self.interlock.unblank(moment)
            except Cancelled as error:
                raise Interrupted from error
            yield
        finally:
            self.blank()
        self.interlock.kept()

    def check(self) -> None:
        """Raise Interrupted if the beam must not be on, BeamAlarm if it should be off and may not be."""
        if self.interlock.alarm:
            raise BeamAlarm(self.interlock.alarm)
        if self.interrupted:
            raise Interrupted

    def blank(self) -> Counts:
        """Blank, and return the complete readings that were not read yet.

        Raises
        ------
        BeamAlarm
            If the beam was not read as off. It has been parked away.
        """
        self.interlock.blank()
        return self._switch.taken()
