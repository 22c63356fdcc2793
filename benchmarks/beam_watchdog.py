"""How soon the beam is off when the program dies or hangs in the middle of an exposure or a scan.

A plan runs on the simulated microscope in headless Swift (``--kind script``), or in the real Nion Swift
(``--kind swift``); its blanker is a process of its own. At a random moment with the beam on the program is killed
(SIGKILL) or stopped (SIGSTOP). The times are the blanker's own, on the system's monotonic clock: from just before the
signal to its being blanked. Whether it is blanked at the end is read from the blanker by a third process, this one.

    python benchmarks/beam_watchdog.py --kind script --kills 200
    python benchmarks/beam_watchdog.py --kind script --kills 50 --signal STOP
    python benchmarks/beam_watchdog.py --kind swift --kills 10
    python benchmarks/beam_watchdog.py --kind cost
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import faulthandler
import importlib
import json
import logging
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import numpy as np

from stem_ae.microscope import watchdog
from stem_ae.microscope.frame import Frame
from stem_ae.microscope.link import SocketLink

FRAME = Frame(fov=40.0, shape=(64, 64), dwell_us=1.0)
WITHIN_S = 0.5
WAIT_S = 3.0


# --- the program that is killed ---------------------------------------------------------------------------------------


def exposures(microscope):
    """Return a plan that exposes a camera for 0.4 s at many places."""
    from stem_ae.plans import acquire

    places = np.random.default_rng(1).uniform(-10, 10, (5000, 2))
    return acquire.points(microscope, FRAME, places, exposure_s=0.4)


def scans(microscope):
    """Return a plan that scans frames of 0.8 s."""
    from stem_ae.plans import stubs

    slow = dataclasses.replace(FRAME, dwell_us=200.0)

    def plan():
        for _ in range(5000):
            yield from stubs.scan(microscope, slow)

    return stubs.as_run(microscope, "scans", plan())


def script(pipe, what, folder):
    """Run a plan in headless Swift until killed. Called in a process that was forked for it."""
    from nion.instrumentation.test import AcquisitionTestContext
    from nion.swift.test import TestContext

    from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
    from stem_ae.microscope.devices import Microscope
    from stem_ae.microscope.swift import SwiftInstrument
    from stem_ae.plans import Runner

    os.chdir(folder)
    setup = TestContext.TestSetup()
    simulator = AtomicMicroscope(folder, specimen="graphene with silicon", own_blanker=True)
    with AcquisitionTestContext.test_context(simulator, is_both_cameras=True):
        runner = Runner(Microscope(SwiftInstrument()), pathlib.Path(folder, "runs"))
        runner.start({"exposure": exposures, "scan": scans}[what](runner.microscope))
        os.write(pipe, json.dumps(simulator.instrument.blanker_link).encode() + b"\n")
        runner.wait(120)
        print("The run ended by itself:", runner.outcome, runner.error, flush=True)
    del setup


def forked(what, folder):
    """Start :func:`script` in a child of this process, which has imported everything, and return pid and link."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        with open(pathlib.Path(folder, "log.txt"), "wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        try:
            faulthandler.enable()
            script(writing, what, folder)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return pid, json.loads(pipe.readline())


async def expose_in_swift(window, what, link):
    """Run a plan in the real application until killed: a scenario."""
    import asyncio

    from nionswift_plugin import stem_ae_sim
    from nionswift_plugin.stem_ae_app import screen
    from stem_ae.microscope.devices import Microscope
    from stem_ae.microscope.swift import SwiftInstrument
    from stem_ae.plans import Runner

    screen.fill_screen(window)
    runner = Runner(Microscope(SwiftInstrument()), pathlib.Path(link).parent / "runs")
    runner.start({"exposure": exposures, "scan": scans}[what](runner.microscope))
    values = stem_ae_sim.current().instrument.blanker_link | {"pid": os.getpid()}
    pathlib.Path(link).with_suffix(".part").write_text(json.dumps(values))
    pathlib.Path(link).with_suffix(".part").rename(link)
    await asyncio.sleep(100)


def in_swift(what, folder):
    """Start the real application aside and return its pid and link."""
    from stem_ae.launch.process import run_scenario

    here = str(pathlib.Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    link = pathlib.Path(folder, "link.json")

    def run():
        try:
            run_scenario(
                "beam_watchdog:expose_in_swift", pathlib.Path(folder, "swift"), virtual=True, what=what, link=str(link)
            )
        except Exception as error:
            logging.getLogger(__name__).info("Swift has ended: %s", error)

    threading.Thread(target=run, daemon=True).start()
    end = time.monotonic() + 90
    while not link.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"Swift does not start, see {folder}")
        time.sleep(0.1)
    values = json.loads(link.read_text())
    return values["pid"], values


# --- one trial --------------------------------------------------------------------------------------------------------


def trial(kind, what, number, rng, too_early):
    """Let a program expose, end it at a random moment with the beam on, and return what became of the beam."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEM_AE_WATCHDOG_RECORDS"] = str(pathlib.Path(folder, "records"))
        pid, link = (in_swift if kind == "swift" else forked)(what, folder)
        blanker = SocketLink(tuple(link["address"]), link["token"])
        try:
            try:
                wait_for(lambda: len(json.loads(blanker.ask("history"))) >= 4, folder)  # the survey is done
                for longest_s in (1.0, 0.3):
                    time.sleep(rng.uniform(0.0, longest_s))
                    wait_for(lambda: not blanker.is_blanked(), folder)
            except TimeoutError as error:
                if "nothing was heard" not in str(error):
                    raise
                too_early.append(str(error))  # a machine with far more work than cores
                os.kill(pid, signal.SIGKILL)
                if kind != "swift":
                    os.waitpid(pid, 0)
                return trial(kind, what, number, rng, too_early)
            killed = time.monotonic()
            os.kill(pid, number)
            while not blanker.is_blanked() and time.monotonic() - killed < WAIT_S:
                time.sleep(0.005)
            time.sleep(0.05)
            is_blanked = blanker.is_blanked()
            history = json.loads(blanker.ask("history"))
            after = [t - killed for t, state in history if state == "blanked" and t > killed]
            was_on = [state for t, state in history if t <= killed][-1] == "on"
            end = time.monotonic() + 1.0  # it writes its record and then ends
            while not (records := watchdog.untold()) and time.monotonic() < end:
                time.sleep(0.01)
        finally:
            with_group = kind != "swift"
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                if with_group:
                    os.waitpid(pid, 0)
            blanker.close()
    if not was_on:  # the plan itself had blanked in the very moment
        return trial(kind, what, number, rng, too_early)
    return is_blanked, after[0] if after else float("inf"), len(records)


def wait_for(condition, folder):
    """Wait until something is the case; raise with what the program has said if that is not to be."""
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(pathlib.Path(folder, "log.txt").read_text()[-8000:])
        time.sleep(0.001)


def cost(count):
    """Return how long unblanking and blanking take, with a watchdog and without, in µs."""
    from stem_ae.microscope.interlock import Interlock
    from stem_ae.microscope.simulated_blanker import SimulatedBlanker

    class Instrument:
        name = "simulated"

        def __init__(self, is_watched):
            self.blanker = SimulatedBlanker()
            self.blanker_link = self.blanker.link if is_watched else None

        @property
        def is_blanked(self):
            return self.blanker.read()

        def blank(self, blanked):
            self.blanker.set(blanked)

        def park(self, place):
            pass

    result = {}
    for is_watched in (False, True):
        interlock = Interlock.of(Instrument(is_watched))
        took = np.empty((count, 2))
        for k in range(count):
            for column, command in enumerate((interlock.unblank, interlock.blank)):
                start = time.perf_counter()
                command()
                took[k, column] = time.perf_counter() - start
        name = "watched" if is_watched else "not watched"
        result[name] = {
            word: dict(zip(("p50", "p99"), np.percentile(1e6 * took[1:, k], [50, 99]).round(1).tolist(), strict=True))
            for k, word in enumerate(("unblank_us", "blank_us"))
        }
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["script", "swift", "cost"], default="script")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signal", choices=["KILL", "STOP"], default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.kind == "cost":
        print(json.dumps({"settings": vars(args), **cost(2000)}, indent=1))
        return
    logging.disable(logging.CRITICAL)
    if args.kind == "script":
        from nion.swift import Facade

        for module in ("nionswift_plugin.stem_ae_sim.configuration", "stem_ae.microscope.swift", "stem_ae.plans"):
            importlib.import_module(module)  # once, before the forks
        Facade.initialize()
    rng = random.Random(args.seed)
    results, too_early = {"exposure": [], "scan": []}, []
    for k in range(args.kills):
        what = ("exposure", "scan")[k % 2]
        results[what].append(trial(args.kind, what, getattr(signal, f"SIG{args.signal}"), rng, too_early))
        print(k + 1, what, results[what][-1], file=sys.stderr)
    everything = [r for of_kind in results.values() for r in of_kind]
    ms = 1e3 * np.array([took for _, took, _ in everything])
    print(
        json.dumps(
            {
                "settings": vars(args),
                "blanked": sum(blanked for blanked, *_ in everything),
                "within_500_ms": int(np.sum(ms <= 1e3 * WITHIN_S)),
                "of": len(everything),
                "ms": dict(zip(("p50", "p99", "max"), np.percentile(ms, [50, 99, 100]).round(1).tolist(), strict=True)),
                "taken_although_alive": len(too_early),
                "record_left": sum(records > 0 for *_, records in everything),
                "processes_left": processes_left(),
            },
            indent=1,
        )
    )


def processes_left():
    """Return how many watchdogs and blankers are there ten seconds later."""
    time.sleep(10.0)
    text = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    names = ("stem_ae.microscope.watchdog", "stem_ae.microscope.simulated_blanker")
    return sum(any(name in line for name in names) for line in text.splitlines())


if __name__ == "__main__":
    main()
