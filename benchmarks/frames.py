"""Simulated frames with known truth, and how a prediction compares with it. Shared by the benchmarks."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

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


@dataclasses.dataclass(frozen=True)
class Score:
    """How found atoms compare with the truth: fractions, and matched pairs (truth, found)."""

    recall: float
    precision: float
    truth_of: NDArray[np.int64]
    found_of: NDArray[np.int64]
    errors: FloatArray  # (M, 2) Å

    @property
    def rmse(self) -> float:
        """One-dimensional RMS error in Å."""
        return float(np.sqrt((self.errors**2).mean())) if len(self.errors) else float("nan")


def score(truth: Truth, atoms: Atoms2D, edge: float = 0.8) -> Score:
    """Match one to one within 0.5 Å; columns and atoms closer than ``edge`` Å to the border are not counted."""
    limit = (np.array(truth.counts.shape[::-1]) - 1) * truth.sampling
    inner = lambda p: np.all((p >= edge) & (p <= limit - edge), axis=1)  # noqa: E731
    if not len(atoms):
        none = np.zeros(0, np.int64)
        return Score(0.0, 1.0, none, none, np.zeros((0, 2)))
    forward = cKDTree(atoms.positions).query(truth.xy)
    backward = cKDTree(truth.xy).query(atoms.positions)
    mutual = (backward[1][forward[1]] == np.arange(len(truth.xy))) & (forward[0] < TOLERANCE)
    matched_truth = np.flatnonzero(mutual)
    matched_found = forward[1][mutual]
    found_inner, truth_inner = inner(atoms.positions), inner(truth.xy)
    true_positive = np.zeros(len(atoms), bool)
    true_positive[matched_found] = True
    keep = truth_inner[matched_truth]
    errors = atoms.positions[matched_found[keep]] - truth.xy[matched_truth[keep]]
    return Score(
        float(mutual[truth_inner].mean()), float(true_positive[found_inner].mean()),
        matched_truth[keep], matched_found[keep], errors,
    )


def class_scores(truth: Truth, atoms: Atoms2D, result: Score, name: str) -> tuple[float, float, float]:
    """Return recall, precision and F1 of one class among matched columns."""
    true = np.array([truth.names[k] == name for k in result.truth_of])
    found = np.array([atoms.species[atoms.labels[k]] == name for k in result.found_of])
    hits = float((true & found).sum())
    recall, precision = hits / max(true.sum(), 1), hits / max(found.sum(), 1)
    return recall, precision, 2 * recall * precision / max(recall + precision, 1e-9)
