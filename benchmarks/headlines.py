"""How often the Atoms panel's headline is green where it should be, amber where it must be, and how often it flickers.

    python benchmarks/headlines.py [--seeds 4] [--frames 60] [--real FOLDER]

Frames and unknown conditions are those of ``benchmarks/novelty.py``, each looked at as the live view does, by itself.
Live series are of the simulated microscope: a change of colour in any of them is a flicker. ``--real`` adds real images
(``docs/real_images.md`` says where they are from): the model that fits and the one that does not.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
import torch
from novelty import DOSES, is_read, known, unknown

from stem_ae import elit, imageio
from stem_ae.elit import live
from stem_ae.elit.trust import Trust
from stem_ae.imaging import catalogue
from stem_ae.imaging.scan_field import ScanField
from stem_ae.imaging.virtual_microscope import Beam, Conditions, VirtualMicroscope

SERIES = [  # specimen, model, field of view in Å, dwell time in µs, pA
    ("graphene with silicon", "graphene", 40.0, 4.0, 200.0), ("graphene with silicon", "graphene", 40.0, 1.0, 30.0),
    ("graphene with silicon", "graphene", 80.0, 1.0, 200.0),
    ("graphene with a grain boundary", "graphene", 40.0, 4.0, 30.0),
    ("MoS2 with vacancies", "mos2", 60.0, 1.0, 200.0), ("MoS2 with vacancies", "mos2", 40.0, 0.5, 30.0),
    ("MoS2 with vacancies", "graphene", 40.0, 4.0, 200.0), ("graphene with silicon", "mos2", 40.0, 4.0, 200.0),
]  # fmt: skip
REAL = [  # file, data set, Å per pixel (None: as stated)
    ("G-GrainBoundary-6nm.npy", None, 0.1175), ("G-Si-2nm.npy", None, 0.078), ("G-trimSi.hdf5", "image_data", 0.0383),
    ("MoS2_stem_Exp-000-2.npy", None, None), ("MoS2_stem_Exp-002-5.npy", None, None),
    ("CdTe_twin_HAADF26.dm3", None, None), ("AtomSegNet_Si110_5nm_25us.png", None, 50 / 512),
]  # fmt: skip


def said_of(ensemble: elit.Ensemble, image: np.ndarray, step: float | tuple[float, float]) -> Trust:
    """Return what the live view thinks of one frame."""
    sampling = (step, step) if isinstance(step, float) else step
    return live._Looking(ensemble).at(live.Frame(image, sampling)).trust


def frames(seeds: int) -> None:
    """Print how often single frames are believed."""
    print("| model | frames | number | believed | doubted for |")
    print("|---|---|---|---|---|")
    for material, doses in DOSES.items():
        ensemble = elit.load(material)
        groups: dict[str, list[Trust]] = {}
        for dose, seed in itertools.product(doses, range(700, 700 + seeds)):
            for truth in known(material, dose, seed):
                groups.setdefault("known", []).append(said_of(ensemble, truth.counts, truth.sampling))
            for name, truth in unknown(material, dose, seed):
                prediction = ensemble.predict(truth.counts, truth.sampling, refine=False)
                read = ", but read correctly" if is_read(ensemble, truth, prediction) else ""
                groups.setdefault(name + read, []).append(said_of(ensemble, truth.counts, truth.sampling))
        for name, trusts in groups.items():
            doubts = [trust.doubt for trust in trusts if trust.doubt]
            reasons = ", ".join(f"{kind} {doubts.count(kind)}" for kind in dict.fromkeys(doubts))
            print(f"| {material} | {name} | {len(trusts)} | {len(trusts) - len(doubts)} | {reasons} |", flush=True)


def series(count: int) -> None:
    """Print how often the colour changes in live series."""
    print("\n| specimen | model | field, dwell, current | green | changes |")
    print("|---|---|---|---|---|")
    for specimen, model, fov, dwell_us, current_pa in SERIES:
        said = [trust.believed for trust in looked_at(specimen, model, fov, dwell_us, current_pa, count)]
        changes = sum(a != b for a, b in itertools.pairwise(said))
        print(f"| {specimen} | {model} | {fov / 10:g} nm, {dwell_us:g} µs, {current_pa:g} pA | {sum(said)} of {count} "
              f"| {changes} |", flush=True)  # fmt: skip


def looked_at(
    specimen: str, model: str, fov: float, dwell_us: float, current_pa: float, count: int
) -> Iterator[Trust]:
    entry = catalogue.entry(specimen)
    microscope = VirtualMicroscope(entry.make(), Conditions(damage=False, contamination=entry.contamination), 1)
    field = ScanField(fov=(fov, fov), centre=(10.0, 5.0))
    shown = microscope.begin_frame(field, (256, 256), dwell_us, Beam(current_pa=current_pa))
    looking, choice = live._Looking(elit.load(model)), live.SamplingChoice()
    for _ in range(count):
        yield looking.at(live.Frame(shown.counts("HAADF"), (fov / 256, fov / 256), choice)).trust


def real(folder: pathlib.Path) -> None:
    """Print what is said of real images."""
    print("\n| image | model | headline | reason |")
    print("|---|---|---|---|")
    for (name, dataset, sampling), model in itertools.product(REAL, DOSES):
        stack = imageio.read(folder / name, dataset=dataset, sampling=sampling)
        assert stack.sampling is not None
        trust = said_of(elit.load(model), stack.frames[0], stack.sampling)
        print(f"| {name} | {model} | {'green' if trust.believed else 'amber'} | {trust.sentence} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="frames for each condition and dose")
    parser.add_argument("--frames", type=int, default=60, help="of each live series")
    parser.add_argument("--real", type=pathlib.Path, help="folder with the real images")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    frames(arguments.seeds)
    series(arguments.frames)
    if arguments.real:
        real(arguments.real)


if __name__ == "__main__":
    main()
