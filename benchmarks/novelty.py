"""How well novelty tells unknown conditions from known ones: AUC, false alarms and misses for each kind of unknown.

    python benchmarks/novelty.py [--seeds 3] [--model graphene=PATH]

Known are clean and degraded frames over the doses of ``benchmarks/detection.py`` and the samplings and probes of
``benchmarks/robustness.py``. The AUC is the probability that an unknown frame has a higher novelty than a known one; a
false alarm is a known frame above 1, a miss an unknown one below. Counted separately: how many unknown frames the model
reads correctly all the same (0.98 of recall, precision and classes), since those need no announcing.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from unittest import mock

import frames
import numpy as np
import torch
from frames import Truth, frame, score
from sklearn.metrics import roc_auc_score

from stem_ae import elit
from stem_ae.imaging.contamination import hydrocarbon
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe

DOSES = {"graphene": (1e5, 1e6, 1e7), "mos2": (1e4, 1e5, 1e6)}  # e/Å²
SIZE = (320, 320)
READ = 0.98
DOPANTS = {  # atomic number there, atomic number instead, share of the sites
    "graphene": {"Cr": (6, 24, 0.01), "Pt": (6, 78, 0.01)},
    "mos2": {"V for Mo": (42, 23, 0.05), "W for Mo": (42, 74, 0.05), "Se for S": (16, 34, 0.05)},
}


def known(material: str, dose: float, seed: int) -> Iterator[Truth]:
    yield frame(material, dose, size=SIZE, seed=seed)
    yield frame(material, dose, size=SIZE, seed=seed, degraded=True)
    rng = np.random.default_rng([seed, 1])
    probe = GaussianProbe(float(rng.choice([0.35, 0.5, 0.6])), 0.05, 0.4)
    yield frame(material, max(dose, DOSES[material][1]), float(rng.choice([0.08, 0.16])), SIZE, probe, seed=seed)


def unknown(material: str, dose: float, seed: int) -> Iterator[tuple[str, Truth]]:
    usual = frame(material, dose, size=SIZE, seed=seed)
    for factor in (0.5, 1.5, 2.0):
        yield f"told {factor:g} times the sampling", dataclasses.replace(usual, sampling=factor * usual.sampling)
    probes = {
        "probe of 1.3 Å": GaussianProbe(1.3),
        "defocus +10 nm": AberratedProbe(defocus=100.0),
        "defocus +20 nm": AberratedProbe(defocus=200.0),
        "defocus -13 nm": AberratedProbe(defocus=-130.0),
        "astigmatism 10 nm": AberratedProbe(astigmatism=(100.0, 0.0)),
    }
    for name, probe in probes.items():
        yield name, frame(material, dose, size=SIZE, probe=probe, seed=seed)
    yield "inverted contrast", dataclasses.replace(usual, counts=usual.counts.max() - usual.counts)
    other = next(name for name in DOSES if name != material)
    yield "other material", frame(other, dose, size=SIZE, seed=seed)
    noise = np.random.default_rng(seed).poisson(usual.counts.mean(), SIZE).astype(np.float32)
    yield "noise without atoms", dataclasses.replace(usual, counts=noise, xy=np.zeros((0, 2)), names=[])
    yield "thick contamination", dirty(usual, material, dose, seed)
    for name, dopant in DOPANTS[material].items():
        yield f"{name}, {dopant[2]:.0%}", doped(material, dose, *dopant, seed)


def dirty(truth: Truth, material: str, dose: float, seed: int) -> Truth:
    """Return the frame under hydrocarbon nearly everywhere, several times as bright as the specimen."""
    rng = np.random.default_rng([seed, 9])
    layer = hydrocarbon(SIZE, truth.sampling, 0.95, rng, 4.0 if material == "graphene" else 24.0, 0.3)
    more = rng.poisson(electrons_for_dose(dose, truth.sampling) * layer)
    return dataclasses.replace(truth, counts=(truth.counts + more).astype(np.float32))


def doped(material: str, dose: float, there: int, instead: int, share: float, seed: int) -> Truth:
    """Return a frame in which a share of one element is another one."""
    build = getattr(frames, material)

    def with_dopant(*arguments: object) -> object:
        specimen = build(*arguments)
        sites = np.flatnonzero(specimen.numbers == there)
        chosen = np.random.default_rng([seed, 5]).choice(sites, max(1, int(share * len(sites))), replace=False)
        numbers = specimen.numbers.copy()
        numbers[chosen] = instead
        return dataclasses.replace(specimen, numbers=numbers)

    with mock.patch.object(frames, material, with_dopant):
        return frame(material, dose, size=SIZE, seed=seed)


def is_read(ensemble: elit.Ensemble, truth: Truth, prediction: elit.Prediction) -> bool:
    result = score(truth, prediction.atoms)
    return bool(len(truth.xy) and min(result.recall, result.precision, result.accuracy) >= READ)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="frames for each condition and dose")
    parser.add_argument("--model", action="append", default=[])
    arguments = parser.parse_args()
    paths = dict(item.split("=") for item in arguments.model)
    torch.set_num_threads(1)
    for material, doses in DOSES.items():
        ensemble = elit.load(paths.get(material, material))
        usual: list[float] = []
        strange: dict[str, list[tuple[float, bool]]] = {}
        for dose in doses:
            for seed in range(100, 100 + arguments.seeds):
                for truth in known(material, dose, seed):
                    usual.append(ensemble.predict(truth.counts, truth.sampling, refine=False).novelty)
                for name, truth in unknown(material, dose, seed):
                    prediction = ensemble.predict(truth.counts, truth.sampling, refine=False)
                    strange.setdefault(name, []).append((prediction.novelty, is_read(ensemble, truth, prediction)))
        report(material, ensemble, usual, strange)


def report(
    material: str, ensemble: elit.Ensemble, usual: list[float], strange: dict[str, list[tuple[float, bool]]]
) -> None:
    alarms = np.mean(np.array(usual) > 1)
    print(f"\n**{material}**, version {ensemble.version}: {len(usual)} known frames, novelty {np.median(usual):.2f} "
          f"(median), {max(usual):.2f} (largest), false alarms {alarms:.1%}\n")
    print("| unknown | frames | novelty, median | least | AUC | missed | read all the same |")
    print("|---|---|---|---|---|---|---|")
    everything: list[float] = []
    for name, found in strange.items():
        values = [novelty for novelty, _ in found]
        everything += values
        read = np.mean([right for _, right in found])
        print(f"| {name} | {len(values)} | {np.median(values):.2f} | {min(values):.2f} | {auc(usual, values):.3f} "
              f"| {np.mean(np.array(values) <= 1):.0%} | {read:.0%} |")
    print(f"| all | {len(everything)} | {np.median(everything):.2f} | {min(everything):.2f} "
          f"| {auc(usual, everything):.3f} | {np.mean(np.array(everything) <= 1):.0%} | |", flush=True)


def auc(usual: list[float], strange: list[float]) -> float:
    return float(roc_auc_score([0] * len(usual) + [1] * len(strange), usual + strange))


if __name__ == "__main__":
    main()
