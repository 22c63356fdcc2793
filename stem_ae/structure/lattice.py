"""Bonds in the image plane, and the image's scale and distortion from them."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stem_ae import checks
from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

REACH = 1.3
"""Neighbours are bonded up to this multiple of the typical distance."""

_ENOUGH = 12
"""Fully surrounded atoms below which a lattice cannot be measured."""

_ONE_LATTICE = 0.6
"""Mean of the neighbours' directions, folded onto one, from which on there is one lattice; 1 if it is perfect."""


def bonds_2d(positions: FloatArray, cutoff: float) -> IntArray:
    """Return the pairs of points closer than ``cutoff`` (Å), ``(M, 2)`` with the smaller index first.

    Raises
    ------
    StemAeError
        If the cutoff is no finite number.
    """
    cutoff = checks.number(cutoff, "The reach of bonds", 0, unit="Å")
    if len(positions) < 2:
        return np.zeros((0, 2), np.int64)
    pairs: IntArray = cKDTree(positions).query_pairs(cutoff, output_type="ndarray").astype(np.int64)
    return pairs


def typical_distance(positions: FloatArray) -> float:
    """Return the median distance to the nearest neighbour in Å.

    Raises
    ------
    StemAeError
        If there are fewer than two points.
    """
    if len(positions) < 2:
        raise StemAeError("There are fewer than two atoms here: choose a larger region.")
    if not np.isfinite(positions).all():
        raise StemAeError("An atom's position is not finite: leave such atoms out.")
    return float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The linear map from the image's Å to the material's.

    Attributes
    ----------
    matrix : (2, 2) array
        Multiplies positions (x, y down) of the image.
    scale : float
        Mean stretch it applies: 1.04 says that the image's sampling was 4 % too small.
    scale_error : float
        Its standard error.
    shear : float
        Difference of the two principal stretches: zero without scan distortion.
    """

    matrix: FloatArray
    scale: float
    scale_error: float
    shear: float

    @classmethod
    def none(cls) -> Calibration:
        """Return the map that changes nothing."""
        return cls(np.eye(2), 1.0, 0.0, 0.0)

    @classmethod
    def given(cls, matrix: FloatArray) -> Calibration:
        """Return a map that somebody else determined.

        Raises
        ------
        StemAeError
            If it is no 2 x 2 matrix that can be inverted.
        """
        matrix = np.asarray(matrix, dtype=float)
        if matrix.shape != (2, 2) or not np.isfinite(matrix).all() or not abs(np.linalg.det(matrix)) > 1e-12:
            raise StemAeError("The calibration is not an invertible 2 x 2 matrix of finite numbers.")
        stretches = np.linalg.svd(matrix, compute_uv=False)
        return cls(np.asarray(matrix, float), float(stretches.mean()), 0.0, float(np.ptp(stretches)))


def calibrate(
    positions: FloatArray, covariance: FloatArray, spacing: float, mode: Literal["scale", "affine"] = "scale"
) -> Calibration:
    """Compare the neighbours' vectors with what the material's lattice has.

    Around an atom whose ``n`` nearest neighbours lie at the distance ``d`` with three-fold or higher symmetry, the mean
    of ``v v^T`` over their vectors is ``d²/2`` times the unit matrix. A linear distortion ``F`` makes it
    ``d²/2 F F^T``; so the mean that is measured gives the stretch (not the rotation, which is the specimen's), however
    the lattice lies. What scatter adds to the mean is subtracted: that of the vectors about those of the lattice, which
    holds position errors and atoms that really are off their sites (0.03 Å of the latter feign a scale of 0.999); where
    the image has no one lattice, what the stated position errors amount to. The commonest number of neighbours is taken
    for the undisturbed one, so that edges and defects do not count.

    Parameters
    ----------
    positions, covariance : (N, 2), (N, 2, 2) arrays
        Å and Å².
    spacing : float
        The known distance ``d`` in Å.
    mode : {"scale", "affine"}
        Correct one scale, or the linear distortion (drift, unequal or skew axes) as well.

    Raises
    ------
    StemAeError
        If too few atoms are fully surrounded to say.
    """
    spacing = checks.number(spacing, "The spacing of a material's columns", 0.1, 1000.0, "Å")
    cutoff = REACH * typical_distance(positions)
    pairs = bonds_2d(positions, cutoff)
    directed = np.concatenate([pairs, pairs[:, ::-1]])
    number = np.bincount(directed[:, 0], minlength=len(positions))
    usual = int(np.bincount(number[number >= 3]).argmax()) if np.any(number >= 3) else 0
    whole = number == usual
    if whole.sum() < _ENOUGH or usual < 3:
        raise StemAeError(
            f"Only {int(whole.sum())} atoms here have all their neighbours, which is too few to measure the lattice: "
            "choose a larger region or switch the calibration off."
        )
    directed = directed[whole[directed[:, 0]]]
    vectors = positions[directed[:, 1]] - positions[directed[:, 0]]
    scatter = _scatter(vectors, usual)
    if scatter is None:
        scatter = (covariance[directed[:, 0]] + covariance[directed[:, 1]]).mean(axis=0)
    moment = np.einsum("ni,nj->ij", vectors, vectors) / len(vectors) - scatter
    if mode == "scale":
        moment = np.eye(2) * np.trace(moment) / 2
    values, axes = np.linalg.eigh(2 * moment / spacing**2)
    if values.min() <= 0:
        raise StemAeError(
            "The stated position errors are larger than the lattice: the calibration cannot work on these atoms."
        )
    stretches = 1 / np.sqrt(values)
    lengths = np.linalg.norm(vectors, axis=1)
    error = float(lengths.std() / np.sqrt(len(lengths)) / lengths.mean())
    return Calibration(
        (axes * stretches) @ axes.T, float(stretches.mean()), error * float(stretches.mean()), float(np.ptp(stretches))
    )


def _scatter(vectors: FloatArray, neighbours: int) -> FloatArray | None:
    """Return the covariance of neighbours' vectors about the lattice's, or None if they do not show one lattice."""
    fold = 4 if neighbours == 4 else 6  # both sublattices of a honeycomb together have six directions
    angle = np.arctan2(vectors[:, 1], vectors[:, 0])
    phase = np.exp(1j * fold * angle).mean()
    if abs(phase) < _ONE_LATTICE:
        return None
    sector = np.rint((angle * fold - np.angle(phase)) / (2 * np.pi)).astype(int) % fold
    off = np.concatenate([of - of.mean(axis=0) for of in (vectors[sector == k] for k in range(fold)) if len(of)])
    return np.asarray(off.T @ off / max(len(off) - fold, 1), dtype=float)
