"""Descriptors of image patches that need no training: principal components and rotation-invariant local shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Projection of patches on the leading eigenvectors of their covariance.

    Unlike a randomised SVD it reads the patches once, in blocks, so that 65 536 patches cost a fraction of a second.

    Parameters
    ----------
    mean : (P,) array
        Mean patch, flattened.
    components : (P, n) array
        Orthonormal columns, strongest first.
    scale : (n,) array
        Standard deviation of the training patches along each component.
    """

    mean: FloatArray
    components: FloatArray
    scale: FloatArray

    @classmethod
    def fit(cls, blocks: Iterable[FloatArray], n: int) -> Self:
        """Find the ``n`` strongest components of patches given in blocks ``(k, ...)``."""
        total, first, second = 0, np.zeros(0), np.zeros(0)
        for block in blocks:
            flat = block.reshape(len(block), -1)
            total += len(flat)
            first = first + flat.sum(axis=0) if first.size else flat.sum(axis=0)
            second = second + flat.T @ flat if second.size else flat.T @ flat
        if total < 2:
            raise StemAeError("Principal components need at least two patches.")
        mean = first / total
        eigenvalues, vectors = np.linalg.eigh(second / total - np.outer(mean, mean))
        strongest = np.argsort(eigenvalues)[::-1][: min(n, mean.size)]
        return cls(mean, vectors[:, strongest], np.sqrt(np.clip(eigenvalues[strongest], 0, None)))

    def transform(self, patches: FloatArray) -> FloatArray:
        """Return the coordinates ``(k, n)`` of patches ``(k, ...)``, in the patches' units."""
        projected: FloatArray = (patches.reshape(len(patches), -1) - self.mean) @ self.components
        return projected


@dataclasses.dataclass(frozen=True)
class LocalShape:
    """Rotation-invariant local shape at a patch's centre, over several scales.

    For each scale: the smoothed value, the gradient's modulus, the Laplacian and the anisotropy of the Hessian, all
    as Gaussian derivatives normalised by the scale (the 2-jet; Lindeberg, Int. J. Comput. Vis. 30, 79 (1998)). Most
    of what a spectrum knows of its place, such as distance to an edge, curvature and gap, does not depend on which way
    the edge runs; told so, a surrogate needs several times fewer measurements.

    Parameters
    ----------
    size : int
        Edge of the patches in pixels.
    scales : tuple of float
        Standard deviations of the Gaussians in pixels; from a sixteenth to a quarter of the patch by default.
    """

    size: int
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.scales:
            object.__setattr__(self, "scales", tuple(max(self.size / part, 0.7) for part in (16, 8, 4)))

    @property
    def filters(self) -> FloatArray:
        """Gaussian derivatives as columns ``(size * size, 6 * scales)``: f, fy, fx, fyy, fxx, fxy of each scale."""
        offset = np.arange(self.size) - self.size // 2
        columns = []
        for scale in self.scales:
            u = offset / scale
            g = np.exp(-(u**2) / 2)
            g /= g.sum()
            d, dd = -u * g, (u**2 - 1) * g
            columns += [np.outer(a, b).ravel() for a, b in ((g, g), (d, g), (g, d), (dd, g), (g, dd), (d, d))]
        return np.stack(columns, axis=1)

    def transform(self, patches: FloatArray) -> FloatArray:
        """Return the invariants ``(k, 4 * scales)`` of patches ``(k, size, size)``, in the patches' units."""
        jets = (patches.reshape(len(patches), -1) @ self.filters).reshape(len(patches), len(self.scales), 6)
        f, fy, fx, fyy, fxx, fxy = np.moveaxis(jets, -1, 0)
        invariants = [f, np.hypot(fy, fx), fyy + fxx, np.hypot(fyy - fxx, 2 * fxy)]
        return np.stack(invariants, axis=-1).reshape(len(patches), -1)
