"""Adapting to a frame without labels: what it gains on new conditions, what it costs on known ones, how long it takes.

    python benchmarks/adaptation.py [--seeds 1] [--rounds 3] [--steps 80]

The adapted model is judged on another frame of the same conditions, and on frames that the bundled model knew.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import torch
from frames import USUAL_PROBE, Truth, frame, score

from stem_ae import elit
from stem_ae.elit.adaptation import Effort
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe, Probe

FIGURE = 0.97
SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Case:
    """Conditions of one adaptation: material, probe, dose in e/Å²."""

    name: str
    material: str
    probe: Probe
    dose: float

    def truth(self, seed: int) -> Truth:
        """Return a frame, 384 x 384."""
        return frame(self.material, self.dose, size=(384, 384), probe=self.probe, seed=seed)


NEW = [
    Case("7 nm defocus", "mos2", AberratedProbe(defocus=70.0), 1e6),
    Case("10 nm defocus", "mos2", AberratedProbe(defocus=100.0), 1e6),
    Case("10 nm astigmatism", "mos2", AberratedProbe(astigmatism=(100.0, 0.0)), 1e6),
    Case("defocus and astigmatism", "mos2", AberratedProbe(defocus=60.0, astigmatism=(30.0, 50.0)), 1e6),
    Case("10 nm defocus", "graphene", AberratedProbe(defocus=100.0), 3e6),
    Case("8 nm astigmatism", "graphene", AberratedProbe(astigmatism=(40.0, -70.0)), 3e6),
    Case("wide probe, sigma 1.0 Å", "graphene", GaussianProbe(1.0), 3e6),
]
KNOWN = {
    "mos2": Case("known", "mos2", USUAL_PROBE, 1e6),
    "graphene": Case("known", "graphene", USUAL_PROBE, 1e6),
}


def f1(ensemble: elit.Ensemble, truth: Truth) -> float:
    """Return how well atoms are found and classified: F1 of detection times the share of right classes."""
    result = score(truth, ensemble.predict(truth.counts, truth.sampling).atoms)
    return result.f1 * (result.accuracy if len(result.true) else 0.0)


def main() -> None:
    """Print one row for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=Effort.rounds)
    parser.add_argument("--steps", type=int, default=Effort.steps)
    parser.add_argument("--patches", type=int, default=Effort.patches)
    parser.add_argument("--only", default="", help="material")
    arguments = parser.parse_args()
    effort = Effort(arguments.rounds, arguments.steps, arguments.patches)
    print(f"{torch.get_num_threads()} threads; F1 (class right) before -> after; figure {FIGURE} within {SECONDS:g} s")
    for case in (case for case in NEW if arguments.only in case.material):
        ensemble = elit.load(case.material)
        for seed in range(arguments.seeds):
            today, another, known = case.truth(seed), case.truth(100 + seed), KNOWN[case.material].truth(seed)
            wall, cpu = time.perf_counter(), time.process_time()
            adapted = elit.adapt(ensemble, today.counts, today.sampling, effort=effort, seed=seed)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            prediction = ensemble.predict(another.counts, another.sampling)
            print(
                f"{case.material:9}{case.name:26} novelty {prediction.novelty:4.1f}  "
                f"new {f1(ensemble, another):.3f} -> {f1(adapted, another):.3f}  "
                f"known {f1(ensemble, known):.3f} -> {f1(adapted, known):.3f}  "
                f"{wall:.0f} s, {cpu:.0f} CPU-s, sure of {adapted.description.provenance['sure_atoms']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
