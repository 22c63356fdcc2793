"""Does exactly one S leave, from the right column, and does the named outcome say so.

Attempts on an S2 column of MoS2 with the parked 60 pA, 60 kV beam: it is aimed with an error of a given RMS and drifts
on; every atom around it leaves by chance as ``imaging.damage`` has it, the counts follow from the atoms that are left,
and the beam stays on for the blanker's latency after the decision. The levels that ``Exposure`` expects are those of a
perfect aim.

    python benchmarks/single_ejection.py --attempts 500
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
PROBE = AberratedProbe()


def rate_of_counts(specimen, beam, electrons_per_s):
    away = specimen.positions[:, :2] - beam
    fraction = expected_fraction(away, cross_section(specimen.numbers), (1, 1), 0.1, PROBE)[0, 0]
    return electrons_per_s * (fraction + BACKGROUND)


def without(specimen, atom):
    keep = np.ones(len(specimen), bool)
    keep[atom] = False
    return specimen[keep]


def next_ejection(specimen, beam, electrons_per_s, rng):
    """Return the atom that leaves next if the beam stays, and after how many seconds."""
    barn = damage.ejection_cross_sections(specimen, 60e3)
    per_electron = barn * damage.BARN * damage.fluence(PROBE, (0.0, 0.0), specimen.positions[:, :2] - beam)
    atom, after = damage.first_event(per_electron, np.inf, rng)
    return atom, after / electrons_per_s


class Beam:
    """A parked beam that drifts over a specimen which it damages; counts per reading."""

    def __init__(self, specimen, position, velocity, electrons_per_s, rng):
        self.specimen, self.position, self.velocity = specimen, position, velocity
        self.electrons_per_s, self.rng = electrons_per_s, rng
        self.ejected = []
        self._look()

    def _look(self):
        self.rate = rate_of_counts(self.specimen, self.position, self.electrons_per_s)
        self.atom, self.left_s = next_ejection(self.specimen, self.position, self.electrons_per_s, self.rng)

    def read(self, seconds):
        """Return the counts of one reading, in which atoms may leave."""
        mean = 0.0
        while self.left_s < seconds:
            mean += self.rate * self.left_s
            seconds -= self.left_s
            self.ejected.append((int(self.specimen.numbers[self.atom]), self.specimen.positions[self.atom, :2].copy()))
            self.specimen = without(self.specimen, self.atom)
            self._look()
        self.left_s -= seconds
        return self.rng.poisson(mean + self.rate * seconds)

    def drift(self, seconds):
        """Move on; the waiting time starts anew, which an exponential one does not notice."""
        self.position = self.position + self.velocity * seconds
        self._look()


def attempt(specimen, target, settings, args, rng):
    electrons_per_s = electrons_per_pixel(args.current, 1e6)
    angle = rng.uniform(0, 2 * np.pi)
    velocity = args.drift / 60 * np.array([np.cos(angle), np.sin(angle)])
    beam = Beam(specimen, target + rng.normal(0, args.aim / np.sqrt(2), 2), velocity, electrons_per_s, rng)
    exposure = Exposure(settings)
    reading = args.reading * 1e-6
    while exposure.outcome is None:
        exposure.update(beam.read(reading), reading)
        if len(exposure.readings) % round(0.05 / reading) == 0:
            beam.drift(0.05)
    for _ in range(round(args.blanking * 1e-3 / reading)):
        exposure.confirm(beam.read(reading), reading)
    wrong = sum(np.linalg.norm(position - target) > 0.5 for _, position in beam.ejected)
    return str(exposure.outcome), len(beam.ejected), wrong, exposure.elapsed_s


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=500)
    parser.add_argument("--current", type=float, default=60.0, help="pA")
    parser.add_argument("--aim", type=float, default=0.2, help="RMS distance of the beam from the column, Å")
    parser.add_argument("--drift", type=float, default=1.0, help="Å/min")
    parser.add_argument("--reading", type=float, default=100.0, help="µs")
    parser.add_argument("--blanking", type=float, default=5.0, help="ms until the beam is off")
    parser.add_argument("--timeout", type=float, default=5.0, help="s")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    specimen = specimens.mos2((24.0, 24.0), 0.0, 0.0)
    sulphur = np.flatnonzero(specimen.numbers == 16)
    nearest = sulphur[np.argsort(np.linalg.norm(specimen.positions[sulphur, :2] - 12.0, axis=1))[:2]]
    target = specimen.positions[nearest[0], :2]
    left = [specimen, without(specimen, nearest[:1]), without(specimen, nearest)]
    levels = tuple(rate_of_counts(s, target, electrons_per_pixel(args.current, 1e6)) for s in left)
    settings = ExposureSettings(levels, args.current, args.timeout, 1e12)
    results = [attempt(specimen, target, settings, args, rng) for _ in range(args.attempts)]
    table = collections.Counter(f"{outcome}: {n} left" for outcome, n, *_ in results)
    print(
        json.dumps(
            {
                "settings": vars(args),
                "levels_per_s": levels,
                "exactly_one": sum(n == 1 and not wrong for _, n, wrong, _ in results) / len(results),
                "attempts_with_wrong_column": sum(wrong > 0 for _, _, wrong, _ in results) / len(results),
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
