"""Descriptors of image patches that need no training: principal components, and what a patch is like however turned."""

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


@dataclasses.dataclass(frozen=True)
class CircularHarmonics:
    """What surrounds a patch's centre, however it is turned: moduli of circular harmonics on rings.

    On each ring, Gaussian in radius, the mean and the modulus of the ``m``-fold Fourier coefficients along the angle
    (Hsu & Arsenault, Appl. Opt. 21, 4016 (1982)). Where :class:`LocalShape` knows the centre and its slopes, these know
    the whole patch: two particles with a gap between them are the same thing in whichever direction the gap runs.

    Parameters
    ----------
    size : int
        Edge of the patches in pixels.
    rings, orders : int
        Number of rings, and of harmonics from 0 on.
    """

    size: int
    rings: int = 4
    orders: int = 5

    @property
    def filters(self) -> NDArray[np.complex128]:
        """Columns ``(size * size, rings * orders)``; those of order 1 and more are blind to a uniform patch."""
        offset = np.arange(self.size) - self.size // 2
        y, x = offset[:, None], offset[None, :]
        radius, angle = np.hypot(y, x), np.arctan2(y, x)
        width = self.size / 2 / self.rings
        columns = []
        for middle in width * (np.arange(self.rings) + 0.5):
            ring = np.exp(-2 * ((radius - middle) / width) ** 2) * (radius < self.size / 2)
            ring /= ring.sum()
            for order in range(self.orders):
                harmonic = ring * np.exp(1j * order * angle)
                columns.append((harmonic - ring * (harmonic.sum() if order else 0.0)).ravel())
        return np.stack(columns, axis=1)

    def transform(self, patches: FloatArray) -> FloatArray:
        """Return the invariants ``(k, rings * orders)`` of patches ``(k, size, size)``, in the patches' units."""
        flat, filters = patches.reshape(len(patches), -1), self.filters
        real, imaginary = flat @ filters.real, flat @ filters.imag
        mean = np.arange(filters.shape[1]) % self.orders == 0  # has a sign
        invariants: FloatArray = np.where(mean, real, np.hypot(real, imaginary))
        return invariants
