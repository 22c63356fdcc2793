"""Everything that lets the beam onto the specimen goes through here."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Iterator

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.manipulate.beam import Beam, Counts

_TRIES = 3


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
            if getattr(self, name) != math.inf:
                checks.positive(getattr(self, name), name)
        checks.positive(self.armed_s, "armed_s", checks.MOST_S, "s")


class Interrupted(Exception):  # noqa: N818  (no error: somebody wants a pause)
    """The run was paused, stopped, or is not armed any more."""


class Guard:
    """Holds the blanker: the beam is on only inside :meth:`beam_on`, only while armed, and off at a word.

    Thread safe; :meth:`stop` and :meth:`pause` blank at once, in the caller's thread, whatever else is going on.

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
        self._lock = threading.RLock()
        self._armed_until = -float("inf")
        self.stopped = False
        """Whether the run was stopped, for good."""
        self.paused = False
        """Whether the run is to wait."""

    # --- arming -----------------------------------------------------------------------------------------------------

    @property
    def armed_left_s(self) -> float:
        """Seconds until the arming expires; zero if it has."""
        return max(self._armed_until - self._beam.now(), 0.0)

    def arm(self) -> None:
        """Allow the beam for as long as :attr:`Limits.armed_s` says."""
        with self._lock:
            self._armed_until = self._beam.now() + self._limits.armed_s

    def disarm(self) -> None:
        """Forbid the beam, from now on."""
        with self._lock:
            self._armed_until = -float("inf")
            self.blank()

    # --- interrupting -----------------------------------------------------------------------------------------------

    @property
    def interrupted(self) -> bool:
        """Whether the beam has to be off."""
        return self.stopped or self.paused or not self.armed_left_s

    def stop(self) -> None:
        """Blank, for good."""
        self.stopped = True
        self.disarm()

    def pause(self) -> None:
        """Blank until :meth:`resume`."""
        self.paused = True
        self.blank()

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
        """
        self.check()
        try:
            with self._lock:  # nobody can stop between the question and the deed
                self.check()
                self._beam.unblank()
            yield
        finally:
            self.blank()

    def check(self) -> None:
        """Raise Interrupted if the beam is not to be on."""
        if self.interrupted:
            raise Interrupted

    def blank(self) -> Counts:
        """Blank, and say so if it cannot be done."""
        failure: Exception | None = None
        for _ in range(_TRIES):
            try:
                return self._beam.blank()
            except Exception as error:  # whatever it is, the beam must go off
                failure = error
        raise StemAeError(
            f"THE BEAM MAY STILL BE ON: the blanker did not answer ({failure}). Blank it by hand, now."
        ) from failure
