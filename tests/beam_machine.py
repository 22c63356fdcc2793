"""Random ends of runs, on an instrument whose true beam is known: used by test_beam_safety and benchmarks/beam_safety.

A case is a kind of run, something that breaks at one of its calls, and what somebody does meanwhile. At its end the
beam has to be off and that told, or on and the alarm told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time

import numpy as np
from hypothesis import strategies as st

from stem_ae.manipulate import ClosedLoop
from stem_ae.manipulate.beam import NO_COUNTS
from stem_ae.microscope import interlock
from stem_ae.microscope.devices import Microscope
from stem_ae.microscope.frame import CameraFrame, Frame, Image, Reading
from stem_ae.microscope.instrument import Cancelled
from stem_ae.microscope.interlock import BeamAlarm, Interlock
from stem_ae.plans import Runner, acquire
from tests import rigs

FRAME = Frame(fov=40.0, shape=(16, 16), dwell_us=10.0)
HANG_S, ANSWER_S, TOLERANCE_S = 0.5, 0.15, 0.03
"""Everything is quicker than in earnest, so that there is time for many cases."""
BLANKER = ("sticks on", "sticks off", "raises", "does it and raises", "hangs", "slow")
READ_BACK = ("read raises", "read is NaN", "read hangs", "read says on", "read says blanked")
ELSEWHERE = ("park raises", "scan raises", "scan hangs", "release raises", "camera raises", "nothing")
CLOCK = ("clock goes back", "clock goes ahead", "clock is NaN", "finding raises")
DEEDS = ("nothing", "stop", "abort", "close", "pause, then stop", "stopped by somebody else", "operation is killed")


class BrokenError(Exception):
    """As ordered."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What happens."""

    run: str
    fault: str
    at: int
    lasts: bool
    deed: str
    moment_s: float


def cases() -> st.SearchStrategy[Case]:
    """Return all cases: plans, and eject runs, which have a clock and find atoms but no camera."""
    common = {"at": st.integers(1, 12), "lasts": st.booleans(), "moment_s": st.floats(0.0, 0.15)}
    plan = st.builds(
        Case, st.just("plan"), st.sampled_from(BLANKER + READ_BACK + ELSEWHERE), deed=st.sampled_from(DEEDS), **common
    )
    deeds = ("nothing", "stop", "pause, then stop", "disarm")
    eject = st.builds(
        Case, st.just("eject"), st.sampled_from(BLANKER + READ_BACK + CLOCK + ("park raises", "nothing")),
        deed=st.sampled_from(deeds), **common,
    )  # fmt: skip
    return st.one_of(plan, eject)


class Truth:
    """The beam as it is, and what is wrong with whoever commands it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.on = False
        self.calls: dict[str, int] = {}
        self.unblanked_under_alarm = 0
        self.interlock: Interlock | None = None

    def breaks(self, what: str) -> bool:
        """Count a call, and return whether it is to go wrong."""
        n = self.calls[what] = self.calls.get(what, 0) + 1
        return n == self.case.at or (self.case.lasts and n >= self.case.at)

    def command(self, blanked: bool) -> None:
        """Blank or unblank, or fail to."""
        if not blanked and self.interlock is not None and self.interlock.alarm:
            self.unblanked_under_alarm += 1
        fault = self.case.fault
        if fault in BLANKER and self.breaks("blank"):
            if fault == "hangs":
                time.sleep(HANG_S)
            elif fault == "slow":
                time.sleep(0.05)
            elif fault == "raises":
                raise BrokenError("serial port")
            if (fault == "sticks on" and blanked) or (fault == "sticks off" and not blanked):
                return
            self.on = not blanked
            if fault == "does it and raises":
                raise BrokenError("late answer")
            return
        self.on = not blanked

    def read(self):
        """Return what the read-back says."""
        fault = self.case.fault
        if fault in READ_BACK and self.breaks("read"):
            if fault == "read raises":
                raise BrokenError("no answer")
            if fault == "read hangs":
                time.sleep(HANG_S)
            lies = {"read is NaN": float("nan"), "read says on": False, "read says blanked": True}
            return lies.get(fault, not self.on)
        return not self.on

    def trips(self, what: str) -> bool:
        """Return whether some other call goes wrong."""
        return self.case.fault == what and self.breaks(what)


class Bench:
    """An instrument that scans and exposes in milliseconds."""

    def __init__(self, truth: Truth) -> None:
        self.truth, self.name = truth, f"bench {id(self)}"

    @property
    def is_blanked(self):
        return self.truth.read()

    def blank(self, blanked):
        self.truth.command(blanked)

    def park(self, place):
        if self.truth.trips("park raises"):
            raise BrokenError("park")

    def stop_scan(self):
        pass

    def scan(self, frame, cancel):
        if self.truth.trips("scan raises"):
            raise BrokenError("scan")
        if self.truth.trips("scan hangs"):
            time.sleep(HANG_S)
        if cancel.wait(0.005):
            raise Cancelled("cancelled")
        return Image(frame, np.random.default_rng(0).normal(100, 10, frame.shape).astype(np.float32), time.time())

    def expose(self, camera, exposure_s, cancel):
        if self.truth.trips("camera raises"):
            raise BrokenError("camera")
        if cancel.wait(exposure_s):
            raise Cancelled("cancelled")
        data = np.random.default_rng(1).poisson(50, 32).astype(np.float32)
        return CameraFrame(data, exposure_s, 0.0, 1.0, "eV", float(data.max()), 1)

    def read_dark_field(self, seconds, cancel):
        return Reading(10.0, seconds)

    def is_synchronised(self, camera):
        return False

    def hold(self):
        pass

    def release(self):
        if self.truth.trips("release raises"):
            raise BrokenError("release")


class Beam:
    """A virtual beam behind a blanker that may break."""

    def __init__(self, beam, truth: Truth) -> None:
        self._beam, self._truth = beam, truth

    def __getattr__(self, name):
        return getattr(self._beam, name)

    @property
    def is_blanked(self):
        return self._truth.read()

    def blank(self):
        self._truth.command(True)
        return NO_COUNTS if self._truth.on else self._beam.blank()

    def unblank(self):
        self._truth.command(False)
        if self._truth.on:
            self._beam.unblank()

    def park(self, place):
        if self._truth.trips("park raises"):
            raise BrokenError("park")
        self._beam.park(place)

    def read(self):
        time.sleep(2e-4)
        return self._beam.read()

    def now(self):
        fault = self._truth.case.fault
        jump = {"clock goes back": -3600.0, "clock goes ahead": 3600.0, "clock is NaN": float("nan")}.get(fault, 0.0)
        return self._beam.now() + (jump if fault in CLOCK and self._truth.breaks("clock") else 0.0)


@dataclasses.dataclass
class End:
    """How a case ended."""

    case: Case
    on: bool
    told: str
    outcome: str
    alarm: str
    stop_s: float
    unblanked_under_alarm: int
    ended: bool
    written: str = ""
    """How the documents say that it ended."""

    @property
    def fault(self) -> str:
        """What is wrong with it; empty if nothing is."""
        if not self.ended:
            return "it did not end"
        if self.unblanked_under_alarm:
            return "the beam was let on while an alarm stood"
        if self.on and not (self.alarm and self.told.startswith("THE BEAM MAY STILL BE ON")):
            return "the beam is on, and nobody was told"
        if self.alarm and not self.told.startswith("THE BEAM MAY STILL BE ON"):
            return "the alarm was not told"
        if self.alarm and self.outcome in ("completed", "stopped", "aborted", "done"):
            return "it counts as ended well although an alarm stands"
        if self.on and self.written == "success":
            return "the documents say that it ended well although the beam is on"
        if self.outcome == "failed" and not self.told:
            return "it failed without a word"
        return ""


@contextlib.contextmanager
def quick():
    """Let the interlock be impatient."""
    names = {"ANSWER_S": ANSWER_S, "TOLERANCE_S": TOLERANCE_S, "_RESCUE_S": 10.0, "_AGAIN_S": 0.005}
    before = {name: getattr(interlock, name) for name in names}
    for name, value in names.items():
        setattr(interlock, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(interlock, name, value)


def carried_out(case: Case) -> End:
    """Let a case happen, and return how it ended."""
    with quick():
        return (_plan if case.run == "plan" else _eject)(case)


def _plan(case: Case) -> End:
    truth = Truth(case)
    microscope = Microscope(Bench(truth))
    truth.interlock = microscope.interlock
    documents: list[tuple[str, dict]] = []
    runner = Runner(microscope, document=lambda name, document: documents.append((name, document)))
    places = np.random.default_rng(2).uniform(-10, 10, (12, 2))
    runner.start(acquire.points(microscope, FRAME, places, exposure_s=0.004))
    time.sleep(case.moment_s)
    start = time.perf_counter()
    if case.deed == "stop":
        runner.stop()
    elif case.deed == "abort":
        runner.abort()
    elif case.deed == "close":
        threading.Thread(target=runner.close).start()
    elif case.deed == "stopped by somebody else":
        microscope.interlock.stop()
    elif case.deed == "operation is killed":
        microscope.cancel()
    elif case.deed == "pause, then stop":
        runner.pause()
        time.sleep(0.05)
        runner.stop()
    stop_s = time.perf_counter() - start
    ended = runner.wait(30)
    end = End(
        case, truth.on, runner.error, runner.outcome, microscope.interlock.alarm, stop_s,
        truth.unblanked_under_alarm, ended, next((d["exit_status"] for n, d in documents if n == "stop"), ""),
    )  # fmt: skip
    _disarm(microscope.interlock, truth)
    return end


def _eject(case: Case) -> End:
    rig = rigs.Disulfide(seed=1)
    truth = Truth(case)
    rig.beam = Beam(rig.beam, truth)

    def find(image, sampling):
        if case.fault == "finding raises" and truth.breaks("finding"):
            raise BrokenError("finding")
        return rigs.Rig.find(rig, image, sampling)

    rig.find = find
    sites = rig.near((8, 8), (22, 22))
    run = rig.run(ClosedLoop(sites, wanted=["S1"] * len(sites)), limits=rigs.PLENTY)
    truth.interlock = run.guard.interlock
    told: list[tuple[str, str]] = []

    def carry_out():
        try:
            told.append((run.run(), ""))
        except BeamAlarm as error:
            told.append(("failed", str(error)))
        except Exception as error:
            told.append(("failed", f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=carry_out, daemon=True)
    thread.start()
    time.sleep(case.moment_s)
    start = time.perf_counter()
    if case.deed == "stop":
        run.stop()
    elif case.deed == "disarm":
        run.guard.disarm()
    elif case.deed == "pause, then stop":
        run.guard.pause()
        run.stop()
    stop_s = time.perf_counter() - start
    thread.join(60)
    outcome, sentence = told[0] if told else ("", "")
    end = End(
        case, truth.on, sentence, outcome, run.guard.interlock.alarm, stop_s, truth.unblanked_under_alarm,
        not thread.is_alive(),
    )  # fmt: skip
    _disarm(run.guard.interlock, truth)
    return end


def _disarm(lock: Interlock, truth: Truth) -> None:
    """Let nothing of a case go on into the next."""
    truth.case = dataclasses.replace(truth.case, fault="nothing")
    with contextlib.suppress(Exception):
        lock.blank()
        lock.acknowledge()
