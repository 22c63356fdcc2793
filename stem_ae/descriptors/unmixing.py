"""Unmixing: many spectra (of energy, of a window's Fourier modulus) as few components and their abundances."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from stem_ae.descriptors.patches import PrincipalComponents
from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
Method = Literal["nmf", "svd", "nfindr"]

TRAINING_ROWS = 4096  # NMF learns its components from at most so many rows
SUM_TO_ONE = 10.0  # weight of the abundances' sum against a typical spectrum in constrained least squares


@dataclasses.dataclass(frozen=True, eq=False)
class Unmixing:
    """Components found once, abundances of anything measured later.

    Parameters
    ----------
    method : "nmf", "svd" or "nfindr"
    components : (c, P) array
        Non-negative parts (NMF), singular vectors of the data about their mean (SVD), or the purest spectra
        (N-FINDR).
    offset : (P,) array
        Subtracted before projection; zero but for SVD.
    """

    method: Method
    components: FloatArray
    offset: FloatArray

    @classmethod
    def fit(cls, spectra: FloatArray, method: Method = "nmf", n: int = 4, seed: int = 0) -> Unmixing:
        """Find ``n`` components of spectra ``(k, P)``.

        Raises
        ------
        StemAeError
            If there are fewer spectra than components, or NMF meets negative ones.
        """
        spectra = np.asarray(spectra, dtype=float)
        if spectra.ndim != 2 or len(spectra) < n + 1 or n < 2:
            raise StemAeError(f"{n} components cannot be found in data of shape {spectra.shape}: give (k, P), k > n.")
        if method == "svd":
            principal = PrincipalComponents.fit([spectra], n)
            return cls(method, principal.components.T, principal.mean)
        if method == "nfindr":
            return cls(method, spectra[nfindr(spectra, n, seed)], np.zeros(spectra.shape[1]))
        if method != "nmf":
            raise StemAeError(f"There is no unmixing {method!r}: choose nmf, svd or nfindr.")
        return cls(method, _nmf(spectra, n, seed), np.zeros(spectra.shape[1]))

    def transform(self, spectra: FloatArray) -> FloatArray:
        """Return abundances ``(k, c)`` of spectra ``(k, P)``: each row depends on its own spectrum alone."""
        spectra = np.asarray(spectra, dtype=float) - self.offset
        if self.method == "svd":
            return spectra @ self.components.T
        design, targets = self.components.T, spectra
        if self.method == "nfindr":
            # fully constrained least squares (Heinz & Chang, IEEE Trans. Geosci. Remote Sens. 39, 529 (2001))
            weight = SUM_TO_ONE * np.sqrt((self.components**2).sum(axis=1).mean())
            design = np.vstack([design, np.full(len(self.components), weight)])
            targets = np.column_stack([targets, np.full(len(targets), weight)])
        # the normal equations' triangular factor makes each non-negative solution an n-by-n problem
        q, r = np.linalg.qr(design)
        return np.array([nnls(r, row)[0] for row in targets @ q])


def _nmf(spectra: FloatArray, n: int, seed: int) -> FloatArray:
    from sklearn.decomposition import NMF

    if spectra.min() < 0:
        raise StemAeError("NMF needs spectra without negative values: subtract no background, or use svd.")
    chosen = np.random.default_rng(seed).permutation(len(spectra))[:TRAINING_ROWS]
    model = NMF(n, init="nndsvda", max_iter=400, tol=1e-4, random_state=seed).fit(spectra[chosen])
    found: FloatArray = model.components_
    return found


def nfindr(spectra: FloatArray, n: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the rows of the ``n`` purest spectra: corners of the largest simplex inside the data.

    N-FINDR (Winter, Proc. SPIE 3753, 266 (1999)): in the ``n - 1`` strongest components, exchange corners one at a time
    for whichever row enlarges the volume, until none does.
    """
    reduced = PrincipalComponents.fit([spectra], n - 1).transform(spectra)
    lifted = np.column_stack([np.ones(len(reduced)), reduced])  # (k, n)
    corners = np.random.default_rng(seed).choice(len(spectra), n, replace=False)
    volume = -1.0
    for _ in range(100):
        for k in range(n):
            # the determinant is linear in the corner that is exchanged: all rows are tried by one product
            matrix = lifted[corners]
            cofactors = np.array([
                (-1) ** (k + j) * np.linalg.det(np.delete(np.delete(matrix, k, 0), j, 1)) for j in range(n)
            ])
            corners[k] = int(np.abs(lifted @ cofactors).argmax())
        now = abs(float(np.linalg.det(lifted[corners])))
        if now <= volume * (1 + 1e-12):
            break
        volume = now
    return corners


def clearest(abundances: FloatArray) -> int:
    """Return the column ``(k, c)`` that parts its rows most clearly in two: the automatic choice of a component.

    Clearness is Otsu's: the part of a column's variance that a split at the best threshold explains (IEEE Trans. Syst.
    Man Cybern. 9, 62 (1979)). It does not depend on a component's scale.
    """
    return int(np.argmax([_otsu(column) for column in np.asarray(abundances, dtype=float).T]))


def _otsu(column: FloatArray) -> float:
    column = np.sort(column)
    n, total = len(column), column.var()
    if not total > 0:
        return 0.0
    below = np.cumsum(column)[:-1]
    low = np.arange(1, n)
    between = low * (n - low) / n**2 * (below / low - (column.sum() - below) / (n - low)) ** 2
    return float(between.max() / total)
