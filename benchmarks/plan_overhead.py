"""What a point costs beside its exposure, and how soon an abort has blanked the beam, in headless Swift.

    python benchmarks/plan_overhead.py [--points 100] [--exposure-ms 20] [--aborts 100]

Exploring: descriptors and deep kernel, batches of ten, decisions in their own process while the beam measures. The time
per point is that between the events of the run, less the exposure; its median and mean are over all points but the
first ten, so a decision that was waited for counts. ``cpu_ms`` is the computing time of this process for each point,
which a busy machine does not lengthen. The simulated spectra are made cheap, for a real camera computes them elsewhere.
Aborts come at random moments of exploring and of a raster.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pathlib
import tempfile
import time

import numpy as np
from nion.instrumentation.test import AcquisitionTestContext
from nion.swift import Facade
from nion.swift.test import TestContext

from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
from stem_ae.explore.remote import DecisionProcess
from stem_ae.imaging.virtual_microscope import Conditions
from stem_ae.microscope.devices import Microscope
from stem_ae.microscope.frame import CameraFrame, Frame
from stem_ae.microscope.swift import SwiftInstrument
from stem_ae.plans import Run, Runner, acquire
from stem_ae.plans.explore import Exploration, Settings

FRAME = Frame(fov=120.0, shape=(128, 128), dwell_us=2.0)
GRID = np.stack(np.meshgrid(np.arange(8, 120, 2), np.arange(8, 120, 2), indexing="ij"), axis=-1).reshape(-1, 2)


def spectrum(point: np.ndarray, losses_ev: np.ndarray, beam: object) -> np.ndarray:
    """Return plasmons that are strong around one place."""
    x, y = point
    strength = 0.01 + 0.05 * np.exp(-((x - 20) ** 2 + (y + 10) ** 2) / 800)
    return strength * np.exp(-0.5 * ((losses_ev - 25) / 6) ** 2) / 20


def plasmon(frame: CameraFrame) -> float:
    """Return the counts from 15 to 45 eV."""
    return float(frame.data[(frame.axis >= 15) & (frame.axis < 45)].sum())


def explore(runner: Runner, process: DecisionProcess, surrogate: str, points: int, exposure_s: float) -> Exploration:
    settings = Settings(
        FRAME, exposure_s=exposure_s, points=points, batch=10, candidates=GRID, explorer={"surrogate": surrogate}
    )
    exploration = Exploration(runner.microscope, process, settings, plasmon)
    runner.start(exploration.plan())
    return exploration


def overhead_ms(runner: Runner, process: DecisionProcess, surrogate: str, points: int, exposure_s: float) -> dict:
    before = time.process_time()
    explore(runner, process, surrogate, points, exposure_s)
    runner.wait()
    cpu_ms = 1e3 * (time.process_time() - before) / points
    assert runner.outcome == "completed", runner.error
    run = Run(runner.run_folder)
    times = [d["time"] for name, d in run.documents if name == "event" and "row" in d["data"]]
    beside = 1e3 * (np.diff(times)[10:] - exposure_s)
    return {
        "surrogate": surrogate, "points": points, "exposure_ms": 1e3 * exposure_s,
        "median_ms": round(float(np.median(beside)), 1), "mean_ms": round(float(beside.mean()), 1),
        "p95_ms": round(float(np.percentile(beside, 95)), 1), "cpu_ms": round(cpu_ms, 1),
        "load": [round(value, 1) for value in os.getloadavg()],
    }  # fmt: skip


def aborts_ms(runner: Runner, process: DecisionProcess, count: int) -> dict:
    rng = np.random.default_rng(0)
    blanked, idle, safe = [], [], 0
    instrument = runner.microscope.instrument
    for number in range(count):
        if number % 2:
            explore(runner, process, "gp", 200, 0.02)
        else:
            runner.start(acquire.raster(runner.microscope, FRAME, (20, 20), exposure_s=0.02))
        time.sleep(rng.uniform(0.0, 0.8))
        start = time.perf_counter()
        runner.abort()
        assert instrument.is_blanked
        blanked.append(1e3 * (time.perf_counter() - start))
        runner.wait()
        idle.append(1e3 * (time.perf_counter() - start))
        safe += instrument.is_blanked and runner.outcome == "aborted"
    return {
        "aborts": count, "blanked_ms": {"median": round(float(np.median(blanked)), 2), "max": round(max(blanked), 2)},
        "run_ended_ms": {"median": round(float(np.median(idle)), 1), "max": round(max(idle), 1)}, "safe": safe,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--exposure-ms", type=float, default=20.0)
    parser.add_argument("--aborts", type=int, default=100)
    options = parser.parse_args()
    Facade.initialize()
    logging.getLogger().setLevel(logging.WARNING)
    folder = tempfile.mkdtemp()
    os.chdir(folder)  # the kit's tests empty a folder below the current one
    setup = TestContext.TestSetup()
    simulator = AtomicMicroscope(folder, specimen="NiO pillars in LSMO", conditions=Conditions(damage=False), seed=0)
    simulator.microscope.spectrum = spectrum
    process = DecisionProcess()
    with AcquisitionTestContext.test_context(simulator, is_both_cameras=True):
        runner = Runner(Microscope(SwiftInstrument()), pathlib.Path(folder, "runs"))
        for surrogate in ("descriptor", "dkl"):
            print(json.dumps(overhead_ms(runner, process, surrogate, options.points, options.exposure_ms / 1e3)))
        print(json.dumps(aborts_ms(runner, process, options.aborts)))
    process.close()
    del setup


if __name__ == "__main__":
    main()
