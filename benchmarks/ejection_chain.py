"""The whole chain on atoms that the networks found: survey, lock-on, exposure, verification; what really happened.

Targets are S2 columns of MoS2 on the virtual microscope, which drifts, ejects every atom by chance, and shows its atoms
only through images. Predictions take their time on the simulated clock.

    python benchmarks/ejection_chain.py --attempts 500
"""

from __future__ import annotations

import argparse
import collections
import json
import time

import numpy as np
import torch

from stem_ae import elit
from stem_ae.imaging import specimens
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions, VirtualMicroscope
from stem_ae.manipulate import EjectionRun, Observer, OpenLoop, Outcome, RunSettings, Verdict, targets
from stem_ae.manipulate.virtual import SimulatedClock, VirtualBeam

FIELD = ScanField((40.0, 40.0))
SAMPLING = 0.2
SHAPE = (200, 200)
CLEAR = 6.5  # Å between targets: their neighbours are their own
SAME_COLUMN = 0.5  # Å
NAMED = {Verdict.NONE: 0, Verdict.ONE: 1, Verdict.MORE: 2}


class Truth(Observer):
    """Notes where the column really is when the beam is fired, and what left during each attempt."""

    def __init__(self, microscope: VirtualMicroscope) -> None:
        self.microscope = microscope
        self.aims: list[tuple[float, float]] = []
        self.left: list[tuple] = []
        self._gone = 0
        self._column = np.zeros(2)

    def aiming(self, site):  # noqa: D102
        self._gone = len(self.microscope.ejections)

    def exposing(self, site, exposure, course):  # noqa: D102
        columns, _ = self.microscope.columns
        now = self.microscope.clock()
        aim = course.at(now)
        shown = FIELD.moved(self.microscope.drift(now)).to_image(columns, SHAPE)
        distance = np.linalg.norm(shown - aim.position, axis=1)
        self._column = columns[distance.argmin()]
        self.aims.append((float(distance.min()), aim.deviation))

    def attempted(self, attempt):  # noqa: D102
        left = [np.array(e.position) for e in self.microscope.ejections[self._gone :]]
        if attempt.outcome is not Outcome.NOT_FIRED:
            on_target = sum(bool(np.linalg.norm(p - self._column) < SAME_COLUMN) for p in left)
            self.left.append((attempt, on_target, len(left) - on_target))


def some_targets(atoms, rng):
    """Return S2 columns far from one another and from the edge, in random order."""
    candidates = rng.permutation(targets.of_class(atoms, "S2", region=(7.0, 7.0, 33.0, 33.0)))
    chosen: list[int] = []
    for k in candidates:
        away = atoms.positions[chosen] - atoms.positions[k]
        if not chosen or np.linalg.norm(away, axis=1).min() > CLEAR:
            chosen.append(int(k))
    return chosen


def session(ensemble, args, rng):
    clock = SimulatedClock()
    angle = rng.uniform(0, 2 * np.pi)
    drift = tuple(args.drift / 60 * np.array([np.cos(angle), np.sin(angle)]))
    specimen = specimens.mos2((60.0, 60.0), 0.02, 0.0, rotation=rng.uniform(0, 60), seed=int(rng.integers(2**31)))
    conditions = Conditions(drift=drift, source_sigma=args.source)
    microscope = VirtualMicroscope(specimen, conditions, int(rng.integers(2**31)), clock)
    column = Column(current_pa=args.current, semiangle_mrad=args.semiangle)
    seed = int(rng.integers(2**31))
    beam = VirtualBeam(microscope, clock, FIELD, column, SAMPLING, blanker_s=args.blanker * 1e-3, seed=seed)

    def find(image, sampling):
        start = time.perf_counter()
        atoms = ensemble.predict(image, sampling).atoms
        clock.advance(time.perf_counter() - start)
        return atoms

    settings = RunSettings(timeout_s=args.timeout)
    beam.unblank()
    survey = beam.survey(settings.survey_dose)
    beam.blank()
    atoms = find(survey.image, survey.sampling)
    truth = Truth(microscope)
    policy = OpenLoop(atoms.positions[some_targets(atoms, rng)])
    run = EjectionRun(beam, find, policy, settings, observer=truth, start=(survey, atoms))
    run.guard.arm()
    reason = run.run()
    assert beam.is_blanked, reason
    return truth, run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=500)
    parser.add_argument("--current", type=float, default=60.0, help="pA")
    parser.add_argument("--semiangle", type=float, default=32.0, help="mrad")
    parser.add_argument("--source", type=float, default=0.30, help="standard deviation of the source's image, Å")
    parser.add_argument("--drift", type=float, default=1.0, help="Å/min")
    parser.add_argument("--blanker", type=float, default=1.0, help="ms until the beam is off")
    parser.add_argument("--timeout", type=float, default=5.0, help="s")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ensemble, rng = elit.load("mos2"), np.random.default_rng(args.seed)
    aims, results, refused, begun = [], [], 0, time.time()
    while len(results) < args.attempts:
        truth, run = session(ensemble, args, rng)
        aims += truth.aims
        results += truth.left
        refused += sum(a.outcome is Outcome.NOT_FIRED for a in run.attempts)
    results, aims = results[: args.attempts], np.array(aims[: args.attempts])
    n = len(results)
    print(
        json.dumps(
            {
                "settings": vars(args),
                "attempts": n,
                "not_fired": refused,
                "exactly_one": sum(own == 1 and other == 0 for _, own, other in results) / n,
                "one_from_the_target": sum(own == 1 for _, own, _ in results) / n,
                "another_column_lost_an_atom": sum(other > 0 for *_, other in results) / n,
                "beam_on_another_column": float(np.mean(aims[:, 0] > 0.9)),
                "aim_rms_pm": 100 * float(np.sqrt(np.mean(aims[:, 0] ** 2))),
                "aim_stated_pm": 100 * float(np.sqrt(np.mean(aims[:, 1] ** 2))),
                "aim_largest_pm": 100 * float(aims[:, 0].max()),
                "verdict_right": sum(NAMED.get(a.verdict) == min(own, 2) for a, own, _ in results) / n,
                "verdict_unclear": sum(a.verdict is Verdict.UNCLEAR for a, *_ in results) / n,
                "bystanders": {
                    "true and reported": sum(other > 0 and len(a.bystanders) > 0 for a, _, other in results),
                    "true and missed": sum(other > 0 and not a.bystanders for a, _, other in results),
                    "reported falsely": sum(other == 0 and len(a.bystanders) > 0 for a, _, other in results),
                },
                "outcomes": dict(collections.Counter(f"{a.outcome}: {own} left" for a, own, _ in results)),
                "mean_exposure_s": float(np.mean([a.exposure_s for a, *_ in results])),
                "wall_s": time.time() - begun,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
