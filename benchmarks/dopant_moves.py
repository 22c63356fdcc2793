"""A silicon in graphene walked to a site chosen beforehand, on atoms that the networks found; what really happened.

The simulated beam exchanges Si and C with the stated cross sections, sends the dopant astray through its tails, and now
and then replaces it; each prediction takes the same time on the simulated clock.

    python benchmarks/dopant_moves.py --runs 30
"""

from __future__ import annotations

import argparse
import collections
import json

import numpy as np
import torch

from stem_ae import elit
from stem_ae.imaging import specimens
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions, VirtualMicroscope
from stem_ae.manipulate import EjectionRun, Limits, MoveDopants, RunSettings, Verdict
from stem_ae.manipulate.virtual import SimulatedClock, VirtualBeam

FIELD = ScanField((32.0, 32.0))
SAMPLING, SHAPE = 0.2, (160, 160)
PLENTY = Limits(total_electrons=1e13, local_dose=1e14, armed_s=1e6)


def walk(ensemble, args, rng):
    """Walk one dopant and return what came of it."""
    clock = SimulatedClock()
    sheet = specimens.graphene((50.0, 50.0), 0.0, rotation=rng.uniform(0, 60))
    start, angle = rng.uniform(-4, 4, 2), rng.uniform(0, 2 * np.pi)
    dopant = np.argmin(np.linalg.norm(sheet.positions[:, :2] - 25.0 - start, axis=1))
    sheet.numbers[dopant] = 14
    drift = args.drift / 60 * np.array([np.cos(angle), np.sin(angle)])
    microscope = VirtualMicroscope(sheet, Conditions(drift=tuple(drift)), int(rng.integers(2**31)), clock)
    beam = VirtualBeam(
        microscope, clock, FIELD, Column(current_pa=args.current), SAMPLING, reading_s=1e-3, read_s=1e-2,
        seed=int(rng.integers(2**31)),
    )  # fmt: skip

    def find(image, sampling):
        clock.advance(args.latency)
        return ensemble.predict(image, sampling).atoms

    settings = RunSettings.moving(timeout_s=args.timeout)
    beam.unblank()
    survey = beam.survey(settings.survey_dose)
    beam.blank()
    atoms = find(survey.image, survey.sampling)
    here = atoms.positions[[name == "Si" for name in atoms.symbols]][0]
    towards = rng.uniform(0, 2 * np.pi)
    goal = here + args.distance * np.array([np.cos(towards), np.sin(towards)])
    goal = atoms.positions[[np.argmin(np.linalg.norm(atoms.positions - goal, axis=1))]]
    before = len(microscope.specimen)
    policy = MoveDopants(atoms.positions, goal)
    run = EjectionRun(beam, find, policy, settings, PLENTY, start=(survey, atoms))
    steps = len(policy.ways(run.view)[0]) - 1
    run.guard.arm()
    reason = run.run()
    silicon = microscope.specimen.positions[microscope.specimen.numbers == 14, :2]
    place = FIELD.to_image(silicon, SHAPE)  # as in the first survey, drift taken off
    jumps = [hop for hop in microscope.exchanges if hop.moved_to is not None]
    return {
        "at_goal": bool(len(place)) and float(np.linalg.norm(place[0] - goal[0])) < 0.7,
        "said_so": not policy.missing(run.view), "replaced": not len(place), "steps": steps, "jumps": len(jumps),
        "exposures": len(run.attempts), "verdicts": [str(a.verdict) for a in run.attempts],
        "moved": sum(a.verdict in (Verdict.MOVED, Verdict.ASTRAY) for a in run.attempts),
        "lost": before - len(microscope.specimen), "seconds": clock(), "electrons": run.ledger.electrons,
        "reason": reason,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--distance", type=float, default=6.0, help="Å to the goal")
    parser.add_argument("--current", type=float, default=150.0, help="pA")
    parser.add_argument("--drift", type=float, default=1.0, help="Å/min")
    parser.add_argument("--timeout", type=float, default=60.0, help="s")
    parser.add_argument("--latency", type=float, default=0.3, help="s that finding the atoms of an image takes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ensemble, rng = elit.load("graphene"), np.random.default_rng(args.seed)
    walks = [walk(ensemble, args, rng) for _ in range(args.runs)]
    print(
        json.dumps(
            {
                "settings": vars(args),
                **{name: sum(w[name] for w in walks) for name in
                   ("at_goal", "replaced", "steps", "jumps", "moved", "exposures", "lost")},
                "said_rightly": sum(w["said_so"] == w["at_goal"] for w in walks),
                "verdicts": dict(collections.Counter(verdict for w in walks for verdict in w["verdicts"])),
                "seconds": float(np.mean([w["seconds"] for w in walks])),
                "electrons": float(np.mean([w["electrons"] for w in walks])),
                "ended": dict(collections.Counter(w["reason"] for w in walks)),
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
