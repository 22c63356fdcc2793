"""From probability maps to atoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stem_ae.atoms import Atoms2D

FloatImage = NDArray[np.float32]
FloatArray = NDArray[np.float64]

_SMALLEST_DISTANCE = 0.75  # Å: two peaks closer than this are one atom
_USUAL_ERROR = 0.05  # Å per axis, of a position that only the networks know
_CLASS_RADIUS = 0.4  # Å: the class is voted over this disc


def find_atoms(
    probability: FloatImage,
    species: Sequence[str],
    working: float,
    image: FloatImage,
    sampling: tuple[float, float],
    threshold: float,
) -> Atoms2D:
    """Return the peaks of the probability of being an atom.

    Parameters
    ----------
    probability : (C, h, w) array
        Mean over the members.
    species : sequence of str
        Names of the C classes.
    working : float
        Å per pixel of the maps.
    image : (H, W) array
        The frame, for the intensities.
    sampling : (float, float)
        Å per pixel of the frame, ``(y, x)``.
    threshold : float
        Smallest height of a peak.
    """
    atomness = probability.sum(0)
    rows, columns = _peaks(atomness, working, threshold)
    if not len(rows):
        return Atoms2D.empty(species, (image.shape[0], image.shape[1]), sampling)
    votes = _disc_sum(probability, rows, columns, _CLASS_RADIUS / working).astype(float)
    votes /= votes.sum(1, keepdims=True)
    positions = _refined(atomness, rows, columns) * working
    limit = np.array([(image.shape[1] - 1) * sampling[1], (image.shape[0] - 1) * sampling[0]])
    return Atoms2D(
        positions=np.clip(positions, 0, limit),
        covariance=np.tile(np.eye(2) * _USUAL_ERROR**2, (len(rows), 1, 1)),
        labels=votes.argmax(1),
        species=tuple(species),
        probabilities=votes,
        intensity=_intensity(image, positions, sampling),
        shape=(image.shape[0], image.shape[1]),
        sampling=sampling,
    )


def _peaks(atomness: FloatImage, working: float, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    radius = int(np.floor(_SMALLEST_DISTANCE / working))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    footprint = np.hypot(x, y) <= _SMALLEST_DISTANCE / working
    highest = ndimage.maximum_filter(atomness, footprint=footprint, mode="nearest")
    rows, columns = np.nonzero((atomness == highest) & (atomness > threshold))
    return rows, columns


def _refined(atomness: FloatImage, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> FloatArray:
    """Return the peaks' positions ``(N, 2)``, x then y in working pixels, by the parabola through three logarithms.

    The networks learn Gaussian blobs, whose logarithm is a parabola.
    """
    padded = np.log(np.pad(atomness, 1, mode="edge").astype(float) + 1e-3)
    r, c = rows + 1, columns + 1
    middle = padded[r, c]
    position = []
    for before, after in ((padded[r, c - 1], padded[r, c + 1]), (padded[r - 1, c], padded[r + 1, c])):
        curvature = before - 2 * middle + after
        slope = (after - before) / 2
        step = np.where(curvature < -1e-6, -slope / np.minimum(curvature, -1e-6), 0.0)
        position.append(np.clip(step, -0.75, 0.75))
    return np.column_stack([columns + position[0], rows + position[1]])


def _disc_sum(
    maps: FloatImage, rows: NDArray[np.int64], columns: NDArray[np.int64], radius: float
) -> NDArray[np.float32]:
    """Return ``(N, C)`` sums of each map over a disc around each peak."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = np.hypot(x, y) <= radius
    r = np.clip(rows[:, None] + y[inside], 0, maps.shape[1] - 1)
    c = np.clip(columns[:, None] + x[inside], 0, maps.shape[2] - 1)
    result: NDArray[np.float32] = maps[:, r, c].sum(-1).T
    return result


def _intensity(image: FloatImage, positions: FloatArray, sampling: tuple[float, float]) -> FloatArray:
    """Return the image's sum within 0.35 Å of each atom, less the frame's first percentile, in image units times Å²."""
    dy, dx = sampling
    ry, rx = int(np.ceil(0.35 / dy)), int(np.ceil(0.35 / dx))
    y, x = np.mgrid[-ry : ry + 1, -rx : rx + 1]
    inside = np.hypot(x * dx, y * dy) <= max(0.35, dx, dy)
    r = np.clip(np.rint(positions[:, 1] / dy).astype(int)[:, None] + y[inside], 0, image.shape[0] - 1)
    c = np.clip(np.rint(positions[:, 0] / dx).astype(int)[:, None] + x[inside], 0, image.shape[1] - 1)
    above: FloatArray = image[r, c].mean(1, dtype=float) - float(np.percentile(image, 1))
    return above * np.pi * 0.35**2
