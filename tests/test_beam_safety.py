"""However a run ends, the beam is off and shown as off, or the alarm is raised."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import pytest
from hypothesis import HealthCheck, example, given, settings

pytest.importorskip("bluesky")

from bluesky.utils import Msg

from stem_ae import StemAeError
from stem_ae.manipulate import Limits
from stem_ae.manipulate.beam import NO_COUNTS
from stem_ae.manipulate.guard import Guard, Interrupted
from stem_ae.microscope import deadline, devices, interlock
from stem_ae.microscope.devices import Microscope
from stem_ae.microscope.instrument import Cancelled
from stem_ae.microscope.interlock import BeamAlarm, BeamTaken, Interlock, NoBeam
from stem_ae.plans import Runner, acquire
from tests import beam_machine
from tests.beam_machine import BLANKER, READ_BACK, Case, carried_out, cases


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
@example(Case("plan", "sticks on", 4, True, "nothing", 0.0))
@example(Case("plan", "sticks on", 4, True, "stop", 0.05))
@example(Case("eject", "raises", 5, True, "nothing", 0.0))
@example(Case("eject", "clock goes back", 9, True, "nothing", 0.0))
@example(Case("eject", "read raises", 1, False, "nothing", 0.0))
@example(Case("eject", "hangs", 1, False, "stop", 0.0))
def test_however_a_run_ends_the_beam_is_off_or_the_alarm_is_told(case):
    assert carried_out(case).fault == ""


@pytest.mark.parametrize("fault", BLANKER + READ_BACK)
def test_a_blanker_that_breaks_for_good_in_a_plan(fault):
    end = carried_out(Case("plan", fault, 4, True, "nothing", 0.0))
    assert end.fault == ""
    assert (end.outcome == "completed") == (fault == "slow")


class Blanker:
    """A blanker that does as told, or not."""

    name = "blanker"

    def __init__(self):
        self.on, self.sticks, self.hangs_s, self.unblank_s, self.parked = False, False, 0.0, 0.0, 0

    @property
    def is_blanked(self):
        return not self.on

    def blank(self, blanked):
        time.sleep(self.hangs_s if blanked else self.unblank_s)
        if not self.sticks:
            self.on = not blanked

    def park(self, place):
        self.parked += 1


def test_an_alarm_stands_until_a_person_acknowledges_and_the_beam_is_read_as_off():
    blanker = Blanker()
    interlock = Interlock.of(blanker)
    assert Interlock.of(blanker) is interlock
    heard = threading.Event()
    interlock.listen(lambda: heard.set() if interlock.alarm else None)
    interlock.unblank()
    assert interlock.state == "on"
    blanker.sticks = True
    with pytest.raises(BeamAlarm, match="THE BEAM MAY STILL BE ON"):
        interlock.blank()
    assert heard.wait(5)
    assert (interlock.state, blanker.parked) == ("on", 1)
    with pytest.raises(BeamAlarm):
        interlock.unblank()
    with pytest.raises(StemAeError, match="still read as on"):
        interlock.acknowledge()
    blanker.sticks, blanker.on = False, False
    interlock.acknowledge()
    assert (interlock.alarm, interlock.state) == ("", "blanked")
    interlock.unblank()
    interlock.blank()


def test_the_alarm_can_be_acknowledged_while_a_command_that_came_late_is_followed_by_another_blanking():
    blanker = Blanker()
    interlock = Interlock.of(blanker)
    interlock.unblank()
    blanker.sticks = True
    with pytest.raises(BeamAlarm):
        interlock.blank()
    blanker.sticks, blanker.on, blanker.hangs_s = False, False, 0.1
    interlock.darken(0.0)  # as the interlock does after a command that came late
    end = time.monotonic() + 5
    while interlock.state != "unknown" and time.monotonic() < end:
        time.sleep(0.001)
    interlock.acknowledge()
    assert (interlock.alarm, interlock.state) == ("", "blanked")


class Ring:
    """Refers to itself: only the collector gets rid of it."""

    def __init__(self):
        self.self = self


def test_no_collection_goes_through_everything_while_the_beam_is_on_and_nothing_leaks(monkeypatch):
    monkeypatch.setattr("stem_ae.microscope.interlock._IDLE_S", 0.2)
    end = time.monotonic() + 20
    while gc.get_freeze_count() and time.monotonic() < end:  # an earlier test's
        time.sleep(0.02)
    interlock = Interlock.of(blanker := Blanker())
    gc.disable()  # nothing but what is called here
    try:
        before = weakref.ref(Ring())
        interlock.unblank()
        meanwhile = weakref.ref(Ring())
        gc.collect()
        assert blanker.on
        assert before() is not None
        assert meanwhile() is None
        interlock.blank()
        while gc.get_freeze_count() and time.monotonic() < end:
            time.sleep(0.02)
        gc.collect()
        assert before() is None
    finally:
        gc.enable()


def test_a_slow_read_is_not_taken_for_what_a_later_command_did():
    class SlowToRead(Blanker):
        slow = False

        @property
        def is_blanked(self):
            is_blanked, is_slow = not self.on, self.slow
            self.slow = False
            time.sleep(0.2 * is_slow)
            return is_blanked

    blanker = SlowToRead()
    interlock = Interlock.of(blanker)
    blanker.slow = True
    thread = threading.Thread(target=interlock.read)  # a panel's
    thread.start()
    time.sleep(0.05)
    interlock.unblank()
    thread.join()
    assert interlock.state == "on"
    interlock.blank()


def test_a_pause_says_what_was_read_although_somebody_blanks_again():
    blanker, ended = Blanker(), threading.Event()
    interlock = Interlock.of(blanker)
    blanker.hangs_s = 0.02

    def blank_again() -> None:  # such as the end of a run
        while not ended.is_set():
            interlock.blank()

    other = threading.Thread(target=blank_again)
    other.start()
    try:
        assert all(interlock.darken(5.0) for _ in range(10))
    finally:
        ended.set()
        other.join()


def test_an_unblanking_that_begins_after_it_was_given_up_does_not_happen(monkeypatch):
    class Counting(Blanker):
        unblanked = 0

        def blank(self, blanked):
            self.unblanked += not blanked
            super().blank(blanked)

    blanker, perform = Counting(), deadline._Call.perform
    interlock_of = Interlock.of(blanker)
    interlock_of.blank()

    def begin_late(call):
        time.sleep(0.3)  # as a thread on a busy computer
        perform(call)

    monkeypatch.setattr(deadline._Call, "perform", begin_late)
    monkeypatch.setattr(interlock, "ANSWER_S", 0.1)
    with pytest.raises(BeamAlarm):
        interlock_of.unblank()
    time.sleep(1.0)
    assert blanker.unblanked == 0
    assert not blanker.on


def test_a_beam_that_does_not_come_on_is_no_data():
    blanker = Blanker()
    blanker.sticks = True
    with pytest.raises(NoBeam, match="did not come on"):
        Interlock.of(blanker).unblank()
    assert Interlock.of(blanker).state == "blanked"
    assert not Interlock.of(blanker).alarm


def test_stop_returns_at_once_although_the_blanker_hangs_and_a_hang_is_an_alarm():
    blanker = Blanker()
    interlock = Interlock.of(blanker)
    interlock.unblank()
    blanker.hangs_s = 3.0
    start = time.perf_counter()
    interlock.stop()
    assert time.perf_counter() - start < 0.5  # 0.08 s on an idle machine
    assert interlock.state != "blanked"
    end = time.monotonic() + 10
    while not interlock.alarm and time.monotonic() < end:
        time.sleep(0.01)
    assert "has not answered" in interlock.alarm
    blanker.hangs_s = 0.0
    while interlock.state != "blanked" and time.monotonic() < end:
        time.sleep(0.01)
    assert not blanker.on
    assert interlock.alarm  # until somebody has seen it


@pytest.mark.parametrize("how", ["pause", "stop", "disarm"])
def test_an_unblanking_under_way_comes_to_nothing(how):
    class Slow:
        is_blanked = True

        def now(self):
            return time.monotonic()

        def blank(self):
            self.is_blanked = True
            return NO_COUNTS

        def unblank(self):
            time.sleep(0.05)
            self.is_blanked = False

    beam = Slow()
    guard = Guard(beam, Limits())
    guard.arm()
    said = []

    def expose():
        try:
            with guard.beam_on():
                said.append("on")
        except Interrupted:
            said.append("interrupted")

    thread = threading.Thread(target=expose)
    thread.start()
    time.sleep(0.02)
    getattr(guard, how)()
    end = time.monotonic() + 0.3
    while guard.interlock.state != "blanked" and time.monotonic() < end:  # a busy machine may need longer, and says so
        time.sleep(0.001)
    assert beam.is_blanked
    thread.join(5)
    assert said == ["interrupted"]
    assert beam.is_blanked


def test_a_hold_refuses_and_a_lease_that_runs_out_takes_the_beam():
    blanker = Blanker()
    interlock = Interlock.of(blanker)
    interlock.stop()
    with pytest.raises(Cancelled):
        interlock.unblank()
    interlock.reopen()
    interlock.unblank()
    interlock.renew(0.05)
    end = time.monotonic() + 5
    while blanker.on and time.monotonic() < end:
        time.sleep(0.01)
    assert not blanker.on
    with pytest.raises(BeamTaken, match="may hang"):
        interlock.unblank()
    interlock.unblank()
    interlock.blank()


def test_secure_tries_every_step_and_tells_every_failure():
    class Instrument(Blanker):
        name = "instrument"
        released = 0

        def park(self, place):
            raise RuntimeError("no probe")

        def release(self):
            self.released += 1
            raise StemAeError("The scan does not answer.")

    instrument = Instrument()
    microscope = Microscope(instrument)
    microscope.interlock.unblank()
    with pytest.raises(StemAeError, match=r"no probe.*The scan does not answer"):
        microscope.secure()
    assert not instrument.on
    microscope.interlock.unblank()
    instrument.sticks = True
    with pytest.raises(BeamAlarm, match=r"STILL BE ON.*no probe.*The scan does not answer"):
        microscope.secure()
    assert instrument.released == 2


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("fault", ["raises", "read raises", "park raises", "camera raises"])
def test_a_driver_that_is_cancelled_or_exits_has_failed(error, fault, monkeypatch):
    """These are no ``Exception``; they would end the engine, or get past the interlock with the beam on."""
    monkeypatch.setattr(beam_machine, "BrokenError", error)
    end = carried_out(Case("plan", fault, 3, True, "nothing", 0.0))
    assert end.fault == ""
    assert end.outcome == "failed"
    assert error.__name__ in end.told or end.alarm


def test_a_run_that_the_engine_breaks_off_is_not_completed():
    def plan():
        yield Msg("checkpoint")
        raise asyncio.CancelledError

    runner = Runner(Microscope(beam_machine.Bench(beam_machine.Truth(Case("plan", "nothing", 1, False, "", 0.0)))))
    runner.start(plan())
    assert runner.wait(10)
    assert runner.outcome == "failed"
    assert runner.error


def test_a_microscope_that_does_not_answer_holds_no_run_for_ever(monkeypatch):
    monkeypatch.setattr(devices, "_ANSWER_S", 0.1)
    released = threading.Event()
    bench = beam_machine.Bench(beam_machine.Truth(Case("plan", "nothing", 1, False, "", 0.0)))
    bench.park = lambda place: released.wait(5) if place else None
    runner = Runner(Microscope(bench))
    runner.start(acquire.points(runner.microscope, beam_machine.FRAME, [(1.0, 1.0)], exposure_s=0.004))
    assert runner.wait(3)
    released.set()
    assert runner.outcome == "failed"
    assert "not answered for 0.1 s (probe)" in runner.error
    assert not bench.truth.on


def test_a_clock_that_is_set_back_or_is_none_disarms():
    class Beam:
        t = 1e9

        def now(self):
            return self.t

        def blank(self):
            return NO_COUNTS

    for jump in (-3600.0, float("nan")):
        beam = Beam()
        guard = Guard(beam, Limits(armed_s=600))
        guard.arm()
        assert guard.armed_left_s == pytest.approx(600)
        beam.t += jump
        assert guard.armed_left_s == 0
        assert guard.interrupted
        beam.t = 1e9
        assert guard.interrupted  # until somebody arms again
