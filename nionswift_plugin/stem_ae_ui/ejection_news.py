"""What a run tells the Eject panel, from its own thread. No Swift here."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.manipulate import Aim, Attempt, Exposure, MoveDopants, Observer, Policy, RemoveDopants, Verdict
from stem_ae.manipulate.aim import Course
from stem_ae.manipulate.beam import Scan

from .ejection_texts import state_after

FloatArray = NDArray[np.float64]

_SHOW_S = 0.1  # the trace is drawn this often


class News(Observer):
    """Keeps the newest of everything; what is read belongs together only loosely.

    Parameters
    ----------
    policy : Policy
        What the run carries out.
    changed : callable
        Is told that there are news, in the run's thread.
    """

    def __init__(self, policy: Policy, changed: Callable[[], None]) -> None:
        self._policy, self._changed = policy, changed
        self._lock = threading.Lock()
        self._shown_at = 0.0
        self._states: dict[int, tuple[str, str]] = {}
        self.survey: Scan | None = None
        """The last one."""
        self.drift = np.zeros(2)
        """How far the specimen had moved in it, in Å since the first one."""
        self.exposure: Exposure | None = None
        self.aim: Aim | None = None
        """Of the last exposure."""
        self.place: FloatArray | None = None
        """The column that was exposed last, in Å in the first survey."""
        self.after: Scan | None = None
        """The verification scans of the last exposure, added up."""
        self.target: int | None = None
        """The target that it is about."""
        self.note = ""

    def state(self, target: int) -> tuple[str, str]:
        """Return the state of a target, and what there is to say."""
        with self._lock:
            return self._states.get(target, ("waiting", ""))

    def _set(self, site: int, state: str, detail: str = "") -> None:
        """Take note of a site's state; sites on the way of a dopant stand for its goal."""
        self.target = self._policy.serving if isinstance(self._policy, MoveDopants | RemoveDopants) else site
        with self._lock:
            self._states[self.target] = state, detail

    # --- in the run's thread ----------------------------------------------------------------------------------------

    def surveyed(self, scan: Scan, atoms: Atoms2D, drift: FloatArray) -> None:
        """Keep the survey."""
        self.survey, self.drift = scan, drift
        self._changed()

    def aiming(self, site: int) -> None:
        """Keep which target is aimed at."""
        self.place = self._policy.sites[site]
        self._set(site, "aiming")
        self._changed()

    def exposing(self, site: int, exposure: Exposure, course: Course) -> None:
        """Keep the exposure, which goes on."""
        self.exposure, self.aim, self.after = exposure, course.at(course.time_s), None
        self._set(site, "exposing")
        self._changed()

    def counted(self, exposure: Exposure) -> None:
        """Say so now and then."""
        now = time.perf_counter()
        if exposure.outcome is not None or now - self._shown_at > _SHOW_S:
            self._shown_at = now
            self._changed()

    def verifying(self, site: int, scan: Scan) -> None:
        """Add the verification scan to those before it, which the drift has moved by next to nothing."""
        before = self.after
        if before is not None and before.image.shape == scan.image.shape:
            image, electrons = before.image + scan.image, before.electrons + scan.electrons
            scan = dataclasses.replace(scan, image=image, electrons=electrons)
        self.after = scan
        self._set(site, "verifying")
        self._changed()

    def attempted(self, attempt: Attempt) -> None:
        """Keep what has become of the target."""
        if isinstance(self._policy, MoveDopants):
            self._set(attempt.site, *self._after_move(self._policy, attempt))
        elif isinstance(self._policy, RemoveDopants) and attempt.verdict is not Verdict.ONE:
            went = attempt.verdict is Verdict.MOVED
            self._set(attempt.site, "waiting", "moved, and is followed" if went else state_after(attempt)[1])
        else:
            self._set(attempt.site, *state_after(attempt))
        if attempt.reason:
            self.note = f"Target {(self.target or 0) + 1} was not fired at. {attempt.reason}"
        self._changed()

    @staticmethod
    def _after_move(policy: MoveDopants, attempt: Attempt) -> tuple[str, str]:
        if attempt.verdict is not Verdict.MOVED:
            why = attempt.outcome if attempt.verdict is Verdict.NONE else attempt.verdict
            return "waiting", str(why)
        return ("done", "") if policy.is_goal(attempt.site) else ("waiting", "a step nearer")
