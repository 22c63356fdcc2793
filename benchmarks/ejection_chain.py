"""The whole chain on atoms that the networks found: survey, lock-on, exposure, verification; what really happened.

Targets are S2 columns of MoS2 on the virtual microscope, which drifts, ejects every atom by chance, and shows its atoms
only through images. Each prediction takes the same time on the simulated clock, so that results do not depend on the
computer. Columns that were hit beside the target are told apart by what hit them: the exposure's tails, or a scan.

    python benchmarks/ejection_chain.py --attempts 500
    python benchmarks/ejection_chain.py --attempts 500 --semiangle 40 --source 0.20
"""

from __future__ import annotations

import argparse
import collections
import functools
import json

import numpy as np
import torch

from stem_ae import elit
from stem_ae.imaging import damage, specimens
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
BLANKED_S = 2e-3  # more than the blanker takes
possible_events = functools.lru_cache(maxsize=4)(damage.possible_events)
NAMED = {Verdict.NONE: 0, Verdict.ONE: 1, Verdict.MORE: 2}


class Expecting(VirtualMicroscope):
    """Adds up how many atoms of other columns are to be expected to leave, beside playing the game of chance."""

    column = None
    expected = (0.0, 0.0)

    def _expose(self, middle, size, rotation, beam, start, seconds):
        if self.column is not None and seconds > 0:
            events = possible_events(self.specimen, beam.energy_ev)
            at = self.specimen.positions[events.hit, :2]
            barn = events.barn * (np.linalg.norm(at - self.column, axis=1) > SAME_COLUMN)
            field = ScanField(fov=(1.0, 1.0), centre=tuple(middle.tolist()), rotation=rotation)
            probe = beam.probe(self.conditions.source_sigma, rotation)
            per_electron = barn * damage.BARN * damage.fluence(probe, size, field.to_fraction(at) - 0.5)
            lost = float(per_electron.sum()) * beam.electrons(seconds)
            exposure, scan = self.expected
            self.expected = (exposure, scan + lost) if size[0] else (exposure + lost, scan)
        super()._expose(middle, size, rotation, beam, start, seconds)


class Truth(Observer):
    """Notes where the column really is when the beam is fired, and what left during each attempt, by what."""

    def __init__(self, microscope: Expecting, sites: np.ndarray) -> None:
        self.microscope, self.sites = microscope, sites
        self.aims: list[tuple[float, float]] = []
        self.left: list[tuple] = []
        self._gone = 0
        self._fired_s = float("inf")
        self._column = np.zeros(2)

    def aiming(self, site):  # noqa: D102
        columns, _ = self.microscope.columns
        away = FIELD.to_image(columns, SHAPE) - self.sites[site]
        self.microscope.column = columns[np.linalg.norm(away, axis=1).argmin()]
        self._gone = len(self.microscope.ejections)
        self._fired_s = float("inf")

    def exposing(self, site, exposure, course):  # noqa: D102
        columns, _ = self.microscope.columns
        now = self._fired_s = self.microscope.clock()
        aim = course.at(now)
        shown = FIELD.moved(self.microscope.drift(now)).to_image(columns, SHAPE)
        distance = np.linalg.norm(shown - aim.position, axis=1)
        self._column = columns[distance.argmin()]
        self.aims.append((float(distance.min()), aim.deviation))

    def attempted(self, attempt):  # noqa: D102
        if attempt.outcome is Outcome.NOT_FIRED:
            return
        left = self.microscope.ejections[self._gone :]
        blanked_s = self._fired_s + attempt.exposure_s + BLANKED_S
        away = [float(np.linalg.norm(np.subtract(e.position, self._column))) for e in left]
        others = [
            {"by": "exposure" if self._fired_s <= e.time_s <= blanked_s else "scan", "away": round(distance, 1),
             "reported": len(attempt.bystanders) > 0}
            for e, distance in zip(left, away, strict=True) if distance > SAME_COLUMN
        ]  # fmt: skip
        self.left.append((attempt, len(left) - len(others), others))


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
    microscope = Expecting(specimen, conditions, int(rng.integers(2**31)), clock)
    column = Column(current_pa=args.current, semiangle_mrad=args.semiangle)
    seed = int(rng.integers(2**31))
    beam = VirtualBeam(microscope, clock, FIELD, column, SAMPLING, blanker_s=args.blanker * 1e-3, seed=seed)

    def find(image, sampling):
        clock.advance(args.latency)
        return ensemble.predict(image, sampling).atoms

    settings = RunSettings(timeout_s=args.timeout)
    beam.unblank()
    survey = beam.survey(settings.survey_dose)
    beam.blank()
    atoms = find(survey.image, survey.sampling)
    policy = OpenLoop(atoms.positions[some_targets(atoms, rng)])
    truth = Truth(microscope, policy.sites)
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
    parser.add_argument("--latency", type=float, default=0.3, help="s that finding the atoms of an image takes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ensemble, rng = elit.load("mos2"), np.random.default_rng(args.seed)
    aims, results, refused, expected, tried = [], [], 0, np.zeros(2), 0
    while len(results) < args.attempts:
        truth, run = session(ensemble, args, rng)
        expected, tried = expected + truth.microscope.expected, tried + len(truth.left)
        aims += truth.aims
        results += truth.left
        refused += sum(a.outcome is Outcome.NOT_FIRED for a in run.attempts)
    results, aims = results[: args.attempts], np.array(aims[: args.attempts])
    n = len(results)
    beside = [other for *_, others in results for other in others]
    print(
        json.dumps(
            {
                "settings": vars(args),
                "attempts": n,
                "not_fired": refused,
                "exactly_one": sum(own == 1 and not others for _, own, others in results) / n,
                "one_from_the_target": sum(own == 1 for _, own, _ in results) / n,
                "another_column_hit_by": {
                    what: sum(any(o["by"] == what for o in others) for *_, others in results) / n
                    for what in ("exposure", "scan")
                },
                "to_be_expected": dict(zip(("exposure", "scan"), (expected / tried).tolist(), strict=True)),
                "beam_on_another_column": float(np.mean(aims[:, 0] > 0.9)),
                "aim_rms_pm": 100 * float(np.sqrt(np.mean(aims[:, 0] ** 2))),
                "aim_stated_pm": 100 * float(np.sqrt(np.mean(aims[:, 1] ** 2))),
                "aim_largest_pm": 100 * float(aims[:, 0].max()),
                "verdict_right": sum(NAMED.get(a.verdict) == min(own, 2) for a, own, _ in results) / n,
                "verdict_unclear": sum(a.verdict is Verdict.UNCLEAR for a, *_ in results) / n,
                "bystanders_hit": [" ".join(f"{key} {value}" for key, value in other.items()) for other in beside],
                "bystanders_reported_falsely": sum(not others and len(a.bystanders) > 0 for a, _, others in results),
                "outcomes": dict(collections.Counter(f"{a.outcome}: {own} left" for a, own, _ in results)),
                "mean_exposure_s": float(np.mean([a.exposure_s for a, *_ in results])),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
