"""The Eject panel's buttons, in any order, with everything that can go wrong: a state machine for Hypothesis.

After whatever has ended a run, the beam is off as read from the simulated microscope, and that is said; or the alarm
stands in the panel and above the displays.
"""

from __future__ import annotations

import collections
import contextlib
import pathlib
import sys
import tempfile
import threading
import time
import types
import typing
import unittest.mock
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from nionswift_plugin.stem_ae_ui import stop_key
from nionswift_plugin.stem_ae_ui.beam_watch import WATCH
from stem_ae import StemAeError
from tests.ejection_rig import Swift, headless

HANG_S = 8.0
AT_ONCE_S = 4.0
"""What a button may take at most, with a blanker that hangs twice as long: generous, for machines that are busy."""
END_S = 60.0


class Blanker:
    """The simulated microscope's blanker, with faults from its k-th command on."""

    def __init__(self, instrument: Any) -> None:
        self._instrument, self._real = instrument, instrument.SetVal
        self.released = threading.Event()
        self.fault, self._left, self.commands = "", 0, 0
        instrument.SetVal = self._set

    def fail(self, fault: str, after: int) -> None:
        """Be faulty after some more commands."""
        self.fault, self._left = fault, after

    def repair(self) -> None:
        """Work again."""
        self.fault = ""
        self.released.set()

    def close(self) -> None:
        """Take the faults out of the microscope."""
        self.repair()
        self._instrument.SetVal = self._real

    def _set(self, name: str, value: float) -> bool:
        if name != "C_Blank":
            return bool(self._real(name, value))
        self.commands += 1
        self._left -= 1
        if self.fault and self._left < 0:
            return self._faulty(value)
        return bool(self._real(name, value))

    def _faulty(self, value: float) -> bool:
        if self.fault == "hangs":
            self.released.wait(HANG_S)
            return bool(self._real("C_Blank", value))
        if self.fault == "raises":
            raise OSError("serial port")
        if self.fault == "refuses":
            return False
        if self.fault == "stuck on":
            return True if value else bool(self._real("C_Blank", value))
        if self.fault == "stuck off":
            return bool(self._real("C_Blank", value)) if value else True
        self.fault = ""  # "once": one command is lost
        return True


FAULTS = ("hangs", "raises", "refuses", "stuck on", "stuck off", "once")


class EjectPanel(RuleBasedStateMachine):
    """One case: some presses of buttons and some mishaps, then the end."""

    swift: Swift
    """Set by :func:`machine`; all cases use the same one."""
    counts: typing.ClassVar[collections.Counter[str]] = collections.Counter()
    """What has happened in all cases."""

    def __init__(self) -> None:
        super().__init__()
        self.counts["cases"] += 1
        self._stack = contextlib.ExitStack()
        self._offset_s = 0.0
        self._has_run = self._pressed_stop = False

    # --- the beginning ----------------------------------------------------------------------------------------------

    @initialize(
        count=st.integers(1, 3), begin=st.sampled_from(["nothing", "armed", "running", "exposing", "exposing"]),
        fault=st.sampled_from(["", "", "", "", *FAULTS]), after=st.integers(0, 30),
    )  # fmt: skip
    def look_and_choose(self, count: int, begin: str, fault: str, after: int) -> None:
        swift, now = self.swift, time.time
        self.blanker = Blanker(swift.simulator.instrument)
        self._stack.callback(self.blanker.close)

        def clock() -> float:
            return now() + self._offset_s

        # Swift's own loops sleep for as long as the clock is set back, and would end an hour after the test.
        true_time = types.SimpleNamespace(**vars(time))
        for name, module in list(sys.modules.items()):
            if name.startswith("nion.") and getattr(module, "time", None) is time:
                self._stack.enter_context(unittest.mock.patch.object(module, "time", true_time))
        self._stack.enter_context(unittest.mock.patch("time.time", clock))
        swift.panel.show()
        swift.simulator.instrument.SetVal("C_Blank", 0.0)
        if swift.scan_item() is None:  # the case before has deleted the image: the scan makes another
            swift.scan.start_playing()
        swift.show()
        before = swift.atoms.newest
        swift.scan.start_playing()
        swift.pump(lambda: swift.atoms.newest is not before and len(swift.atoms.newest.atoms) > 50)
        swift.model.clear()
        swift.choose(*[(12, 12), (18, 18), (12, 20)][:count])
        assert len(swift.model.sites) == count
        self.blanker.fail(fault, after)
        if begin == "armed":
            self.arm()
        elif begin != "nothing":
            self.run()
        if begin == "exposing":
            exposing = lambda: "exposing" in swift.model.states or not swift.model.is_running  # noqa: E731
            swift.pump(exposing, END_S)

    def _press(self, press: Any) -> None:
        self.counts["presses"] += 1
        self.counts["presses with the beam on"] += not self.swift.is_blanked
        start = time.monotonic()
        press()
        took = time.monotonic() - start
        assert took < AT_ONCE_S, f"the user interface was held up for {took:.1f} s"

    # --- what a user does -------------------------------------------------------------------------------------------

    @rule()
    def arm(self) -> None:
        self._press(lambda: self.swift.handler.arm_clicked(None))
        self._has_run &= self.swift.model.is_running  # arming anew clears what was said of the run before

    @rule()
    def run(self) -> None:
        model = self.swift.model
        was_running = model.is_running
        self._press(lambda: self.swift.handler.arm_clicked(None))
        self._press(lambda: self.swift.handler.run_clicked(None))
        if model.is_running and not was_running:
            self._has_run = True
            self.counts["runs"] += 1
            self.blanker.released.clear()

    @rule()
    def pause(self) -> None:
        self._press(lambda: self.swift.handler.pause_clicked(None))

    @rule(how=st.sampled_from(["button", "key", "banner"]))
    def stop(self, how: str) -> None:
        swift = self.swift
        presses = {
            "button": lambda: swift.handler.stop_clicked(None),
            "banner": lambda: swift.banner.handler.stop_clicked(None),
            "key": lambda: swift.window.perform_action(stop_key.ACTION_ID),
        }  # fmt: skip
        self._press(presses[how])
        self._pressed_stop = True

    @rule(how=st.sampled_from(["panel", "dock"]))
    def hide(self, how: str) -> None:
        self._press(self.swift.panel.hide if how == "panel" else self.swift.panel.dock_widget._handle_hide)
        self.swift.panel.show()

    @rule()
    def rehearse(self) -> None:
        if not self.swift.model.is_live:
            self._press(lambda: self.swift.handler.rehearse_clicked(None))

    @rule(seconds=st.sampled_from([0.02, 0.1, 0.3, 0.6]))
    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.swift.window.periodic()
            time.sleep(0.002)

    # --- what goes wrong --------------------------------------------------------------------------------------------

    @rule(fault=st.sampled_from(FAULTS), after=st.integers(0, 12))
    def blanker_fails(self, fault: str, after: int) -> None:
        self.blanker.fail(fault, after)

    @rule(error=st.sampled_from([StemAeError, RuntimeError, MemoryError]))
    def finder_fails(self, error: type[Exception]) -> None:
        self.swift.truth.fault = error

    @rule(what=st.sampled_from(["scan", "survey"]))
    @precondition(lambda self: self.swift.model.is_live)
    def image_goes(self, what: str) -> None:
        document = self.swift.window.document_model
        item = self.swift.scan_item()
        if what == "survey":
            item = document.get_data_item_reference("stem_ae_ejection_survey").data_item
        if item is not None:
            self._press(lambda: document.remove_data_item(item))

    @rule(seconds=st.sampled_from([-3600.0, -5.0, 5.0, 3600.0]))
    def clock_jumps(self, seconds: float) -> None:
        self._offset_s += seconds

    # --- the end ----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if not hasattr(self, "blanker"):
                return
            self.swift.window.periodic()
            if self.swift.model.is_running or self.swift.model.is_live:
                self.stop("button")
            self.swift.pump(lambda: not self.swift.model.is_running, END_S)
            if self._has_run or self._pressed_stop:
                self._check_end()
        finally:
            self._repair()

    def _check_end(self) -> None:
        """See that the beam is off and that this is said, or that the alarm stands wherever a user looks."""
        swift, model = self.swift, self.swift.model
        swift.pump(self._is_settled, END_S)
        beam = swift.banner.beam
        beam.refresh()
        assert model.armed_left_s == 0
        assert not WATCH.armed
        assert not {"aiming", "exposing", "verifying"} & set(model.states), model.states
        self.counts["ends with the alarm" if WATCH.alarm else "ends blanked"] += 1
        self.counts["ends by themselves, or by what went wrong"] += not self._pressed_stop
        self.counts["commands to the blanker"] += self.blanker.commands
        self.counts["exposures"] += sum(fate.tried for fate in model._EjectionModel__choice.fates)
        if WATCH.alarm:
            assert "THE BEAM MAY STILL BE ON" in beam.alarm
            assert beam.has_alarm
            assert beam.words != "Beam blanked" or swift.is_blanked
        else:
            assert swift.is_blanked, (model.texts, self.blanker.fault)
            assert beam.words == "Beam blanked"
        if self._has_run:
            assert model.texts.message

    def _is_settled(self) -> bool:
        """Return whether what was read of the beam is not about to change: a command that hangs comes to its end."""
        interlock = WATCH.interlock
        assert interlock is not None
        return bool(WATCH.alarm) or interlock.state == "blanked"

    def _repair(self) -> None:
        swift = self.swift
        swift.truth.fault = None
        if hasattr(self, "blanker"):
            self.blanker.repair()
        swift.model.stop()
        swift.pump(lambda: not swift.model.is_running, END_S)
        self._stack.close()
        interlock = WATCH.interlock
        assert interlock is not None
        swift.simulator.instrument.SetVal("C_Blank", 1.0)
        swift.pump(lambda: interlock.read() == "blanked")
        interlock.acknowledge()
        interlock.reopen()
        assert not WATCH.alarm


@contextlib.contextmanager
def machine() -> Any:
    """Return the state machine, on a headless Swift of its own."""
    with tempfile.TemporaryDirectory() as folder, headless(
        pathlib.Path(folder), networks=False, fov=30.0, pixels=128
    ) as swift:
        swift.look()
        swift.model.timeout = "0.3"
        EjectPanel.swift = swift
        EjectPanel.counts.clear()
        yield EjectPanel
        del EjectPanel.swift
