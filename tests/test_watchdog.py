"""The beam goes off when the program is killed or stopped, and the next start reports it."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from stem_ae import StemAeError, processes
from stem_ae.microscope import link, watchdog
from stem_ae.microscope.interlock import BeamTaken, Interlock
from stem_ae.microscope.simulated_blanker import SimulatedBlanker

PROGRAM = """
import json, sys, time
sys.path.insert(0, {tests!r})
from stem_ae.microscope.interlock import Interlock
from tests.test_watchdog import Instrument
instrument = Instrument()
Interlock.of(instrument).unblank()
print(json.dumps(instrument.blanker_link), flush=True)
while True:
    time.sleep(0.1)
    Interlock.of(instrument).renew()
"""


class Instrument:
    """A blanker in a process of its own, which the watchdog reaches, too."""

    name = "test microscope"

    def __init__(self, command=None):
        self.blanker = SimulatedBlanker()
        self.blanker_link = command or self.blanker.link

    @property
    def is_blanked(self):
        return self.blanker.read()

    def blank(self, blanked):
        self.blanker.set(blanked)

    def park(self, place):
        pass


@pytest.fixture(autouse=True)
def records(tmp_path, monkeypatch):
    monkeypatch.setenv("STEM_AE_WATCHDOG_RECORDS", str(tmp_path / "records"))
    return tmp_path / "records"


def wait_for(condition, timeout_s=15.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_program_that_is_killed_or_stopped_loses_the_beam_and_the_next_start_is_told(number):
    program = PROGRAM.format(tests=str(pathlib.Path(__file__).parents[1]))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=processes.environment()
    )
    description = json.loads(process.stdout.readline())
    blanker = link.SocketLink(tuple(description["address"]), description["token"])
    assert not blanker.is_blanked()
    time.sleep(0.5)
    assert not blanker.is_blanked()  # nothing takes it as long as all is well
    os.kill(process.pid, number)
    wait_for(blanker.is_blanked)
    wait_for(watchdog.untold)
    ((path, sentence),) = watchdog.untold()
    assert "blanked the beam" in sentence
    assert ("has ended" if number == signal.SIGKILL else "nothing was heard") in sentence
    watchdog.tell(path)
    assert not watchdog.untold()
    process.kill()
    process.wait()
    process.stdout.close()
    blanker.close()

    def is_gone():  # nobody is left: it goes away by itself
        try:
            link.SocketLink(tuple(description["address"]), description["token"]).close()
        except link.LinkError:
            return True
        time.sleep(4.0)
        return False

    wait_for(is_gone)


def test_a_watchdog_that_dies_is_said_and_replaced():
    instrument = Instrument()
    interlock = Interlock.of(instrument)
    interlock.unblank()
    os.kill(interlock.watchdog.pid, signal.SIGTERM)
    wait_for(instrument.blanker.read)
    wait_for(lambda: interlock.state == "blanked")
    with pytest.raises(BeamTaken, match="does not work any more"):
        interlock.kept()
    interlock.unblank()
    interlock.blank()
    instrument.blanker.close()


def test_without_a_way_to_the_blanker_nothing_is_exposed(monkeypatch):
    instrument = Instrument({"command": ["/nowhere/blanker"]})
    with pytest.raises(StemAeError, match="watchdog that blanks the beam if this program dies does not work"):
        Interlock.of(instrument).unblank()
    assert instrument.blanker.read()
    monkeypatch.setenv(link.COMMAND_VARIABLE, "blanker 'half")
    with pytest.raises(StemAeError, match="not a command line"):
        link.from_environment()
    monkeypatch.setenv(link.COMMAND_VARIABLE, "blanker --port 3")
    assert link.from_environment() == {"command": ["blanker", "--port", "3"]}
    instrument.blanker.close()


def test_the_link_may_be_a_program(tmp_path):
    state = tmp_path / "state"
    state.write_text("on")
    program = tmp_path / "blanker.py"
    program.write_text(
        "import pathlib, sys\n"
        f"state = pathlib.Path({str(state)!r})\n"
        "if sys.argv[1] == 'blank': state.write_text('blanked')\n"
        "else: print(state.read_text())\n"
    )
    command = link.opened({"command": [sys.executable, str(program)]})
    assert not command.is_blanked()
    command.blank()
    assert command.is_blanked()
    state.write_text("perhaps")
    with pytest.raises(link.LinkError, match="perhaps"):
        command.is_blanked()


def test_a_stranger_does_not_command_the_simulated_blanker():
    blanker = SimulatedBlanker()
    host, port = blanker.link["address"]
    with pytest.raises(link.LinkError):
        link.SocketLink((host, port), "guessed")
    blanker.set(False)
    blanker.ask("stick")
    blanker.set(True)
    assert not blanker.read()
    blanker.ask("free")
    blanker.set(True)
    assert blanker.read()
    blanker.close()
