"""Simulated frames with known truth, and how a prediction compares with it. Shared by the benchmarks."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from stem_ae import scoring
from stem_ae.atoms import Atoms2D
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.contamination import hydrocarbon
from stem_ae.imaging.distortion import line_jitter
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import GaussianProbe, Probe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import Specimen, graphene, mos2

FloatArray = NDArray[np.float64]
MARGIN = 6.0  # Å of specimen beyond the frame
TOLERANCE = 0.5  # Å
USUAL_PROBE = GaussianProbe(0.5, 0.05, 0.4)


@dataclasses.dataclass(frozen=True)
class Truth:
    """One frame and the columns that are in it."""

    counts: NDArray[np.float32]
    sampling: float
    xy: FloatArray
    names: list[str]


def frame(
    material: str,
    dose: float,
    sampling: float = 0.104,
    size: tuple[int, int] = (512, 512),
    probe: Probe = USUAL_PROBE,
    degraded: bool = False,
    displacement: float = 0.03,
    seed: int = 0,
    silicon: float = 0.011,
) -> Truth:
    """Simulate one frame: dose in e/Å², sampling in Å per pixel; ``degraded`` adds contamination and line jitter."""
    rng = np.random.default_rng([seed, int(dose), round(1e4 * sampling)])
    extent = (size[1] * sampling + 2 * MARGIN, size[0] * sampling + 2 * MARGIN)
    turn = float(rng.uniform(0, 60))
    specimen: Specimen
    if material == "graphene":
        specimen = graphene(extent, silicon, 0.003, turn, 0.05, seed)
    else:
        specimen = mos2(extent, 0.05, 0.01, turn, 0.05, seed)
    # Both atoms of a column move together.
    _, column = np.unique(np.rint(specimen.positions[:, :2] / 0.5), axis=0, return_inverse=True)
    moves = rng.normal(0, displacement, (int(column.max()) + 1, 2))[column.reshape(-1)]
    positions = specimen.positions + np.pad(moves, ((0, 0), (0, 1))) - [MARGIN, MARGIN, 0]
    specimen = dataclasses.replace(specimen, positions=positions)
    jitter = line_jitter(size[0], 0.1, rng, 0.7) if degraded else np.zeros(size[0])
    weights = cross_section(specimen.numbers)
    fraction = expected_fraction(positions[:, :2], weights, size, sampling, probe, line_shifts=jitter)
    background = 1e-5 + (hydrocarbon(size, sampling, 0.15, rng, 0.6, 0.2) if degraded else 0.0)
    counts = detect(fraction, electrons_for_dose(dose, sampling), rng, background, 0.2).astype(np.float32)
    xy, names = specimen.columns()
    limit = (np.array(size[::-1]) - 1) * sampling
    inside = np.all((xy >= 0) & (xy <= limit), axis=1)
    return Truth(counts, sampling, xy[inside], [n for n, i in zip(names, inside, strict=True) if i])


def score(truth: Truth, atoms: Atoms2D, edge: float = 0.8) -> scoring.Score:
    """Compare atoms with the truth; what is closer to the border than ``edge`` Å does not count."""
    return scoring.score(atoms, truth.xy, truth.names, TOLERANCE, edge)
