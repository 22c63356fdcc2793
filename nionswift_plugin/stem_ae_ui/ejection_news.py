"""What a run tells the Eject panel, from its own thread. No Swift here."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.manipulate import (
    Aim,
    Attempt,
    Exposure,
    MoveDopants,
    Observer,
    Outcome,
    Policy,
    RemoveDopants,
    RunLog,
    Verdict,
)  # fmt: skip
from stem_ae.manipulate.aim import Course
from stem_ae.manipulate.beam import Scan

from .ejection_fates import Fate, write_fate

FloatArray = NDArray[np.float64]

_SHOW_S = 0.1  # the trace is drawn this often


class News(Observer):
    """Keeps the newest of everything; what is read belongs together only loosely.

    Parameters
    ----------
    policy : Policy
        What the run carries out.
    sites : (K, 2) array
        All targets of the panel, in Å in the first survey.
    fates : sequence of Fate
        The fate of each before.
    rest : sequence of int
        Which of the targets the policy's are.
    changed : callable
        Is told that there are news, in the run's thread.
    log : RunLog, optional
        Where the fates are written.
    """

    def __init__(
        self, policy: Policy, sites: FloatArray, fates: Sequence[Fate], rest: Sequence[int],
        changed: Callable[[], None], log: RunLog | None = None,
    ) -> None:
        self._policy, self._rest, self._changed, self._log = policy, rest, changed, log
        self._lock = threading.Lock()
        self._shown_at = 0.0
        self._fates = list(fates)
        self.sites = sites
        """All targets, in Å in the first survey."""
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

    @property
    def rest(self) -> tuple[int, ...]:
        """Numbers of the run's targets."""
        return tuple(self._rest)

    @property
    def fates(self) -> list[Fate]:
        """What has become of each target."""
        with self._lock:
            return list(self._fates)

    def _fate(self, site: int) -> Fate:
        """Return the fate of a site's target; sites on the way of a dopant stand for its goal."""
        policy = self._policy
        self.target = self._rest[policy.serving if isinstance(policy, MoveDopants | RemoveDopants) else site]
        with self._lock:
            return self._fates[self.target]

    def _set(self, fate: Fate) -> None:
        """Note what has become of the target."""
        assert self.target is not None
        with self._lock:
            self._fates[self.target] = fate
        if self._log:
            write_fate(self._log, self.target, fate)

    # --- in the run's thread ----------------------------------------------------------------------------------------

    def surveyed(self, scan: Scan, atoms: Atoms2D, drift: FloatArray) -> None:
        """Keep the survey."""
        self.survey, self.drift = scan, drift
        self._changed()

    def aiming(self, site: int) -> None:
        """Keep which target is aimed at."""
        self.place = self._policy.sites[site]
        self._set(self._fate(site).now("aiming"))
        self._changed()

    def exposing(self, site: int, exposure: Exposure, course: Course) -> None:
        """Keep the exposure, which goes on."""
        self.exposure, self.aim, self.after = exposure, course.at(course.time_s), None
        self._set(self._fate(site).now("exposing", tried=True))
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
        self._set(self._fate(site).now("verifying"))
        self._changed()

    def attempted(self, attempt: Attempt) -> None:
        """Keep what has become of the target."""
        self._set(self._after(self._fate(attempt.site), attempt))
        if attempt.reason:
            self.note = f"Target {(self.target or 0) + 1} was not fired at. {attempt.reason}"
        self._changed()

    def _after(self, fate: Fate, attempt: Attempt) -> Fate:
        policy, went = self._policy, attempt.verdict is Verdict.MOVED
        if attempt.outcome is Outcome.STOPPED:
            return fate.after(attempt)
        if isinstance(policy, MoveDopants):
            if went and policy.is_goal(attempt.site):
                return fate.now("done", left=True)
            why = attempt.outcome if attempt.verdict is Verdict.NONE else attempt.verdict
            return fate.now("waiting", "a step nearer" if went else str(why))
        if isinstance(policy, RemoveDopants) and attempt.verdict is not Verdict.ONE:
            return fate.now("waiting", "moved, and is followed" if went else fate.after(attempt).detail)
        return fate.after(attempt)
