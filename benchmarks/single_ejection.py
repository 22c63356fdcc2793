"""Does exactly one S leave, from the right column, and does the named outcome say so.

Attempts on an S2 column of MoS2 with the parked 60 pA, 60 kV beam: it is aimed with an error of a given RMS and drifts
on; every atom around it leaves by chance as ``imaging.damage`` has it, the counts follow from the atoms that are left,
and the beam stays on for the blanker's latency after the decision. The levels that ``Exposure`` expects are those of a
perfect aim. Besides the atoms of other columns that left, those that were to be expected are added up: of each moment
the chance, whatever then happened.

    python benchmarks/single_ejection.py --attempts 500
    python benchmarks/single_ejection.py --attempts 5000 --reading 1000 --semiangle 40 --source 0.20
"""

from __future__ import annotations

import argparse
import collections
import json

import numpy as np

from stem_ae.imaging import damage, specimens
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.dose import electrons_per_pixel
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.manipulate import Exposure, ExposureSettings

BACKGROUND = 2e-5
SAME_COLUMN = 0.5  # Å


def rate_of_counts(specimen, probe, beam, electrons_per_s):
    away = specimen.positions[:, :2] - beam
    fraction = expected_fraction(away, cross_section(specimen.numbers), (1, 1), 0.1, probe)[0, 0]
    return electrons_per_s * (fraction + BACKGROUND)


def without(specimen, atom):
    keep = np.ones(len(specimen), bool)
    keep[atom] = False
    return specimen[keep]


class Beam:
    """A parked beam that drifts over a specimen which it damages; counts per reading."""

    def __init__(self, specimen, probe, target, position, velocity, electrons_per_s, rng):
        self.specimen, self.probe, self.position, self.velocity = specimen, probe, position, velocity
        self.target, self.electrons_per_s, self.rng = target, electrons_per_s, rng
        self.ejected, self.expected = [], 0.0
        self._look()

    def _look(self):
        """See what the detector counts here, which atom leaves next, and after how many seconds."""
        self.rate = rate_of_counts(self.specimen, self.probe, self.position, self.electrons_per_s)
        at = self.specimen.positions[:, :2]
        barn = damage.ejection_cross_sections(self.specimen, 60e3)
        per_electron = barn * damage.BARN * damage.fluence(self.probe, (0.0, 0.0), at - self.position)
        beside = np.linalg.norm(at - self.target, axis=1) > SAME_COLUMN
        self.beside_per_s = float(per_electron[beside].sum()) * self.electrons_per_s
        self.atom, after = damage.first_event(per_electron, np.inf, self.rng)
        self.left_s = after / self.electrons_per_s

    def read(self, seconds):
        """Return the counts of one reading, in which atoms may leave."""
        mean = 0.0
        while self.left_s < seconds:
            mean += self.rate * self.left_s
            self.expected += self.beside_per_s * self.left_s
            seconds -= self.left_s
            self.ejected.append((int(self.specimen.numbers[self.atom]), self.specimen.positions[self.atom, :2].copy()))
            self.specimen = without(self.specimen, self.atom)
            self._look()
        self.left_s -= seconds
        self.expected += self.beside_per_s * seconds
        return self.rng.poisson(mean + self.rate * seconds)

    def drift(self, seconds):
        """Move on; the waiting time starts anew, which an exponential one does not notice."""
        self.position = self.position + self.velocity * seconds
        self._look()


def attempt(specimen, probe, target, settings, args, rng):
    electrons_per_s = electrons_per_pixel(args.current, 1e6)
    angle = rng.uniform(0, 2 * np.pi)
    velocity = args.drift / 60 * np.array([np.cos(angle), np.sin(angle)])
    aim = target + rng.normal(0, args.aim / np.sqrt(2), 2)
    beam = Beam(specimen, probe, target, aim, velocity, electrons_per_s, rng)
    exposure = Exposure(settings)
    reading = args.reading * 1e-6
    while exposure.outcome is None:
        exposure.update(beam.read(reading), reading)
        if len(exposure.readings) % round(0.05 / reading) == 0:
            beam.drift(0.05)
    for _ in range(max(round(args.blanking * 1e-3 / reading), 1)):
        exposure.confirm(beam.read(reading), reading)
    wrong = sum(np.linalg.norm(position - target) > SAME_COLUMN for _, position in beam.ejected)
    return str(exposure.outcome), len(beam.ejected), wrong, beam.expected, exposure.elapsed_s


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=500)
    parser.add_argument("--current", type=float, default=60.0, help="pA")
    parser.add_argument("--semiangle", type=float, default=32.0, help="mrad")
    parser.add_argument("--source", type=float, default=0.30, help="standard deviation of the source's image, Å")
    parser.add_argument("--aim", type=float, default=0.2, help="RMS distance of the beam from the column, Å")
    parser.add_argument("--drift", type=float, default=1.0, help="Å/min")
    parser.add_argument("--reading", type=float, default=100.0, help="µs")
    parser.add_argument("--blanking", type=float, default=5.0, help="ms until the beam is off")
    parser.add_argument("--timeout", type=float, default=5.0, help="s")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    probe = AberratedProbe(60e3, args.semiangle, source_sigma=args.source)
    rng = np.random.default_rng(args.seed)
    specimen = specimens.mos2((24.0, 24.0), 0.0, 0.0)
    sulphur = np.flatnonzero(specimen.numbers == 16)
    nearest = sulphur[np.argsort(np.linalg.norm(specimen.positions[sulphur, :2] - 12.0, axis=1))[:2]]
    target = specimen.positions[nearest[0], :2]
    left = [specimen, without(specimen, nearest[:1]), without(specimen, nearest)]
    levels = tuple(rate_of_counts(s, probe, target, electrons_per_pixel(args.current, 1e6)) for s in left)
    settings = ExposureSettings(levels, args.current, args.timeout, 1e12)
    results = [attempt(specimen, probe, target, settings, args, rng) for _ in range(args.attempts)]
    table = collections.Counter(f"{outcome}: {n} left" for outcome, n, *_ in results)
    print(
        json.dumps(
            {
                "settings": vars(args),
                "levels_per_s": levels,
                "exactly_one": sum(n == 1 and not wrong for _, n, wrong, *_ in results) / len(results),
                "attempts_with_wrong_column": sum(wrong > 0 for _, _, wrong, *_ in results) / len(results),
                "beside_to_be_expected": sum(expected for *_, expected, _ in results) / len(results),
                "named_rightly": sum(
                    n == {"one step": 1, "double ejection": 2}.get(outcome, 0) for outcome, n, *_ in results
                )
                / len(results),
                "outcomes": dict(table),
                "mean_exposure_s": float(np.mean([seconds for *_, seconds in results])),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
