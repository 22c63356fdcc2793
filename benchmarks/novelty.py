"""How well novelty tells unknown conditions from known ones: AUC, false alarms and misses for each kind of unknown.

    python benchmarks/novelty.py [--seeds 4] [--first 100] [--model graphene=PATH]

Known are clean and degraded frames over the doses of ``benchmarks/detection.py`` and the samplings and probes of
``benchmarks/robustness.py``. The AUC is the probability that an unknown frame has a higher novelty than a known one; a
false alarm is a known frame above 1, a miss an unknown one below. Counted separately: how many unknown frames the model
reads correctly all the same (0.98 of recall, precision and classes, a class for everything there), since those need no
announcing; and how many of the foreign atoms are pointed out one by one. Seeds from 500 on were used for development.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator, Sequence
from unittest import mock

import frames
import numpy as np
import torch
from frames import MARGIN, Truth, frame, score
from scipy.spatial import cKDTree
from sklearn.metrics import roc_auc_score

from stem_ae import elit
from stem_ae.elit import ensemble as predicting
from stem_ae.elit.novelty import Familiar
from stem_ae.imaging.contamination import hydrocarbon
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe

DOSES = {"graphene": (1e5, 1e6, 1e7), "mos2": (1e4, 1e5, 1e6)}  # e/Å²
SIZE = (320, 320)
READ = 0.98
INSIDE = 2.0  # Å from the border: where foreign atoms are put
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
    """Return a frame in which a share of one element is another one, some in view whatever the share."""
    build = getattr(frames, material)

    def with_dopant(*arguments: object) -> object:
        specimen = build(*arguments)
        margin = MARGIN + INSIDE
        xy = specimen.positions[:, :2]
        in_view = ((xy > margin) & (xy < np.array(specimen.extent) - margin)).all(1)
        sites = np.flatnonzero((specimen.numbers == there) & in_view)
        chosen = np.random.default_rng([seed, 5]).choice(sites, max(1, int(share * len(sites))), replace=False)
        numbers = specimen.numbers.copy()
        numbers[chosen] = instead
        return dataclasses.replace(specimen, numbers=numbers)

    with mock.patch.object(frames, material, with_dopant):
        return frame(material, dose, size=SIZE, seed=seed)


def is_read(ensemble: elit.Ensemble, truth: Truth, prediction: elit.Prediction) -> bool:
    result = score(truth, prediction.atoms)
    has_classes = bool(truth.names) and set(truth.names) <= set(ensemble.species)
    return has_classes and min(result.recall, result.precision, result.accuracy) >= READ


def pointed_out(name: str, truth: Truth, prediction: elit.Prediction) -> tuple[int, int, int]:
    """Return how many foreign atoms are there, how many of them are pointed out, and how many others are."""
    symbol = name.split()[0].rstrip(",")
    there = truth.xy[[n == symbol for n in truth.names]]
    marked = prediction.foreign[:, :2]
    if not len(there) or not len(marked):
        return len(there), 0, len(marked)
    right = cKDTree(there).query(marked)[0] < frames.TOLERANCE
    return len(there), int(right.sum()), int((~right).sum())


def cost(ensemble: elit.Ensemble, material: str, times: int = 10) -> tuple[float, float]:
    """Return the CPU time in ms of the novelty of a frame of 512 x 512 pixels, and of the whole prediction."""
    truth, spent = frame(material, DOSES[material][1]), [0.0]
    signs, judge = predicting.signs, Familiar.novelty

    def timed(function):  # type: ignore[no-untyped-def]
        def call(*arguments):  # type: ignore[no-untyped-def]
            start = time.process_time()
            result = function(*arguments)
            spent[0] += time.process_time() - start
            return result

        return call

    ensemble.predict(truth.counts, truth.sampling)
    with mock.patch.object(predicting, "signs", timed(signs)), mock.patch.object(Familiar, "novelty", timed(judge)):
        start = time.process_time()
        for _ in range(times):
            ensemble.predict(truth.counts, truth.sampling)
        total = time.process_time() - start
    return 1e3 * spent[0] / times, 1e3 * total / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="frames for each condition and dose")
    parser.add_argument("--first", type=int, default=100, help="the first of the seeds")
    parser.add_argument("--model", action="append", default=[])
    arguments = parser.parse_args()
    paths = dict(item.split("=") for item in arguments.model)
    torch.set_num_threads(1)
    for material, doses in DOSES.items():
        ensemble = elit.load(paths.get(material, material))
        usual: list[Seen] = []
        strange: list[Seen] = []
        for dose in doses:
            for seed in range(arguments.first, arguments.first + arguments.seeds):
                usual += [see(ensemble, "known", dose, truth) for truth in known(material, dose, seed)]
                strange += [see(ensemble, name, dose, truth) for name, truth in unknown(material, dose, seed)]
        report(material, ensemble, usual, strange)
        own, whole = cost(ensemble, material)
        print(f"\n512 x 512 pixels: {own:.1f} ms of CPU for the novelty, {whole:.0f} ms in all", flush=True)


@dataclasses.dataclass(frozen=True)
class Seen:
    """One frame and what was said about it."""

    name: str
    dose: float
    novelty: float
    read: bool
    foreign: tuple[int, int, int]


def see(ensemble: elit.Ensemble, name: str, dose: float, truth: Truth) -> Seen:
    prediction = ensemble.predict(truth.counts, truth.sampling, refine=False)
    foreign = pointed_out(name, truth, prediction)
    return Seen(name, dose, prediction.novelty, is_read(ensemble, truth, prediction), foreign)


def report(material: str, ensemble: elit.Ensemble, usual: list[Seen], strange: list[Seen]) -> None:
    familiar = np.array([seen.novelty for seen in usual])
    print(f"\n**{material}**, version {ensemble.version}: {len(usual)} known frames, novelty {np.median(familiar):.2f} "
          f"(median), {familiar.max():.2f} (largest), false alarms {(familiar > 1).mean():.1%}\n")  # fmt: skip
    print("| unknown | frames | novelty, median | least | AUC | missed | read all the same |")
    print("|---|---|---|---|---|---|---|")
    names = list(dict.fromkeys(seen.name for seen in strange))
    groups = {name: [seen for seen in strange if seen.name == name] for name in names}
    groups |= {"all": strange, "all that are not read": [seen for seen in strange if not seen.read]}
    for name, group in groups.items():
        values = np.array([seen.novelty for seen in group])
        read = np.mean([seen.read for seen in group])
        print(f"| {name} | {len(values)} | {np.median(values):.2f} | {min(values):.2f} | {auc(familiar, values):.3f} "
              f"| {np.mean(values <= 1):.0%} | {read:.0%} |")  # fmt: skip
    print("\n| foreign atoms pointed out |", " | ".join(f"{dose:.0e} e/Å²" for dose in DOSES[material]), "|")
    print("|---|" + "---|" * len(DOSES[material]))
    for name in [name for name in names if "%" in name]:
        print(f"| {name} |", " | ".join(of_dose(groups[name], dose) for dose in DOSES[material]), "|")
    wrong = (sum(seen.foreign[2] for seen in usual if seen.dose == dose) for dose in DOSES[material])
    print("| in known frames |", " | ".join(f"{count} wrong" for count in wrong), "|", flush=True)


def of_dose(group: list[Seen], dose: float) -> str:
    there, right, wrong = np.sum([seen.foreign for seen in group if seen.dose == dose], axis=0)
    return f"{right} of {there}, {wrong} wrong"


def auc(usual: Sequence[float], strange: Sequence[float]) -> float:
    return float(roc_auc_score([0] * len(usual) + [1] * len(strange), [*usual, *strange]))


if __name__ == "__main__":
    main()
