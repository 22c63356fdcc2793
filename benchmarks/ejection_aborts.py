"""Runs that end at a random moment, in all the ways they can: is the beam off and parked away, is the log whole.

Ways: Stop from another thread, a pause and then Stop, an arming that expires, an exception in finding atoms, one in
whoever watches, a detector whose stream breaks off. Atoms are found without a network here: what is tested is the end.

    python benchmarks/ejection_aborts.py --aborts 1000
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import tempfile
import threading
import time

import numpy as np

from stem_ae import Atoms2D
from stem_ae.imaging import specimens
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions, VirtualMicroscope
from stem_ae.manipulate import EjectionRun, Limits, Observer, OpenLoop, RunLog, runlog, targets
from stem_ae.manipulate.beam import NO_COUNTS
from stem_ae.manipulate.virtual import SimulatedClock, VirtualBeam

FIELD = ScanField((30.0, 30.0))
SPECIES = ("Mo", "S2", "S1")
SPECIMEN = specimens.mos2((45.0, 45.0), 0.0, 0.0)
WAYS = ("stop", "pause and stop", "arming expires", "finding fails", "watching fails", "signal lost")
PACE_S = 2e-4  # real seconds for each simulated millisecond: a moment in which to be aborted


class BrokenError(Exception):
    """What goes wrong on purpose."""


class SlowBeam(VirtualBeam):
    """A virtual beam that takes some real time, and whose detector can fail."""

    lost = False
    unblanked = 0

    def unblank(self):
        """Count how often the beam is let through."""
        super().unblank()
        self.unblanked += 1

    def read(self):
        """Take a little time."""
        time.sleep(PACE_S)
        return NO_COUNTS if self.lost else super().read()


class Watcher(Observer):
    """Fails when told to."""

    fails = False

    def counted(self, exposure):
        """Fail."""
        if self.fails:
            raise BrokenError("the watcher")


def abort(way, moment_s, folder, rng):
    """Begin a run, end it after so many real seconds, and return what is then the case."""
    clock = SimulatedClock()
    microscope = VirtualMicroscope(SPECIMEN, Conditions(drift=(1 / 60, 0.0)), int(rng.integers(2**31)), clock)
    column = Column(current_pa=60.0)
    beam = SlowBeam(microscope, clock, FIELD, column, reading_s=1e-3, seed=int(rng.integers(2**31)))
    watcher, trouble = Watcher(), {"finding": False}

    def find(image, sampling):
        if trouble["finding"]:
            raise BrokenError("finding")
        time.sleep(PACE_S)
        xy, names = microscope._last_frame.truth()
        labels = np.array([SPECIES.index(name) for name in names])
        n = len(xy)
        # Some of the dark-field signal of each column, in electrons per pixel and Å²: what the levels are made of.
        weight = np.array([0.041, 0.0168, 0.0084])[labels] * microscope._last_frame.electrons
        covariance = np.tile(np.eye(2) * 9e-4, (n, 1, 1))
        found = xy + rng.normal(0, 0.03, xy.shape)
        return Atoms2D(found, covariance, labels, SPECIES, np.eye(3)[labels], weight, image.shape, sampling)

    log = RunLog(folder / "run.jsonl")
    sites = rng.uniform(6, 24, (12, 2))
    beam.unblank()
    survey = beam.survey(1e4)
    beam.blank()
    atoms = find(survey.image, survey.sampling)
    s2 = targets.of_class(atoms, "S2")
    nearest = np.unique([s2[np.argmin(np.linalg.norm(atoms.positions[s2] - site, axis=1))] for site in sites])
    limits = Limits(armed_s=clock() + 0.4 * rng.uniform() if way == "arming expires" else 600.0)
    run = EjectionRun(beam, find, OpenLoop(atoms.positions[nearest]), None, limits, log, watcher, (survey, atoms))
    run.guard.arm()
    ended = []

    def carry_out():
        try:
            ended.append(run.run())
        except Exception as error:
            ended.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=carry_out)
    thread.start()
    time.sleep(moment_s)
    start, returned, honest = time.perf_counter(), 0.0, True
    if way == "finding fails":
        trouble["finding"] = True
    elif way == "watching fails":
        watcher.fails = True
    elif way == "signal lost":
        beam.lost = True
    elif way != "arming expires":
        if way == "pause and stop":
            honest &= run.guard.pause() == beam.is_blanked
            time.sleep(moment_s / 5)
            start = time.perf_counter()
        run.stop()
        returned = time.perf_counter() - start
        honest &= run.guard.interlock.state != "blanked" or beam.is_blanked
        while not beam.is_blanked and time.perf_counter() - start < 10:
            time.sleep(1e-4)
    took = time.perf_counter() - start
    thread.join(600)  # a run whose signal is lost goes on to the next target
    log.close()
    lines = runlog.read_lines(log.path)
    fired = runlog.exposures(log.path)
    for exposure in fired:
        exposure.replay()
    spent = sum(exposure.facts["electrons"] for exposure in fired)
    return {
        "way": way, "blanked": beam.is_blanked and microscope._rest is None, "stop_s": took,
        "honest": honest, "returned_s": returned, "parked": beam._place == (-0.5, -0.5),
        "ended": ended[0] if ended else "still running",
        "log_whole": lines[-1]["kind"] == "end" and all(e.complete for e in fired)
        and bool(np.isclose(spent, sum(e for _, e in run.ledger._exposures))),
        "exposures": len(fired), "in_exposure": bool(fired) and str(fired[-1].facts["outcome"]) in
        ("stopped", "signal lost"), "unblanked": beam.unblanked,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aborts", type=int, default=1000)
    parser.add_argument("--within", type=float, default=0.5, help="s of real time in which the moment lies")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for k in range(args.aborts):
            folder = pathlib.Path(scratch, str(k))
            results.append(abort(WAYS[k % len(WAYS)], rng.uniform(0, args.within), folder, rng))
    returns = [1e3 * r["returned_s"] for r in results if "stop" in r["way"]]
    stops = [1e3 * r["stop_s"] for r in results if "stop" in r["way"] and "pause" not in r["way"]]
    print(
        json.dumps(
            {
                "settings": vars(args),
                "aborts": len(results),
                "beam_blanked": sum(r["blanked"] for r in results),
                "parked_away": sum(r["parked"] for r in results),
                "log_whole_and_replayed": sum(r["log_whole"] for r in results),
                "said_blanked_only_if_it_was": sum(r["honest"] for r in results),
                "exposures_logged": sum(r["exposures"] for r in results),
                "during_an_exposure": sum(r["in_exposure"] for r in results),
                "stop_to_blanked_ms": {"median": float(np.median(stops)), "largest": float(np.max(stops))},
                "stop_returns_ms": {"median": float(np.median(returns)), "largest": float(np.max(returns))},
                "ended": {
                    way: dict(collections.Counter(r["ended"] for r in results if r["way"] == way)) for way in WAYS
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
