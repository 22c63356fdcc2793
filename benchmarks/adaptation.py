"""Adapting to a frame without labels: what it gains on new conditions, what it costs on known ones, how long it takes.

    python benchmarks/adaptation.py [--seeds 1] [--rounds 4] [--steps 50] [--only "astigmatism"]
    python benchmarks/adaptation.py --untrained       # what refocusing with the probe that is read brings alone

The adapted model is judged on another frame of the same conditions, and on frames that the bundled model knew. The time
is also given in predictions of the frame that it adapts to, so that machines can be compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import torch
from frames import USUAL_PROBE, Truth, frame, score

from stem_ae import elit
from stem_ae.elit.adaptation import Effort
from stem_ae.elit.forward_model import refit
from stem_ae.elit.materials import MATERIALS
from stem_ae.elit.preprocess import as_image, repair
from stem_ae.elit.refocus import Refocus
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe, Probe

FIGURE = 0.97
SECONDS = 60.0
NOISES = (0.1, 0.01, 0.001)  # of the refocus


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


def detection(ensemble: elit.Ensemble, truth: Truth) -> float:
    """Return how well atoms are found: F1."""
    return score(truth, ensemble.predict(truth.counts, truth.sampling).atoms).f1


def f1(ensemble: elit.Ensemble, truth: Truth) -> float:
    """Return how well atoms are found and classified: F1 of detection times the share of right classes."""
    result = score(truth, ensemble.predict(truth.counts, truth.sampling).atoms)
    return result.f1 * (result.accuracy if len(result.true) else 0.0)


def prediction_s(ensemble: elit.Ensemble, truth: Truth, times: int = 5) -> float:
    """Return the CPU seconds of one prediction."""
    ensemble.predict(truth.counts, truth.sampling)
    start = time.process_time()
    for _ in range(times):
        ensemble.predict(truth.counts, truth.sampling)
    return (time.process_time() - start) / times


def untrained(case: Case, seed: int = 0) -> str:
    """Return one row: the probe that is read from a frame, and how well another one is read through the refocus."""
    ensemble, today, another = elit.load(case.material), case.truth(seed), case.truth(100 + seed)
    image = repair(as_image(today.counts))
    start = time.process_time()
    found = refit(image, ensemble.predict(image, today.sampling).atoms, MATERIALS[case.material], seed).probes[0]
    cpu = time.process_time() - start
    frame, step = repair(as_image(another.counts)), (another.sampling, another.sampling)
    reads = (score(another, ensemble.look(Refocus(found, n)(frame, step), step)[1]).f1 for n in NOISES)
    cells = [f"{case.material}, {case.name}", str(found), f"{cpu:.0f}", *(f"{read:.3f}" for read in reads)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print one row for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=Effort.rounds)
    parser.add_argument("--steps", type=int, default=Effort.steps)
    parser.add_argument("--patches", type=int, default=Effort.patches)
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--only", default="", help="cases with this in their names")
    arguments = parser.parse_args()
    cases = [case for case in NEW if arguments.only in f"{case.material}, {case.name}"]
    if arguments.untrained:
        print("| case | probe that is read | CPU-s | " + " | ".join(f"F1, noise {n:g}" for n in NOISES) + " |")
        print("|---|---|---|" + "---|" * len(NOISES))
        for case in cases:
            print(untrained(case), flush=True)
        return
    effort = Effort(arguments.rounds, arguments.steps, arguments.patches)
    print(f"{torch.get_num_threads()} threads; figure {FIGURE} within {SECONDS:g} s\n")
    print(
        "| case | novelty | found, before | after | and named, before | after | known, before | after | counted on |"
        " CPU-s | predictions | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        ensemble = elit.load(case.material)
        for seed in range(arguments.seeds):
            today, another, known = case.truth(seed), case.truth(100 + seed), KNOWN[case.material].truth(seed)
            wall, cpu = time.perf_counter(), time.process_time()
            adapted = elit.adapt(ensemble, today.counts, today.sampling, effort=effort, seed=seed)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            prediction = ensemble.predict(another.counts, another.sampling)
            sure = ", ".join(map(str, adapted.description.provenance["sure_atoms"]))
            print(
                f"| {case.material}, {case.name}, {case.dose:.0e} e/Å² | {prediction.novelty:.1f} "
                f"| {detection(ensemble, another):.3f} | {detection(adapted, another):.3f} "
                f"| {f1(ensemble, another):.3f} | {f1(adapted, another):.3f} | {f1(ensemble, known):.3f} "
                f"| {f1(adapted, known):.3f} | {sure} | {cpu:.0f} | {cpu / prediction_s(ensemble, today):.0f} "
                f"| {wall:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
