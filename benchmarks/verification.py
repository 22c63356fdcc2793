"""How often the verification after an exposure notices that a neighbour has lost an atom too, and how often falsely.

    python benchmarks/verification.py [--trials 200] [--semiangle 40 --source 0.20]

MoS2 with 60 kV, 0.2 Å/px. The survey is one image whose atoms the bundled networks found; then the target loses one S,
and one of its six S2 neighbours another one, or none does. The neighbours' chances beforehand are those that a run
knows after its first exposure. What the images cost is computed: the S that they eject from other columns.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import torch

from stem_ae import elit
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.damage import BARN, ejection_cross_sections, fluence
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import mos2
from stem_ae.manipulate.beam import Scan
from stem_ae.manipulate.columns import ColumnModel, Evidence
from stem_ae.manipulate.exposure import Outcome
from stem_ae.manipulate.levels import weights_from_frame
from stem_ae.manipulate.verify import Belief, Verification

ENERGY = 60e3
SAMPLING, FIELD, SURVEY_DOSE = 0.2, 200, 1e4
MOST = 2.5e4  # e/Å² of all images of one target
LADDER = ("S2", "S1", "")
OFF = 0.15  # Å: how far images lie from where they are expected (standard deviation per axis)


def image(specimen, probe, origin, side, dose, rng):
    """Return a scan whose first pixel is at ``origin`` in Å."""
    electrons = electrons_for_dose(dose, SAMPLING)
    here = specimen.positions[:, :2] - origin
    fraction = expected_fraction(
        here, cross_section(specimen.numbers), (side, side), SAMPLING, probe, blur=0.06
    )
    counts = detect(fraction, electrons, rng, background=2e-5, readout=0.05)
    return Scan(counts, SAMPLING, np.asarray(origin, float), 0.0, 0.0, electrons)


def without_one_s(specimen, places):
    """Return the specimen with one S less at each place."""
    kept = np.ones(len(specimen), bool)
    for place in places:
        here = np.linalg.norm(specimen.positions[:, :2] - place, axis=1) < 0.5
        kept[np.flatnonzero(here & (specimen.numbers == 16))[0]] = False
    return specimen[kept]


class Survey:
    """A specimen, the map of it, and what is believed of each column."""

    def __init__(self, ensemble, probe, seed):
        self.probe, self.rng = probe, np.random.default_rng(seed)
        sheet = mos2((60.0, 60.0), 0.02, 0.0, self.rng.uniform(0, 60), 0.02, seed=seed)
        self.specimen = sheet.moved((-10.0, -10.0, 0.0))
        scan = image(self.specimen, probe, np.zeros(2), FIELD, SURVEY_DOSE, self.rng)
        self.atoms = ensemble.predict(scan.image, SAMPLING).atoms
        weights, _ = weights_from_frame(self.atoms, scan, LADDER)
        self.model, shown = ColumnModel.learnt(self.atoms, scan, probe, weights, LADDER)
        evidence = Evidence(self.model, len(self.atoms))
        evidence.add(shown)
        belief = Belief.of(self.atoms, LADDER, evidence)
        self.atoms, kept = belief.corrected(self.atoms, belief.contradicts(self.atoms))
        self.belief = belief[kept]

    def trial(self, side, dose, hit):
        """Return how often the neighbour was named, other columns were, how many images it took, and their cost."""
        xy, rng = self.atoms.positions, self.rng
        sulphur = np.flatnonzero(np.array(self.atoms.symbols) == "S2")
        target = int(rng.choice(sulphur[np.all(np.abs(xy[sulphur] - 20) < 10, axis=1)]))
        away = np.linalg.norm(xy - xy[target], axis=1)
        neighbour = int(rng.choice([k for k in sulphur if 2.0 < away[k] < 3.6]))
        after = without_one_s(self.specimen, [xy[target], xy[neighbour]] if hit else [xy[target]])
        origin = np.rint(xy[target] / SAMPLING - side / 2) * SAMPLING
        tails = fluence(self.probe, (0.0, 0.0), xy - xy[target])
        check = Verification(self.atoms, target, Outcome.STEP, self.belief, 2 * tails / tails[target])
        evidence, images = Evidence(self.model, len(self.atoms)), 0
        while (images + 1) * dose <= MOST and not check.is_clear:
            scan = image(after, self.probe, origin + rng.normal(0, OFF, 2), side, dose, rng)
            scan = dataclasses.replace(scan, origin=origin)
            evidence.add(self.model.looked_at(scan, self.atoms, xy, 1.5))
            check.look(evidence)
            images += 1
        named = [float(np.linalg.norm(change.position - xy[neighbour])) < 0.5 for change in check.bystanders()]
        rightly = named.count(True) if hit else 0
        return rightly, len(named) - rightly, images, images * self.cost(xy[target], side, dose)

    def cost(self, target, side, dose):
        """Return how many S other columns lose to one image."""
        away = self.specimen.positions[:, :2] - target
        barn = ejection_cross_sections(self.specimen, ENERGY) * (np.linalg.norm(away, axis=1) > 0.5)
        width = side * SAMPLING
        return float(barn @ fluence(self.probe, (width, width), away)) * BARN * dose * width**2


def main() -> None:
    """Print one row for each size and dose of an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--semiangle", type=float, default=32.0, help="mrad")
    parser.add_argument("--source", type=float, default=0.30, help="standard deviation of the source's image, Å")
    parser.add_argument("--sides", type=int, nargs="+", default=(44,), help="of the images, in pixels")
    parser.add_argument("--doses", type=float, nargs="+", default=(1.25e3, 2.5e3, 5e3), help="e/Å² per image")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    probe, ensemble = AberratedProbe(ENERGY, args.semiangle, source_sigma=args.source), elit.load("mos2")
    surveys = [Survey(ensemble, probe, args.seed + k) for k in range(max(args.trials // 20, 1))]
    print("| side, Å | e/Å² per image | noticed | others named | images | none hit: named | images | S lost, % |")
    print("|---|---|---|---|---|---|---|---|")
    for side in args.sides:
        for dose in args.doses:
            hit, none = (
                np.mean([surveys[k % len(surveys)].trial(side, dose, hit) for k in range(args.trials)], axis=0)
                for hit in (True, False)
            )
            row = [f"{side * SAMPLING:.1f}", f"{dose:.2e}", f"{hit[0]:.3f}", f"{hit[1]:.4f}", f"{hit[2]:.1f}"]
            row += [f"{none[1]:.4f}", f"{none[2]:.1f}", f"{100 * none[3]:.3f}"]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
