"""A line of ten neighbouring single vacancies in MoS2, drawn by three policies that differ in when they blank.

* sequential test: ``Exposure``, as everywhere else;
* threshold: blank when the mean of the last millisecond is 12 or 15 % off that of the first, aim anew every 2 s (the
  published presets of an auto-manipulator for graphene);
* fixed dwell: the time with which exactly one S most often leaves, computed from the simulator's own cross sections.

All aim, verify, image again and try again alike. "Right" is known from the simulator: every site has lost one S, and no
other column in the field of view anything.

    python benchmarks/ejection_lines.py --runs 40 --policy sequential
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch

from stem_ae import elit
from stem_ae.imaging import damage, specimens
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.imaging.virtual_microscope import Conditions, VirtualMicroscope
from stem_ae.manipulate import ClosedLoop, EjectionRun, Exposure, Outcome, RunSettings, targets
from stem_ae.manipulate.virtual import SimulatedClock, VirtualBeam

FIELD = ScanField((48.0, 32.0))
SAMPLING, SHAPE = 0.2, (160, 240)
SITES = 10
FIRST_S = WINDOW_S = 1e-3
REPOSITION_S = 2.0


class Threshold(Exposure):
    """Blanks when the signal has jumped by a fraction."""

    jump = 0.15

    def _test(self, counts, exposure_s):
        self._keep(counts, exposure_s)
        n = round(WINDOW_S / exposure_s)
        first = [r.counts for r in self.readings[: round(FIRST_S / exposure_s)]]
        last = [r.counts for r in self.readings[-n:]]
        return Outcome.STEP if abs(np.mean(last) / np.mean(first) - 1) > self.jump else None

    def confirm(self, counts, exposure_s):
        """Take a reading in; it does not change the outcome."""
        self._keep(counts, exposure_s)
        return self.outcome


class FixedDwell(Exposure):
    """Blanks after its time."""

    def _test(self, counts, exposure_s):
        self._keep(counts, exposure_s)
        return None


class Run(EjectionRun):
    """An eject run with exposures of another kind."""

    kind = Exposure

    def _exposure(self, atom):
        exposure = self.kind(super()._exposure(atom).settings)
        exposure.prepare(*self._beam.readings_s)
        return exposure


def best_dwell(column, conditions):
    """Return the dwell with which exactly one S of two leaves most often: where two exponentials differ most."""
    two, one = (
        damage.ejection_cross_sections(specimens.Specimen(np.zeros((n, 3)) + np.arange(n)[:, None] * [0, 0, 3.0],
                                       np.full(n, 16), "", (), (1.0, 1.0)), column.energy_ev).max()
        for n in (2, 1)
    )  # fmt: skip
    peak = damage.fluence(column.probe(conditions.source_sigma), (0.0, 0.0), np.zeros((1, 2)))[0]
    first, second = np.array([two, one]) * damage.BARN * peak * column.electrons(1.0)
    return float(np.log(first / second) / (first - second))


def line(ensemble, args, rng):
    """Draw one line and return what came of it."""
    clock = SimulatedClock()
    angle = rng.uniform(0, 2 * np.pi)
    conditions = Conditions(
        drift=tuple(args.drift / 60 * np.array([np.cos(angle), np.sin(angle)])), source_sigma=args.source
    )
    specimen = specimens.mos2((70.0, 55.0), 0.0, 0.0, rotation=rng.uniform(-3, 3))
    microscope = VirtualMicroscope(specimen, conditions, int(rng.integers(2**31)), clock)
    column = Column(current_pa=args.current, semiangle_mrad=args.semiangle)
    beam = VirtualBeam(
        microscope, clock, FIELD, column, SAMPLING, blanker_s=args.blanker * 1e-3, seed=int(rng.integers(2**31))
    )

    def find(image, sampling):
        clock.advance(args.latency)
        return ensemble.predict(image, sampling).atoms

    settings = RunSettings(timeout_s=5.0)
    if args.policy == "fixed":
        settings = RunSettings(timeout_s=best_dwell(column, conditions))
    elif args.policy == "threshold":
        settings = RunSettings(timeout_s=REPOSITION_S)
    beam.unblank()
    survey = beam.survey(settings.survey_dose)
    beam.blank()
    atoms = find(survey.image, survey.sampling)
    sites = the_line(atoms)
    before = microscope.specimen
    policy = ClosedLoop(atoms.positions[sites], ["S1"] * SITES, tries=6)
    run = Run(beam, find, policy, settings, start=(survey, atoms))
    run.kind = {"sequential": Exposure, "threshold": Threshold, "fixed": FixedDwell}[args.policy]
    run.guard.arm()
    reason = run.run()
    in_field = FIELD.moved(microscope.drift(0.0))
    at = in_field.to_image(before.positions[:, :2], SHAPE)
    return judged(microscope, at, before, atoms.positions[sites]) | {
        "said_done": not policy.missing(run.view), "reason": reason, "seconds": clock(),
        "electrons": run.ledger.electrons, "attempts": len(run.attempts),
        "reported_bystanders": sum(len(a.bystanders) for a in run.attempts),
    }  # fmt: skip


def the_line(atoms):
    """Return ten neighbouring S2 columns across the middle."""
    candidates = targets.of_class(atoms, "S2", region=(6.0, 6.0, 42.0, 26.0))
    middle = atoms.positions[candidates] - (24.0, 16.0)
    centre = atoms.positions[candidates[np.argmin(np.linalg.norm(middle, axis=1))]]
    lattice = targets.lattice_vectors(atoms.positions[targets.of_class(atoms, ["S2", "S1"])])
    along = lattice[0] / np.linalg.norm(lattice[0])
    row = targets.along_line(atoms, candidates, centre - 17.5 * along, centre + 17.5 * along)
    assert len(row) >= SITES
    return row[:SITES]


def judged(microscope, at, before, sites):
    """Return how many sites lack exactly one S, and how many other columns in the field lack anything."""
    left = {(round(x, 3), round(y, 3), round(z, 3)) for x, y, z in microscope.specimen.positions.tolist()}
    gone = np.array([(round(x, 3), round(y, 3), round(z, 3)) not in left for x, y, z in before.positions.tolist()])
    lost = at[gone]
    per_site = [int(np.sum(np.linalg.norm(lost - site, axis=1) < 0.6)) for site in sites]
    width, height = FIELD.fov
    inside = np.all((lost > 0) & (lost < (width, height)), axis=1)
    return {"sites_right": sum(n == 1 for n in per_site), "doubles": sum(n > 1 for n in per_site),
            "missing": sum(n == 0 for n in per_site), "others": int(inside.sum()) - sum(per_site)}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--policy", choices=("sequential", "threshold", "fixed"), default="sequential")
    parser.add_argument("--jump", type=float, default=15.0, help="%% of the threshold policy")
    parser.add_argument("--current", type=float, default=60.0, help="pA")
    parser.add_argument("--semiangle", type=float, default=32.0, help="mrad")
    parser.add_argument("--source", type=float, default=0.30, help="standard deviation of the source's image, Å")
    parser.add_argument("--drift", type=float, default=1.0, help="Å/min")
    parser.add_argument("--blanker", type=float, default=1.0, help="ms until the beam is off")
    parser.add_argument("--latency", type=float, default=0.3, help="s that finding the atoms of an image takes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    Threshold.jump = args.jump / 100
    ensemble, rng = elit.load("mos2"), np.random.default_rng(args.seed)
    lines = [line(ensemble, args, rng) for _ in range(args.runs)]
    n = len(lines)
    print(
        json.dumps(
            {
                "settings": vars(args),
                "line_complete_and_right": sum(r["sites_right"] == SITES for r in lines) / n,
                "and_nothing_else_in_the_field": sum(r["sites_right"] == SITES and not r["others"] for r in lines) / n,
                "said_done_rightly": sum(r["said_done"] == (r["sites_right"] == SITES) for r in lines) / n,
                "double_ejections_per_site": sum(r["doubles"] for r in lines) / n / SITES,
                "missing_per_site": sum(r["missing"] for r in lines) / n / SITES,
                "other_columns_per_line": sum(r["others"] for r in lines) / n,
                "attempts": float(np.mean([r["attempts"] for r in lines])),
                "seconds": float(np.mean([r["seconds"] for r in lines])),
                "electrons": float(np.mean([r["electrons"] for r in lines])),
                "ended": sorted({r["reason"] for r in lines}),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
