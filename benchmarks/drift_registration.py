"""Runs that follow the drift: points at a wrong place, refused runs, and the accuracy of the drift.

    python benchmarks/drift_registration.py [--seeds 20]          # specimens, doses and drifts, on a simulated clock
    python benchmarks/drift_registration.py --swift 100           # graphene at rest, in headless Swift, in real time

A run scans a survey (64 pixels a side), measures 60 points of 20 ms, and scans the specimen again after every 10. Where
the beam really was on the specimen is compared with where the survey showed the place; ``wrong`` counts runs with any
point more than 1 Å off. ``refused`` counts runs that ended with a sentence instead of measuring on. With ``--swift``
the condition is 40 Å, 64 pixels, 1 µs: 0.9 counts in a pixel, 60 points of 5 ms.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pathlib
import tempfile
import threading
import time

import numpy as np

from stem_ae.errors import StemAeError
from stem_ae.imaging.nanoparticles import nanoparticles
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.specimens import Specimen, graphene, mos2
from stem_ae.imaging.virtual_microscope import Beam, Conditions, VirtualMicroscope
from stem_ae.manipulate.virtual import SimulatedClock
from stem_ae.microscope.devices import Microscope
from stem_ae.microscope.frame import CameraFrame, Frame, Image
from stem_ae.plans import acquire

PIXELS, POINTS, EVERY, EXPOSURE_S = 64, 60, 10, 0.02
OVERHEAD_S = {"scan": 0.06, "point": 0.008}
"""Seconds that Swift takes beside a scan and an exposure."""


def random_atoms(seed: int) -> Specimen:
    """Return scattered atoms: nothing repeats."""
    rng = np.random.default_rng(seed)
    positions = np.column_stack([rng.uniform(0, 90, (900, 2)), np.zeros(900)])
    return Specimen(positions, np.full(900, 14), "scattered Si", (), (90.0, 90.0))


SPECIMENS = {
    "graphene": (lambda seed: graphene((60.0, 60.0)), 40.0),
    "MoS2": (lambda seed: mos2((60.0, 60.0), 0.0, 0.0, rotation=7.0, seed=seed), 40.0),
    "scattered atoms": (random_atoms, 40.0),
    "nanoparticles": (lambda seed: nanoparticles(seed=seed), 60.0),
}
DRIFTS = {"0": (0.0, 0.0), "2 Å/min": (2 / 60 * 0.8, -2 / 60 * 0.6), "1 Å/s": (0.8, -0.6)}


class Simulated:
    """An instrument on the virtual microscope whose clock goes on as the operations take time."""

    name = "simulated"

    def __init__(self, specimen: Specimen, fov: float, counts: float, drift: tuple[float, float], seed: int) -> None:
        self.clock = SimulatedClock()
        self.microscope = VirtualMicroscope(
            specimen, Conditions(drift=drift, damage=False, readout=0.05), seed, self.clock
        )
        self.frame = Frame(fov, (PIXELS, PIXELS), 1.0, (5.0, -3.0), 0.3)
        self._beam = Beam()
        mean = self._begin(self.frame).fraction("HAADF").mean() * self._beam.electrons(1e-6)
        self.frame = Frame(fov, (PIXELS, PIXELS), counts / mean, (5.0, -3.0), 0.3)  # so many counts in a pixel
        self.is_blanked = True
        self.place = (0.0, 0.0)
        self.surveyed_s: float | None = None
        self.hit: list[np.ndarray] = []

    def _begin(self, frame: Frame):
        field = ScanField(frame.field.fov, frame.centre, frame.rotation)
        return self.microscope.begin_frame(field, frame.shape, frame.dwell_us, self._beam)

    def blank(self, blanked: bool) -> None:
        """Blank or unblank."""
        self.is_blanked = blanked

    def park(self, place: tuple[float, float] | None) -> None:
        """Point the beam somewhere."""
        self.place = place

    def scan(self, frame: Frame, cancel: threading.Event) -> Image:
        """Scan a frame."""
        self.clock.advance(OVERHEAD_S["scan"])
        if self.surveyed_s is None:
            self.surveyed_s = self.clock() + frame.seconds / 2
        data = self._begin(frame).counts("HAADF")
        self.clock.advance(frame.seconds)
        return Image(frame, data.astype(np.float32), self.clock(), self.clock())

    def expose(self, camera: str, exposure_s: float, cancel: threading.Event) -> CameraFrame:
        """Note where the beam is on the specimen, and give any spectrum."""
        self.clock.advance(OVERHEAD_S["point"] + exposure_s / 2)
        self.hit.append(np.array(self.place) - self.microscope.drift(self.clock()))
        self.clock.advance(exposure_s / 2)
        return CameraFrame(np.arange(32, dtype=np.float32), exposure_s, 0.0, 1.0, "eV", 31.0, 1)

    def is_synchronised(self, camera: str) -> bool:
        """Return that it is not."""
        return False

    def hold(self) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Do nothing."""


def carried_out(plan) -> None:
    """Carry out the messages of a plan, without an engine: a thousand times sooner than bluesky's."""
    pending = []
    for message in plan:
        if message.command in ("set", "trigger"):
            pending.append(getattr(message.obj, message.command)(*message.args))
        elif message.command == "wait":
            while pending:
                if error := pending.pop().exception(None):
                    raise error


def run(name: str, counts: float, drift: tuple[float, float], seed: int) -> dict:
    make, fov = SPECIMENS[name]
    instrument = Simulated(make(seed), fov, counts, drift, seed)
    microscope = Microscope(instrument)
    microscope.drift.clock = instrument.clock
    places = instrument.frame.to_plane(np.random.default_rng(seed).uniform(0.1 * fov, 0.9 * fov, (POINTS, 2)))
    follow = acquire.Follower(microscope, instrument.frame, EVERY)

    def plan():
        yield from follow.start()
        microscope.eels.exposure_s = EXPOSURE_S
        for place in places:
            yield from follow.measure(microscope.eels, place)

    refused = ""
    try:
        carried_out(plan())
    except StemAeError as error:
        refused = str(error)
    hit = np.array(instrument.hit).reshape(-1, 2)
    wanted = places[: len(hit)] - instrument.microscope.drift(instrument.surveyed_s)
    return {"error": np.linalg.norm(hit - wanted, axis=1), "refused": refused}


def table(seeds: int, only: str) -> None:
    for name in (name for name in SPECIMENS if only in name):
        for label, drift in DRIFTS.items():
            for counts in (0.1, 0.3, 0.9, 3.0, 30.0):
                results = [run(name, counts, drift, seed) for seed in range(seeds)]
                errors = np.concatenate([r["error"] for r in results])
                print(json.dumps({
                    "specimen": name, "drift": label, "counts": counts, "runs": seeds,
                    "wrong": sum(bool(np.any(r["error"] > 1)) for r in results),
                    "refused": sum(bool(r["refused"]) for r in results),
                    "points": len(errors),
                    "median_A": round(float(np.median(errors)), 3) if len(errors) else None,
                    "p99_A": round(float(np.percentile(errors, 99)), 3) if len(errors) else None,
                    "said": next((r["refused"][:200] for r in results if r["refused"]), ""),
                }, ensure_ascii=False), flush=True)  # fmt: skip


def swift(runs: int) -> None:
    """Follow graphene that stands still, in headless Swift."""
    from nion.instrumentation.test import AcquisitionTestContext
    from nion.swift import Facade
    from nion.swift.test import TestContext

    from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
    from stem_ae.microscope.swift import SwiftInstrument
    from stem_ae.plans import Run, Runner

    Facade.initialize()
    logging.getLogger().setLevel(logging.WARNING)
    folder = tempfile.mkdtemp()
    os.chdir(folder)  # the kit's tests empty a folder below the current one
    setup = TestContext.TestSetup()
    wrong, refused, worst, total, slow_s = 0, 0, 0.0, 0, []
    frame = Frame(40.0, (64, 64), 1.0, (5.0, -3.0), 0.3)
    for seed in range(runs):
        simulator = AtomicMicroscope(
            folder, specimen=graphene((60.0, 60.0)), conditions=Conditions(damage=False, readout=0.0), seed=seed
        )
        with AcquisitionTestContext.test_context(simulator, is_both_cameras=True):
            runner = Runner(Microscope(SwiftInstrument()), pathlib.Path(folder, "runs"))
            places = frame.to_plane(np.random.default_rng(seed).uniform(1, 38, (POINTS, 2)))
            start = time.monotonic()
            runner.start(acquire.points(runner.microscope, frame, places, exposure_s=0.005, drift_every=EVERY))
            assert runner.wait(120)
            slow_s.append(time.monotonic() - start)
            run_ = Run(runner.run_folder)
            xy = np.column_stack([run_.column("probe_x"), run_.column("probe_y")]).reshape(-1, 2)
            error = np.linalg.norm(xy - places[: len(xy)], axis=1)
            wrong += bool(np.any(error > 1))
            refused += runner.outcome != "completed"
            worst, total = max(worst, float(error.max(initial=0.0))), total + len(xy)
            runner.close()
    print(json.dumps({
        "condition": "graphene at rest, 40 Å, 64 px, 1 µs", "runs": runs, "points": total, "wrong": wrong,
        "not_completed": refused, "worst_A": round(worst, 2), "run_s": round(float(np.median(slow_s)), 2),
        "load": [round(value, 1) for value in os.getloadavg()],
    }, ensure_ascii=False))  # fmt: skip
    del setup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default="", help="specimens whose name has this in it")
    parser.add_argument("--swift", type=int, default=0)
    options = parser.parse_args()
    if options.swift:
        swift(options.swift)
    else:
        table(options.seeds, options.only)


if __name__ == "__main__":
    main()
