"""An eject run: survey, aim, expose, blank, verify, until the policy is content."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_ae import checks
from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.imaging.damage import fluence
from stem_ae.imaging.dose import electrons_per_pixel
from stem_ae.manipulate.aim import LIMIT, Course, Drift, LockOn, Track, common_shift, repeat_distance
from stem_ae.manipulate.beam import NO_COUNTS, Beam, Counts, Region, Scan
from stem_ae.manipulate.columns import ColumnModel, Evidence
from stem_ae.manipulate.exposure import FROM_OUTSIDE, Exposure, ExposureSettings, Outcome
from stem_ae.manipulate.guard import Guard, Interrupted, Limits
from stem_ae.manipulate.ledger import DoseLedger, Spent
from stem_ae.manipulate.levels import atoms_left, move_levels, signal_levels, weights_from_frame
from stem_ae.manipulate.moves import MoveVerification, dopant_beside
from stem_ae.manipulate.policy import Do, Policy, View
from stem_ae.manipulate.runlog import RunLog
from stem_ae.manipulate.verify import Belief, Change, Verdict, Verification, differences
from stem_ae.microscope.devices import Suspension
from stem_ae.microscope.interlock import BeamAlarm, NoBeam
from stem_ae.microscope.usable import Unusable, problem_of, still_unusable

FloatArray = NDArray[np.float64]
Find = Callable[[FloatArray, float], Atoms2D]
"""Finds the atoms of an image (detected electrons) with a sampling in Å per pixel."""

AROUND = 8.8
"""Å: side of a verification scan. The six next columns of MoS2, 3.2 Å away, are in it, and a little more."""
_GAP, _LONG, _SHORT = 1.3, 13.0, 8.6  # Å: the re-scan's distance from the target, and its sides
_FOLLOW = 0.02  # Å: the parked beam follows the drift in steps of this size
_LOGGED_S = 0.25  # the counts of an exposure are written this often
_WAIT_S = 0.02
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 4.0  # between scans that are no images
_CLOCK_S = 1.0
_OVERDUE = 1.5, 1.0  # times the timeout, and seconds: the beam is on for so long at most, whatever the readings say
_LARGEST_AIM_LIMIT = 1.0  # Å


class _CapReached(StemAeError):  # noqa: N818  (a limit that was set, and kept)
    """The dose cap is reached: the run ends, whatever was under way."""


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How to expose, aim and look.

    Parameters
    ----------
    ladder : tuple of str
        Classes in the order in which one becomes the next as atoms leave; the last is empty: no atom.
    dopant : str
        Class of the dopants that exposures beside them are to move; empty: atoms are to leave. See :meth:`moving`.
    timeout_s, maximum_electrons : float
        Of one exposure.
    false_alarm_per_s : float
        Of the step detector.
    aim_limit : float
        Å: largest standard deviation of an aim with which the beam may be fired, and kept on; 1 Å at most, which is
        nearer to the next column than to this one.
    survey_dose, aim_dose, verify_dose : float
        e/Å² of one scan of each kind.
    aim_scans, verify_scans : int
        How many of each kind there may be for one exposure.

    Raises
    ------
    StemAeError
        If the ladder has less than two classes or one twice, or a number is NaN, infinite or out of range.
    """

    ladder: tuple[str, ...] = ("S2", "S1", "")
    dopant: str = ""
    timeout_s: float = 5.0
    maximum_electrons: float = 4e9
    false_alarm_per_s: float = 1e-3
    aim_limit: float = LIMIT
    survey_dose: float = 1e4
    aim_dose: float = 1.25e3
    verify_dose: float = 2.5e3
    aim_scans: int = 4
    verify_scans: int = 10

    def __post_init__(self) -> None:
        ladder = checks.items(self.ladder, "The ladder")
        object.__setattr__(self, "ladder", ladder)  # the dataclass is frozen
        if not all(isinstance(name, str) for name in (*ladder, self.dopant)):
            raise StemAeError("The ladder and the dopant are names of classes: give words, such as S2.")
        if len(ladder) < 2 or len(set(ladder)) < len(ladder):
            raise StemAeError(f"The ladder {ladder} is short or repeats a class: give at least two, each once.")
        checks.positive(self.timeout_s, "timeout_s", checks.MOST_S, "s")
        checks.positive(self.false_alarm_per_s, "false_alarm_per_s")
        checks.positive(self.aim_limit, "aim_limit", _LARGEST_AIM_LIMIT, "Å")
        for name in ("maximum_electrons", "survey_dose", "aim_dose", "verify_dose"):
            checks.positive(getattr(self, name), name, checks.MOST_ELECTRONS)
        for name in ("aim_scans", "verify_scans"):
            object.__setattr__(self, name, checks.whole(getattr(self, name), name))

    @classmethod
    def moving(cls, dopant: str = "Si", host: str = "C", **others: Any) -> RunSettings:
        """Return settings for moving dopants in a sheet that bears much: a jump takes many electrons.

        Parameters
        ----------
        dopant, host : str
            Classes.
        **others
            Settings that are to be otherwise.
        """
        usual: dict[str, Any] = {
            "timeout_s": 60.0, "maximum_electrons": 1e12, "survey_dose": 3e4, "aim_dose": 2e4, "verify_dose": 2e4,
        }  # fmt: skip
        return cls(ladder=(host, ""), dopant=dopant, **usual | others)


@dataclasses.dataclass(frozen=True, eq=False)
class Attempt:
    """One site, once.

    Parameters
    ----------
    number : int
        Counts from one.
    site : int
        Index into the policy's sites.
    species : str
        Class before.
    position : (2,) array
        Of the column, Å in the first survey.
    aim : (2,) array
        Where the beam was parked first, Å in the beam's frame.
    aim_deviation : float
        Stated RMS error of the aim in Å; None if it was not fired.
    start_s, exposure_s, electrons : float
        When, how long, how much.
    outcome : Outcome
        What ended the exposure.
    verdict : Verdict
        What the images say afterwards.
    bystanders : tuple of Change
        Other columns that are no longer what they were.
    reason : str
        Why it was not fired, if it was not.
    """

    number: int
    site: int
    species: str
    position: FloatArray
    aim: FloatArray
    aim_deviation: float | None
    start_s: float
    exposure_s: float
    electrons: float
    outcome: Outcome
    verdict: Verdict
    bystanders: tuple[Change, ...] = ()
    reason: str = ""


class Observer:
    """Is told what happens, in the run's thread; does nothing by itself."""

    def surveyed(self, scan: Scan, atoms: Atoms2D, drift: FloatArray) -> None:
        """Take note of a survey, what was found in it (positions in its image), and how far the specimen has moved."""

    def aiming(self, site: int) -> None:
        """Take note of the site that is aimed at."""

    def exposing(self, site: int, exposure: Exposure, course: Course) -> None:
        """Take note of an exposure that begins."""

    def counted(self, exposure: Exposure) -> None:
        """Take note of new readings."""

    def verifying(self, site: int, scan: Scan) -> None:
        """Take note of a verification scan."""

    def attempted(self, attempt: Attempt) -> None:
        """Take note of the end of an attempt."""


class EjectionRun:
    """Carries out a policy on an instrument.

    :meth:`run` does it all; :meth:`step` does one survey or one attempt. Between steps, while it waits and after any
    exception the beam is blanked.

    Parameters
    ----------
    beam : Beam
        The instrument.
    find : callable
        Finds atoms, such as ``lambda image, sampling: ensemble.predict(image, sampling).atoms``.
    policy : Policy
        Decides.
    settings : RunSettings
        How to expose, aim and look.
    limits : Limits
        Dose caps, and how long one arming lasts.
    log : RunLog, optional
        Where everything is written as it happens.
    observer : Observer
        Is told.
    start : (Scan, Atoms2D), optional
        A survey that was taken already, with what was found in it: the image in which the targets were chosen.
    track : Track, optional
        What is known of the drift before.
    spent : Spent, optional
        What the specimen has had in a run that this one continues, see :func:`stem_ae.manipulate.runlog.spent`: the
        dose caps are for both together.
    """

    def __init__(
        self,
        beam: Beam,
        find: Find,
        policy: Policy,
        settings: RunSettings | None = None,
        limits: Limits | None = None,
        log: RunLog | None = None,
        observer: Observer | None = None,
        start: tuple[Scan, Atoms2D] | None = None,
        track: Track | None = None,
        spent: Spent | None = None,
    ) -> None:
        self._settings, self._limits = settings or RunSettings(), limits or Limits()
        self.guard = Guard(beam, self._limits)
        """Arm, pause, stop."""
        self.policy = policy
        self.attempts: list[Attempt] = []
        self.found_later: list[Change] = []
        """Columns that a survey shows as others than they were, though no verification had said so."""
        self.ledger = DoseLedger(beam.probe, spent)
        self.reason = ""
        """Why the run has ended; empty while it goes on."""
        self._beam, self._find = beam, find
        self._log, self._observer = log, observer or Observer()
        self._atoms: Atoms2D | None = None
        self._region: Region = (0.0, 0.0, 0.0, 0.0)
        self._surveys, self._changed = 0, False
        self._track = Track(track.velocity_deviation, velocity=track.now.velocity) if track else Track()
        self._repeat = 0.0  # Å
        self._columns: ColumnModel | None = None
        self._belief = Belief(self._settings.ladder, np.zeros((0, 0, 0)))
        self._dose = np.zeros(0)  # e/Å² at each atom of the map when it was verified last
        self._ejected, self._fluence = 0, 0.0  # atoms, and e/Å² on the targets that it took
        self._weights: dict[str, float] = {}
        self._background = 0.0
        self._levels: dict[str, tuple[float, ...]] = {}
        self._over_cap = ""
        self.suspension = Suspension()
        """Why the run waits for the detector, and for how long before it ends as failed."""
        self.suspended: list[tuple[str, float]] = []
        """Why it has waited, and for how many seconds."""
        self._unusable: Unusable | None = None
        self._working = threading.Lock()  # one step at a time
        self._write(
            "run", policy=type(policy).__name__, sites=policy.sites, settings=self._settings,
            limits=self._limits, spent=self.ledger.spent,
        )
        if start is not None:
            self._begin(*start)

    # --- the whole --------------------------------------------------------------------------------------------------

    def run(self, patient: bool = False) -> str:
        """Go on until the end and return why it ended. Whatever happens, the beam is blanked and parked away then.

        Parameters
        ----------
        patient : bool
            Wait while the run is not armed; otherwise that ends it.
        """
        try:
            while not self.reason:
                try:
                    self.step()
                except Interrupted:
                    self._wait(patient)
        except BaseException as error:
            self.failed(error)
            raise
        finally:
            self._leave()
        return self.reason

    def failed(self, error: BaseException) -> None:
        """End with an error as the reason."""
        told = isinstance(error, StemAeError | BeamAlarm)
        self._end(str(error) if told else f"{type(error).__name__}: {error}")

    def _leave(self) -> None:
        """Blank and park, each even if the other fails; nothing hides an alarm."""
        try:
            self.guard.blank()
            if alarm_text := self.guard.interlock.alarm:  # raised by whoever stopped the run: the blanker hung
                raise BeamAlarm(alarm_text)
        except BeamAlarm as alarm:
            if self.reason != str(alarm):
                self._end(str(alarm))
            with contextlib.suppress(Exception):
                self._beam.park(None)
            raise
        self._beam.park(None)

    def step(self) -> Attempt | None:
        """Do one survey or one attempt, which is returned.

        Raises
        ------
        Interrupted
            If the run is paused, stopped or not armed; after a pause, call again.
        StemAeError
            If the run cannot go on.
        """
        with self._working:
            self.guard.check()
            try:
                attempt = self._next()
            except _CapReached as error:
                self._over_cap, attempt = str(error), None
            if self._over_cap and not self.reason:
                self._end(self._over_cap)
            return attempt

    def _next(self) -> Attempt | None:
        if self._unusable is not None:  # in the last verification, whose attempt had to be kept first
            raise self._unusable
        if self._atoms is None:
            self._survey()
            return None
        now = self.policy.next(self.view)
        if now is Do.END:
            self._end("done")
        elif now is Do.SURVEY:
            self._survey()
        else:
            return self._attempt(int(now))
        return None

    def stop(self) -> None:
        """Blank and end the run, from any thread."""
        self.guard.stop()

    @property
    def view(self) -> View:
        """What the policy sees; before the first survey, nothing."""
        atoms = Atoms2D.empty(("",), (1, 1), 1.0) if self._atoms is None else self._atoms
        tried = [(a.site, a.verdict) for a in self.attempts if a.outcome is not Outcome.STOPPED]
        return View(atoms, tried, self._surveys, self._changed)

    @property
    def longest_exposure_s(self) -> float:
        """How long one exposure may last, in seconds; it is ended then, whatever the detector says."""
        times, more_s = _OVERDUE
        return times * self._settings.timeout_s + more_s

    @property
    def track(self) -> Track:
        """The specimen's drift, as far as the run has followed it."""
        return self._track

    def moved(self) -> FloatArray:
        """Return how far the specimen has moved since the first survey, ``(2,)`` in Å, as far as that is known."""
        return self._drift.at(self._beam.now())

    def _wait(self, patient: bool) -> None:
        """Wait for the end of a pause or of the run."""
        while self.guard.interrupted and not self.reason:
            if self.guard.stopped or self.guard.interlock.is_stopped:
                self._end("stopped")
            elif self.guard.interlock.alarm:
                self.guard.check()
            elif not self.guard.paused and not patient:
                self._end("not armed any more")
            else:
                threading.Event().wait(_WAIT_S)

    def _end(self, reason: str) -> None:
        self.reason = reason
        self._write("end", reason=reason, electrons=self.ledger.electrons, beam=self.guard.interlock.state)

    def _write(self, kind: str, /, durable: bool = True, **values: Any) -> None:
        if self._log:
            self._log.write(kind, durable=durable, time_s=self._beam.now(), **values)

    @property
    def _drift(self) -> Drift:
        return self._track.now

    # --- looking ----------------------------------------------------------------------------------------------------

    def _scan(self, region: Region | None, dose: float) -> Scan:
        """Scan a region, or the whole field, until a usable image comes.

        Raises
        ------
        Unusable
            If it does not for as long as :attr:`suspension` is patient.
        """
        scan = self._scan_once(region, dose)
        if not scan.problem:
            return scan
        start, wait_s, reason = time.monotonic(), _FIRST_WAIT_S, scan.problem
        try:
            while scan.problem:
                reason = scan.problem
                self._suspend(reason, start, wait_s)
                scan = self._scan_once(region, dose)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        finally:
            self.suspension.reason = ""
            self.suspended.append((reason, time.monotonic() - start))
            self._write("suspended", reason=reason, seconds=self.suspended[-1][1])
        if self._atoms is not None:
            self._check_slip(scan.start_s)
        return scan

    def _suspend(self, reason: str, start: float, wait_s: float) -> None:
        """Wait for the detector, blanked and parked; ``start`` is when that began, on ``time.monotonic()``."""
        self._beam.park(None)
        patience_s, now = self.suspension.patience_s, time.monotonic()
        if now - start >= patience_s:
            raise still_unusable(reason, patience_s)
        self.suspension.reason = reason
        end = min(now + wait_s, start + patience_s)
        while time.monotonic() < end:
            self.guard.check()
            threading.Event().wait(_WAIT_S)

    def _scan_once(self, region: Region | None, dose: float) -> Scan:
        """Scan a region, or the whole field; its dose is counted even if the detector failed."""
        x0, y0, x1, y1 = region or self._region
        area = (x1 - x0) * (y1 - y0)
        self._spend(dose * area)
        self._beam.park(None)
        planned = self._on_specimen((x0, y0, x1, y1), self._beam.now())
        self._write("scan", durable=False, region=planned, dose=dose)
        start_s = math.inf
        try:
            with self.guard.beam_on():
                start_s = self._beam.now()
                scan = self._beam.survey(dose) if region is None else self._beam.scan(region, dose)
        except BaseException:  # the part that was scanned counts
            electrons = electrons_per_pixel(self._beam.current_pa, 1e6 * max(self._beam.now() - start_s, 0.0))
            self._scanned(planned, min(electrons / area, dose) if area else 0.0)
            raise
        self._scanned(self._on_specimen(scan.region, scan.start_s), scan.dose)
        self.guard.check()  # a scan that was interrupted is dark
        return scan if scan.problem else dataclasses.replace(scan, problem=problem_of(scan.image, "The scan"))

    def _on_specimen(self, region: Region, time_s: float) -> Region:
        """Return a region of the beam's frame in Å of the first survey."""
        x, y = self._drift.at(time_s).tolist() if self._atoms is not None else (0.0, 0.0)
        x0, y0, x1, y1 = region
        return x0 - x, y0 - y, x1 - x, y1 - y

    def _scanned(self, region: Region, dose: float) -> None:
        self.ledger.scanned(region, dose)
        self._write("scanned", durable=False, region=region, dose=dose)

    def _spend(self, electrons: float) -> None:
        spent = self.ledger.electrons + electrons
        if not (spent <= self._limits.total_electrons and self.ledger.electrons < self._limits.total_electrons):
            raise _CapReached(
                f"The total dose cap of {self._limits.total_electrons:.3g} electrons is reached: raise it if the "
                "specimen bears more."
            )

    def _survey(self) -> None:
        scan = self._scan(None, self._settings.survey_dose)
        self._begin(scan, self._find(scan.image, scan.sampling))

    def _begin(self, scan: Scan, found: Atoms2D) -> None:
        """Take a survey as the map of the specimen."""
        if not len(found):
            raise StemAeError("No atoms were found in the survey image: check model, sampling and focus.")
        self._region = scan.region
        times = scan.times_s(found)
        if self._atoms is None:
            self._track.add(scan.start_s, np.zeros(2))
            self._repeat = repeat_distance(found)
        else:
            self._check_slip(scan.start_s)
            self._follow(found, times)
        atoms = dataclasses.replace(found, positions=found.positions + scan.origin - self._drift.at(times))
        refilled = [] if self._atoms is None else self._refilled(atoms)
        before, sure = self._atoms, self._belief
        known = self._known_of(atoms)
        self._atoms, self._surveys, self._changed = atoms, self._surveys + 1, False
        if not self._weights:  # later surveys show the same, and each exposure scales the levels to its own start
            self._weights, self._background = weights_from_frame(found, scan, self._settings.ladder)
        self._learn_columns(scan, found, known)
        later = differences(before, sure, self._atoms, self._belief) if before is not None else []
        self.found_later += later
        self._write(
            "survey", dose=scan.dose, counts=found.counts(), refilled=refilled, found_later=later, drift=self._drift
        )
        self._observer.surveyed(scan, found, self._drift.at(scan.start_s))

    def _known_of(self, atoms: Atoms2D) -> FloatArray | None:
        """Return what is known of the columns of a new survey: what they were, and the dose they had since."""
        if self._atoms is None or self._settings.ladder[-1]:  # dopants go from column to column
            return None
        belief = self._belief.aged(self._per_dose * (self._dose_now() - self._dose))
        return belief.passed_on(self._atoms, atoms)

    def _learn_columns(self, scan: Scan, found: Atoms2D, known: FloatArray | None) -> None:
        """Learn from a survey how many counts each class of column gives, and correct what they clearly contradict."""
        assert self._atoms is not None
        probe, ladder = self._beam.probe, self._settings.ladder
        self._columns, shown = ColumnModel.learnt(found, scan, probe, self._weights, ladder)
        evidence = Evidence(self._columns, len(found))
        evidence.add(shown)
        belief = Belief.of(found, ladder, evidence, known)
        self._atoms, kept = belief.corrected(self._atoms, belief.contradicts(self._atoms))
        self._belief, self._dose = belief[kept], self._dose_now()

    def _dose_now(self) -> FloatArray:
        """Return the dose in e/Å² that each atom of the map has received."""
        assert self._atoms is not None
        return self.ledger.at(self._atoms.positions)

    def _follow(self, found: Atoms2D, times: FloatArray) -> None:
        """Bring the drift up to date with all atoms of a survey."""
        assert self._atoms is not None
        shift = common_shift(found.positions - self._drift.at(times), self._atoms.positions, self._repeat / 2)
        time_s = float(times.mean())
        self._track.add(time_s, self._drift.at(time_s) + shift)

    def _refilled(self, atoms: Atoms2D) -> list[int]:
        """Return the sites that have more atoms than before."""
        ladder = self._settings.ladder
        before, after = self.view, dataclasses.replace(self.view, atoms=atoms)
        sites = enumerate(self.policy.sites)
        pairs = [(k, before.species_at(site), after.species_at(site)) for k, site in sites]
        return [k for k, a, b in pairs if a in ladder and b in ladder and ladder.index(b) < ladder.index(a)]

    def _check_slip(self, time_s: float) -> None:
        """Refuse to go on if the specimen may have moved to the next column, unseen."""
        unseen_s = time_s - self._drift.time_s
        if not -_CLOCK_S <= unseen_s <= self._track.lost_after_s(self._repeat):  # or the clock was set back
            raise StemAeError(
                f"Nobody has looked at the specimen for {unseen_s:.0f} s; as far as its drift is known it may have "
                "moved to the next column: take a new image and choose the targets again."
            )

    # --- one attempt ------------------------------------------------------------------------------------------------

    def _attempt(self, site: int) -> Attempt:
        assert self._atoms is not None
        atom = self.view.atom_at(self.policy.sites[site])
        if atom is None:
            raise StemAeError(f"There is no atom at target {site + 1}: take a new image and choose the targets again.")
        self._spend(0.0)
        self._check_slip(self._beam.now())
        self._observer.aiming(site)
        number, species, position = len(self.attempts) + 1, self._atoms.symbols[atom], self._atoms.positions[atom]
        self._exposure(atom)  # thresholds take a moment the first time, in which an aim would grow old
        try:
            course = self._aim(atom)
        except StemAeError as error:
            if self.guard.interrupted or isinstance(error, _CapReached | NoBeam | Unusable):
                raise
            return self._keep(
                Attempt(
                    number, site, species, position, position, None, self._beam.now(), 0.0, 0.0,
                    Outcome.NOT_FIRED, Verdict.UNCLEAR, reason=str(error),
                )
            )  # fmt: skip
        exposure = self._exposure(atom)
        aim = course.at(course.time_s)
        self._write(
            "exposure", number=number, site=site, species=species, position=position, aim=aim.position,
            aim_deviation=aim.deviation, start_s=course.time_s, settings=exposure.to_dict()["settings"],
        )  # fmt: skip
        self._observer.exposing(site, exposure, course)
        self._changed = True
        try:
            self._expose(number, exposure, course)
        finally:
            self._fired(number, exposure, position)
        assert exposure.outcome is not None
        verdict, bystanders = self._verify(site, atom, exposure.outcome)
        return self._keep(
            Attempt(
                number, site, species, position, aim.position, aim.deviation, course.time_s, exposure.elapsed_s,
                exposure.electrons, exposure.outcome, verdict, bystanders,
            )
        )  # fmt: skip

    def _keep(self, attempt: Attempt) -> Attempt:
        self.attempts.append(attempt)
        self._write("attempt", **{field.name: getattr(attempt, field.name) for field in dataclasses.fields(attempt)})
        self._observer.attempted(attempt)
        return attempt

    # --- aim --------------------------------------------------------------------------------------------------------

    def _aim(self, atom: int) -> Course:
        """Re-scan beside the target until the aim is certain enough."""
        assert self._atoms is not None
        drift = self._track.velocity_deviation
        lock = LockOn(self._atoms, atom, reach=_GAP + _LONG, drift=drift, known=self._drift)
        refusal: StemAeError | None = None
        for region in self._regions_beside(self._atoms.positions[atom]):
            scan = self._scan(region, self._settings.aim_dose)
            try:
                found = self._find(scan.image, scan.sampling)
                lock.add(found, scan.origin, scan.times_s(found))
                course = lock.course(self._beam.now())
                lock.predict(course.time_s, self._settings.aim_limit)
            except StemAeError as error:
                refusal = error
                continue
            self._track.add(course.time_s, course.drift.shift)
            self._belief = self._belief.given(self._looked_at(scan))
            return course
        raise refusal or StemAeError("The target is too close to the field's edge for a re-scan beside it.")

    def _regions_beside(self, position: FloatArray) -> Iterator[Region]:
        """Yield regions next to the target, which is not in them; the sides take turns."""
        sides = [(0.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 0.0)]
        start = len(self.attempts)
        for k in range(self._settings.aim_scans):
            x, y = position + self._drift.at(self._beam.now())
            across, down = sides[(start + k) % len(sides)]
            width, height = (_SHORT, _LONG) if across else (_LONG, _SHORT)
            middle = (x + across * (_GAP + width / 2), y + down * (_GAP + height / 2))
            if region := self._inside(middle, width, height, slide=(not across, not down)):
                yield region

    def _inside(
        self, middle: tuple[float, float], width: float, height: float, slide: tuple[bool, bool]
    ) -> Region | None:
        """Return a rectangle of the field around a point; it may slide along an axis to fit, or else there is none."""
        x0, y0, x1, y1 = self._region
        corner = np.subtract(middle, (width / 2, height / 2))
        fitting = np.clip(corner, (x0, y0), (x1 - width, y1 - height))
        if np.any((fitting != corner) & ~np.array(slide)) or width > x1 - x0 or height > y1 - y0:
            return None
        left, top = fitting.tolist()
        return left, top, left + width, top + height

    # --- fire -------------------------------------------------------------------------------------------------------

    def _exposure(self, atom: int) -> Exposure:
        """Return a prepared exposure: levels as the survey shows them, and no more electrons than the caps allow."""
        assert self._atoms is not None
        limits, settings, position = self._limits, self._settings, self._atoms.positions[atom]
        allowance = self.ledger.allowance(position, self._atoms.positions, limits.local_dose)
        electrons = min(settings.maximum_electrons, limits.total_electrons - self.ledger.electrons, allowance)
        if not electrons > 0:
            raise StemAeError(
                f"The local dose cap of {limits.local_dose:.3g} e/Å² is reached around this target: raise it, or leave "
                "the target out."
            )
        exposure = Exposure(
            ExposureSettings(
                self._levels_of(atom), self._beam.current_pa, settings.timeout_s, electrons, settings.false_alarm_per_s
            )
        )
        exposure.prepare(*self._beam.readings_s)
        return exposure

    def _levels_of(self, atom: int) -> tuple[float, ...]:
        """Return the signal's levels; one set per class, as each exposure scales it to its own start."""
        assert self._atoms is not None
        species, ladder = self._atoms.symbols[atom], self._settings.ladder
        if species not in ladder[:-1]:
            raise StemAeError(f"{species} is not one of {', '.join(ladder[:-1])}: choose other targets.")
        if species not in self._levels:
            beam = self._beam.probe, self._beam.current_pa, self._background
            if dopant := self._settings.dopant:
                beside = dopant_beside(self._atoms, atom, dopant)
                self._levels[species] = move_levels(self._atoms, atom, beside, self._weights, *beam)
            else:
                ejections = atoms_left(species, ladder)
                one = (self._weights[species] - self._weights.get(ladder[-1], 0.0)) / ejections
                self._levels[species] = signal_levels(
                    self._atoms, atom, self._weights, one, min(ejections, 2), *beam
                )
        return self._levels[species]

    def _expose(self, number: int, exposure: Exposure, course: Course) -> None:
        """Keep the beam on the column until the exposure has an outcome."""
        parked = course.at(self._beam.now()).position
        self._beam.park(parked)
        waiting: list[Counts] = []  # to be written
        rest, start_s = NO_COUNTS, math.inf
        try:
            with self.guard.beam_on():
                start_s = self._beam.now()
                while exposure.outcome is None:
                    read = self._beam.read()
                    if not -_CLOCK_S <= self._beam.now() - start_s <= self.longest_exposure_s:
                        exposure.end(Outcome.SIGNAL_LOST)
                    taken = self._take(exposure, read)
                    waiting.append(read[:taken])
                    rest = read[taken:]
                    if exposure.outcome is None:
                        parked = self._follow_drift(exposure, course, parked)
                    if exposure.outcome is None:
                        self._log_counts(number, waiting, _LOGGED_S)
                    self._observer.counted(exposure)
                blanked = self.guard.blank()
            if exposure.outcome not in FROM_OUTSIDE:
                waiting += [self._confirm(exposure, rest), self._confirm(exposure, blanked)]
        except BaseException:
            exposure.end(Outcome.STOPPED if self.guard.interrupted else Outcome.SIGNAL_LOST)
            raise
        finally:
            if exposure.outcome in FROM_OUTSIDE:  # perhaps before the first reading came in
                exposure.has_lasted(self._beam.now() - start_s)
            self._log_counts(number, waiting, 0.0)

    def _log_counts(self, number: int, waiting: list[Counts], at_least_s: float) -> None:
        """Write readings once they are as long as this in all; without waiting for the disk while the beam is on."""
        seconds = np.concatenate([read.exposure_s for read in (NO_COUNTS, *waiting)])
        if len(seconds) and seconds.sum() >= at_least_s:
            counts = np.concatenate([read.counts for read in waiting])
            lengths = seconds[0] if np.all(seconds == seconds[0]) else seconds
            self._write("counts", durable=not at_least_s, number=number, counts=counts, exposure_s=lengths)
            waiting.clear()

    def _take(self, exposure: Exposure, read: Counts) -> int:
        """Give readings to the exposure until it ends, and return how many it took."""
        if self.guard.interrupted or not self.guard.interlock.is_to_be_on:
            exposure.end(Outcome.STOPPED)
        if exposure.outcome is not None:
            return 0
        if not len(read):
            exposure.end(Outcome.SIGNAL_LOST)
            return 0
        for k, (counts, seconds) in enumerate(read):
            if exposure.update(counts, seconds) is not None:
                return k + 1
        return len(read)

    @staticmethod
    def _confirm(exposure: Exposure, read: Counts) -> Counts:
        for counts, seconds in read:
            exposure.confirm(counts, seconds)
        return read

    def _follow_drift(self, exposure: Exposure, course: Course, parked: FloatArray) -> FloatArray:
        """Keep the beam on the drifting column as long as it is known well enough where that is."""
        aim = course.at(self._beam.now())
        if not aim.deviation <= self._settings.aim_limit:
            exposure.end(Outcome.DRIFTED)
        elif not np.linalg.norm(aim.position - parked) <= _FOLLOW:
            self._beam.park(aim.position)
            return aim.position
        return parked

    def _fired(self, number: int, exposure: Exposure, position: FloatArray) -> None:
        """Write down what was spent, however the exposure ended."""
        self.ledger.exposed(position, exposure.electrons)
        self._fluence += exposure.electrons * float(fluence(self._beam.probe, (0.0, 0.0), np.zeros((1, 2)))[0])
        self._ejected += {Outcome.STEP: 1, Outcome.DOUBLE: 2}.get(exposure.outcome or Outcome.STOPPED, 0)
        beam = self.guard.interlock.state  # as read: only that is called blanked
        self._write(
            "blanked" if beam == "blanked" else "exposed", number=number,
            outcome=exposure.outcome, electrons=exposure.electrons, exposure_s=exposure.elapsed_s, beam=beam,
        )  # fmt: skip

    # --- look again -------------------------------------------------------------------------------------------------

    def _verify(self, site: int, atom: int, outcome: Outcome) -> tuple[Verdict, tuple[Change, ...]]:
        """Scan the target and its neighbours until it is clear what has become of them."""
        assert self._atoms is not None
        assert self._columns is not None
        settings, dose = self._settings, self._dose_now()
        evidence = Evidence(self._columns, len(self._atoms))
        verification: Verification | MoveVerification = (
            MoveVerification(self._atoms, atom, outcome, settings.dopant)
            if settings.dopant
            else Verification(self._atoms, atom, outcome, self._belief, self._per_dose * (dose - self._dose))
        )
        try:  # keep what is known so far
            for _ in range(settings.verify_scans):
                x, y = self._atoms.positions[atom] + self._drift.at(self._beam.now())
                region = self._inside((float(x), float(y)), AROUND, AROUND, (True, True))
                if region is None or verification.is_clear:
                    break
                scan = self._scan(region, settings.verify_dose)
                self._observer.verifying(site, scan)
                verification.look(self._looked_at(scan, evidence))
        except _CapReached as error:
            self._over_cap = str(error)
        except Unusable as error:
            self._unusable = error
        except (Interrupted, StemAeError):
            pass
        bystanders = tuple(verification.bystanders())
        verdict = verification.verdict
        self._dose = dose
        if isinstance(verification, Verification):
            self._atoms, self._belief, kept = verification.updated()
            self._dose = dose[kept]
        else:
            self._atoms = verification.updated()
        return verdict, bystanders

    @property
    def _per_dose(self) -> float:
        """How many atoms a column loses per e/Å²: as the targets did, with one more to be on the safe side."""
        return (self._ejected + 1) / self._fluence if self._fluence else 0.0

    def _looked_at(self, scan: Scan, evidence: Evidence | None = None) -> Evidence:
        """Return what an image says about each column of the map, with what others have said."""
        assert self._atoms is not None
        assert self._columns is not None
        evidence = evidence or Evidence(self._columns, len(self._atoms))
        rows_s = (self._atoms.positions[:, 1] - scan.origin[1]) / scan.sampling * scan.line_s
        drift = self._drift.at(scan.start_s + np.clip(rows_s, 0.0, scan.image.shape[0] * scan.line_s))
        evidence.add(self._columns.looked_at(scan, self._atoms, self._atoms.positions + drift, self._repeat / 2))
        return evidence
