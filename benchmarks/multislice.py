"""Our image model beside abTEM's multislice with frozen phonons: cross sections, column intensities, profiles.

    pip install ".[benchmarks]"
    python benchmarks/multislice.py [--configurations 6]

60 kV, 32 mrad, in focus, motion 0.07 Å, source 0.35 Å on both sides; graphene with one Si, MoS2 with one S gone.
The image's frequencies end at 2 alpha / lambda, so that a scan of the whole periodic cell at 0.36 Å holds all of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import abtem
import ase
import ase.build
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.imaging.scattering import Detector, cross_section

FloatArray = NDArray[np.float64]

ENERGY, SEMIANGLE = 60e3, 32.0  # eV, mrad
ANNULI: dict[Detector, tuple[float, float]] = {"HAADF": (85.0, 200.0), "MAADF": (60.0, 180.0)}  # mrad
MOTION, SOURCE = 0.07, 0.35  # Å
STEP = 0.36  # Å between probe positions
POTENTIAL_SAMPLING = 0.055  # Å: carries 290 mrad, so that nothing below 200 is cut
ELEMENTS = {"C": 6, "Si": 14, "S": 16, "Mo": 42}


@dataclasses.dataclass(frozen=True)
class Case:
    """A periodic specimen, the columns to compare, and the line to compare along (x is fixed, y runs)."""

    atoms: ase.Atoms
    columns: dict[str, FloatArray]
    line_x: float


def graphene_with_silicon() -> Case:
    a = 2.46
    cell = ase.Atoms(
        "C4", cell=[a, a * np.sqrt(3), 4.0], pbc=True,
        scaled_positions=[[0, 0, 0.5], [0.5, 1 / 6, 0.5], [0.5, 0.5, 0.5], [0, 2 / 3, 0.5]],
    )
    atoms = cell.repeat((6, 4, 1))
    middle = np.diag(atoms.cell)[:2] / 2
    silicon = int(np.argmin(np.linalg.norm(atoms.positions[:, :2] - middle, axis=1)))
    atoms.numbers[silicon] = 14
    si = atoms.positions[silicon, :2]
    # Far from the dopant, on the same armchair line.
    on_line = np.flatnonzero(abs(atoms.positions[:, 0] - si[0]) < 0.1)
    far = on_line[np.argmax(abs(atoms.positions[on_line, 1] - si[1]))]
    return Case(atoms, {"Si": si, "C": atoms.positions[far, :2]}, float(si[0]))


def mos2_with_vacancy() -> Case:
    layer = ase.build.mx2("MoS2", kind="2H", a=3.16, thickness=3.12, vacuum=0.44)
    atoms = abtem.orthogonalize_cell(layer).repeat((5, 3, 1))
    middle = np.diag(atoms.cell)[:2] / 2
    sulphur = np.flatnonzero(atoms.numbers == 16)
    gone = sulphur[np.argmin(np.linalg.norm(atoms.positions[sulphur, :2] - middle, axis=1))]
    s1 = atoms.positions[gone, :2].copy()
    del atoms[[int(gone)]]
    on_line = abs(atoms.positions[:, 0] - s1[0]) < 0.1
    columns = {"S1": s1}
    for name, number in (("S2", 16), ("Mo", 42)):
        candidates = atoms.positions[on_line & (atoms.numbers == number), :2]
        away = abs(candidates[:, 1] - s1[1])
        columns[name] = candidates[np.argmax(away)]
    return Case(atoms, dict(reversed(columns.items())), float(s1[0]))


def multislice(atoms: ase.Atoms, configurations: int, motion: float = MOTION) -> dict[Detector, FloatArray]:
    """Return abTEM's images of one period, ``(ny, nx)``, as fractions of the beam, without the source's size.

    The plane waves of the aperture are propagated once and summed for each probe position: PRISM without
    interpolation, which is multislice exactly and several times faster for a whole scan. Configurations are averaged
    here, because abTEM 1.0.9 without dask adds them up.
    """
    size = np.diag(atoms.cell)[:2]
    scan = abtem.GridScan((0, 0), size, gpts=tuple(int(n) for n in np.ceil(size / STEP)), endpoint=False)
    detectors = [abtem.AnnularDetector(*annulus) for annulus in ANNULI.values()]
    rng = np.random.default_rng(1)
    total = np.zeros((len(ANNULI), *scan.gpts[::-1]))
    for _ in range(configurations):
        displaced = atoms.copy()
        displaced.positions += rng.normal(0, motion, displaced.positions.shape)
        displaced.wrap()
        potential = abtem.Potential(displaced, sampling=POTENTIAL_SAMPLING, slice_thickness=1.0)
        waves = abtem.SMatrix(potential=potential, energy=ENERGY, semiangle_cutoff=SEMIANGLE, interpolation=1)
        total += [np.asarray(image.array, dtype=float).T for image in waves.scan(scan=scan, detectors=detectors)]
    return dict(zip(ANNULI, total / configurations, strict=True))


def ours(case: Case, detector: Detector, shape: tuple[int, int]) -> FloatArray:
    """Return our image of the same period on the same grid."""
    size = np.diag(case.atoms.cell)[:2]
    tiles = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 1, 2) * size
    xy = (case.atoms.positions[None, :, :2] + tiles).reshape(-1, 2)
    weights = np.tile(cross_section(case.atoms.numbers, detector), len(tiles))
    sampling = (size[1] / shape[0], size[0] / shape[1])
    probe = AberratedProbe(ENERGY, SEMIANGLE, source_sigma=SOURCE)
    return expected_fraction(xy, weights, shape, sampling, probe, MOTION)


def at(image: FloatArray, size: FloatArray, xy: FloatArray) -> FloatArray:
    """Return a periodic, band-limited image at positions ``(N, 2)`` in Å: its Fourier series, summed there."""
    series = fft.fft2(image) / image.size
    ky, kx = fft.fftfreq(image.shape[0], 1 / image.shape[0]), fft.fftfreq(image.shape[1], 1 / image.shape[1])
    along_y = np.exp(2j * np.pi * np.outer(xy[:, 1] / size[1], ky))
    along_x = np.exp(2j * np.pi * np.outer(xy[:, 0] / size[0], kx))
    return np.einsum("ny,yx,nx->n", along_y, series, along_x).real


def with_source(image: FloatArray, size: FloatArray) -> FloatArray:
    fy, fx = (fft.fftfreq(n, length / n) for n, length in zip(image.shape, size[::-1], strict=True))
    blur = np.exp(-2 * (np.pi * SOURCE) ** 2 * (fy[:, None] ** 2 + fx**2))
    return fft.ifft2(fft.fft2(image) * blur).real


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=6, help="frozen phonon configurations")
    arguments = parser.parse_args()
    start = time.monotonic()
    abtem.config.set({"dask.lazy": False, "diagnostics.progress_bar": False, "fftw.threads": 1})
    cross_sections()
    compare("graphene with one Si", graphene_with_silicon(), arguments.configurations)
    compare("MoS2 with one S gone", mos2_with_vacancy(), arguments.configurations)
    print(f"\n{time.monotonic() - start:.0f} s.")


def cross_sections() -> None:
    """Print what one atom scatters: the image of an isolated atom, summed.

    It sits on a point of the potential's grid: between points, abTEM's potential is up to 15 % weak at these angles.
    """
    print("Cross section of one atom, Å²\n")
    print("| | " + " | ".join(f"{d} {e}" for d in ANNULI for e in (*ELEMENTS, "law")) + " |")
    print("|---" * (1 + 2 * (1 + len(ELEMENTS))) + "|")
    box = 12.0
    alone = {
        name: multislice(ase.Atoms([number], [[0, 0, 0.5]], cell=[box, box, 1.0], pbc=True), 1, motion=0.0)
        for name, number in ELEMENTS.items()
    }
    z = np.array(list(ELEMENTS.values()))
    theirs = {d: np.array([alone[name][d].mean() * box**2 for name in ELEMENTS]) for d in ANNULI}
    for who, table in (("abTEM", theirs), ("stem_ae", {d: cross_section(z, d) for d in ANNULI})):
        cells = []
        for values in table.values():
            exponent, log_carbon = np.polyfit(np.log(z / 6), np.log(values), 1)
            cells += [f"{v:.2e}" for v in values] + [f"{np.exp(log_carbon):.2e} (Z/6)^{exponent:.2f}"]
        print(f"| {who} | " + " | ".join(cells) + " |", flush=True)


def compare(name: str, case: Case, configurations: int) -> None:
    size = np.diag(case.atoms.cell)[:2]
    reference = next(reversed(case.columns))
    names = list(case.columns)
    theirs = {d: with_source(image, size) for d, image in multislice(case.atoms, configurations).items()}
    print(f"\n{name}: {len(case.atoms)} atoms, {configurations} configurations; signal on the columns, % of the beam\n")
    print(f"| | | {' | '.join(names)} | {' : '.join(names)} | profile correlation | RMS difference, % of maximum |")
    print("|---" * (5 + len(names)) + "|")
    for detector, image in theirs.items():
        model = ours(case, detector, image.shape)
        line = np.column_stack([np.full(400, case.line_x), np.linspace(0, size[1], 400, endpoint=False)])
        profiles = [at(i, size, line) for i in (image, model)]
        correlation = np.corrcoef(profiles)[0, 1]
        scaled = profiles[1] * (profiles[0] @ profiles[1]) / (profiles[1] @ profiles[1])
        difference = 100 * np.sqrt(np.mean((scaled - profiles[0]) ** 2)) / profiles[0].max()
        for who, i in (("abTEM", image), ("stem_ae", model)):
            peak = dict(zip(names, at(i, size, np.array(list(case.columns.values()))), strict=True))
            ratio = " : ".join(f"{peak[n] / peak[reference]:.2f}" for n in names)
            agreement = f"{correlation:.4f} | {difference:.1f}" if who == "stem_ae" else "|"
            print(f"| {detector} | {who} | " + " | ".join(f"{100 * peak[n]:.3f}" for n in names)
                  + f" | {ratio} | {agreement} |", flush=True)


if __name__ == "__main__":
    main()
