"""How often the verification after an exposure notices that a neighbour has lost an atom too, and how often falsely.

    python benchmarks/verification.py [--trials 40]

MoS2, 12 x 12 Å images at 0.12 Å/px, read by the bundled networks; the target and one of its six S2 neighbours have lost
one S each.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from stem_ae import elit
from stem_ae.atoms import Atoms2D
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import Specimen, mos2
from stem_ae.manipulate.exposure import Outcome
from stem_ae.manipulate.verify import Verification

SAMPLING, SIDE = 0.12, 12.0
PIXELS = int(SIDE / SAMPLING)
LADDER = ("S2", "S1", "")


def before(specimen: Specimen) -> Atoms2D:
    """Return the specimen's columns as a perfect survey shows them."""
    xy, names = specimen.columns()
    species = ("Mo", "S2", "S1")
    labels = np.array([species.index(name) for name in names])
    covariance = np.tile(np.eye(2) * 1e-3, (len(xy), 1, 1))
    return Atoms2D(xy, covariance, labels, species, np.eye(3)[labels] * 0.97 + 0.01, np.ones(len(xy)), (400, 400), 0.1)


def main() -> None:
    """Print one row for each dose and number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    trials = parser.parse_args().trials
    ensemble, specimen = elit.load("mos2"), mos2((40.0, 40.0), 0.0, 0.0, 10.0, 0.02, seed=1)
    atoms, rng = before(specimen), np.random.default_rng(0)
    sulphur = np.flatnonzero(atoms.symbols == "S2")
    targets = sulphur[np.all(np.abs(atoms.positions[sulphur] - 20) < 10, axis=1)]
    print("| e/Å² per image | images at most | noticed | others named falsely | images taken |\n|---|---|---|---|---|")
    for dose in (5e3, 1e4, 2e4):
        for most in (3, 5):
            noticed, falsely, taken = 0, 0, 0
            for _ in range(trials):
                target = int(rng.choice(targets))
                apart = np.linalg.norm(atoms.positions[sulphur] - atoms.positions[target], axis=1)
                neighbour = int(rng.choice(sulphur[(apart > 2.0) & (apart < 3.6)]))
                kept = np.ones(len(specimen), bool)
                for column in (target, neighbour):
                    here = np.linalg.norm(specimen.positions[:, :2] - atoms.positions[column], axis=1) < 0.3
                    kept[np.flatnonzero(here & (specimen.numbers == 16))[0]] = False
                after, origin = specimen[kept], atoms.positions[target] - SIDE / 2
                verification = Verification(atoms, target, Outcome.STEP, LADDER)
                fraction = expected_fraction(
                    after.positions[:, :2] - origin, cross_section(after.numbers), (PIXELS, PIXELS),
                    (SAMPLING, SAMPLING), GaussianProbe(0.45),
                )  # fmt: skip
                for _ in range(most):
                    if verification.is_clear:
                        break
                    image = detect(fraction, electrons_for_dose(dose, SAMPLING), rng, 1e-5, 0.2)
                    found = ensemble.predict(image, SAMPLING).atoms
                    found = dataclasses.replace(found, positions=found.positions + origin)
                    verification.add(found, (*origin.tolist(), *(origin + SIDE).tolist()))
                    taken += 1
                named = [np.linalg.norm(c.position - atoms.positions[neighbour]) for c in verification.bystanders()]
                noticed += any(away < 0.5 for away in named)
                falsely += sum(away >= 0.5 for away in named)
            print(f"| {dose:.0e} | {most} | {noticed / trials:.2f} | {falsely / trials:.3f} | {taken / trials:.1f} |")


if __name__ == "__main__":
    main()
