"""The literature's 896 x 896 graphene frame (2021 C and 22 Si at 0.104 Å/px): counts, and time to a simulation object.

    python benchmarks/literature_frame.py [--repeats 3]

Graphene around a hole, so that as many atoms are in view; simulated at a dose per Å², with known truth.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from stem_ae import elit, scoring, structure
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import Specimen, graphene

SIZE, SAMPLING = 896, 0.104
CARBON, SILICON = 2021, 22
MARGIN = 6.0  # Å of specimen beyond the frame


def specimen(seed: int = 0) -> Specimen:
    """Return graphene with so many atoms in the frame: what is nearest to the frame's middle is missing."""
    side = SIZE * SAMPLING
    sheet = graphene((side + 2 * MARGIN, side + 2 * MARGIN), 0.0, 0.0, 11.0, 0.05, seed)
    xy = sheet.positions[:, :2] - MARGIN
    inside = np.flatnonzero(np.all((xy > 0) & (xy < (SIZE - 1) * SAMPLING), axis=1))
    inside = inside[np.argsort(np.linalg.norm(xy[inside] - side / 2, axis=1))]
    hole, kept = inside[: -CARBON - SILICON], inside[-CARBON - SILICON :]
    sheet.numbers[np.random.default_rng(seed).choice(kept, SILICON, replace=False)] = 14
    return sheet[np.setdiff1d(np.arange(len(sheet)), hole)]


def main() -> None:
    """Print counts and times for each dose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    sheet = specimen()
    positions = sheet.positions - [MARGIN, MARGIN, 0.0]
    xy, names = sheet.columns()
    xy = xy - MARGIN
    inside = np.all((xy > 0) & (xy < (SIZE - 1) * SAMPLING), axis=1)
    xy, names = xy[inside], [name for name, kept in zip(names, inside, strict=True) if kept]
    fraction = expected_fraction(
        positions[:, :2], cross_section(sheet.numbers), (SIZE, SIZE), (SAMPLING, SAMPLING), GaussianProbe(0.5)
    )
    ensemble = elit.load("graphene")
    print(f"true: {names.count('C')} C, {names.count('Si')} Si; ensemble of {len(ensemble)}, {ensemble.version}")
    print("| dose e/Å² | C | Si | recall | precision | Si recall, precision | CPU-s to atoms, to ase.Atoms | it |")
    print("|---|---|---|---|---|---|---|---|")
    for dose in (3e5, 1e6):
        image = detect(fraction, electrons_for_dose(dose, SAMPLING), np.random.default_rng(1), 1e-5, 0.2)
        ensemble.predict(image, SAMPLING)  # warm
        finding, building = [], []
        for _ in range(repeats):
            start = time.process_time()
            atoms = ensemble.predict(image, SAMPLING).atoms
            middle = time.process_time()
            built = structure.build(atoms)
            finding.append(middle - start)
            building.append(time.process_time() - middle)
        score = scoring.score(atoms, xy, names, 0.5, 0.8)
        counts, silicon = atoms.counts(), score.of_class("Si")
        print(
            f"| {dose:.0e} | {counts['C']} | {counts['Si']} | {score.recall:.4f} | {score.precision:.4f} "
            f"| {silicon[0]:.2f}, {silicon[1]:.2f} | {statistics.median(finding):.2f}, "
            f"{statistics.median(building):.2f} | {built.get_chemical_formula()} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
