"""The literature's workflows: from windows or atoms of an image to a few numbers each, by one transformation.

1. sliding window, Fourier modulus, unmixing: :class:`FourierUnmixing`;
2. sliding window (or its Fourier modulus), rotationally invariant autoencoder: :class:`InvariantLatent`;
3. windows around atoms, rotationally invariant autoencoder: :class:`InvariantLatent` with windows from
   :func:`around_atoms`.

Each is fitted once and then transforms anything, a patch of the survey image or one measured live, in exactly the same
way. The result serves the explorer as ``features``, or as the property that is looked for.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.descriptors.fourier import FourierModulus
from stem_ae.descriptors.rvae import RotationInvariantVAE
from stem_ae.descriptors.unmixing import Method, Unmixing, clearest
from stem_ae.descriptors.windows import Windows

FloatArray = NDArray[np.float64]

TRAINING_WINDOWS = 3000


@dataclasses.dataclass(frozen=True, eq=False)
class FourierUnmixing:
    """Workflow 1: Fourier modulus of windows, unmixed by NMF, SVD or N-FINDR."""

    modulus: FourierModulus
    unmixing: Unmixing
    scale: float

    @classmethod
    def fit(cls, windows: Windows, method: Method = "nmf", n: int = 4, seed: int = 0) -> FourierUnmixing:
        """Learn ``n`` components from the windows of an image."""
        modulus = FourierModulus(windows.size)
        spectra = modulus.transform(_sample(windows, seed))
        scale = float(spectra.mean()) or 1.0  # one number, so that a live window is treated as these are
        return cls(modulus, Unmixing.fit(spectra / scale, method, n, seed), scale)

    def transform(self, patches: ArrayLike) -> FloatArray:
        """Return abundances ``(k, n)`` of windows ``(k, size, size)``."""
        return self.unmixing.transform(self.modulus.transform(np.asarray(patches, dtype=float)) / self.scale)

    def maps(self, windows: Windows) -> FloatArray:
        """Return the abundances of an image's windows as a map ``(rows, columns, n)``."""
        return windows.as_map(np.concatenate([self.transform(block) for block in windows.blocks()]))


@dataclasses.dataclass(frozen=True, eq=False)
class InvariantLatent:
    """Workflows 2 and 3: latent variables of windows that do not depend on how their content is turned."""

    network: RotationInvariantVAE
    size: int
    fourier: bool

    @classmethod
    def fit(
        cls, windows: Windows, latent: int = 2, fourier: bool = False, epochs: int = 30, seed: int = 0
    ) -> InvariantLatent:
        """Learn from the windows of an image, or from their Fourier modulus."""
        patches = _frames(_sample(windows, seed), fourier)
        return cls(RotationInvariantVAE.fit(patches, latent, epochs=epochs, seed=seed), windows.size, fourier)

    def transform(self, patches: ArrayLike) -> FloatArray:
        """Return latent variables ``(k, latent)`` of windows ``(k, size, size)``."""
        return self.network.encode(_frames(np.asarray(patches, dtype=float), self.fourier)).content

    def maps(self, windows: Windows) -> FloatArray:
        """Return the latent variables of an image's windows as a map ``(rows, columns, latent)``."""
        return windows.as_map(np.concatenate([self.transform(block) for block in windows.blocks()]))


def around_atoms(image: ArrayLike, atoms: Atoms2D, size: int) -> Windows:
    """Return the windows around atoms, to the nearest pixel: the input of workflow 3."""
    pixels = np.round(atoms.positions_px[:, ::-1]).astype(np.int64)
    shape = np.asarray(image).shape
    inside = np.all((pixels >= 0) & (pixels < shape), axis=1)
    return Windows(np.asarray(image, dtype=float), pixels[inside], size)


def pick(latent: FloatArray, column: int | None = None) -> FloatArray:
    """Return one column of latent variables or abundances ``(..., c)``: the user's, or the clearest."""
    flat = latent.reshape(-1, latent.shape[-1])
    return latent[..., clearest(flat) if column is None else column]


def _sample(windows: Windows, seed: int) -> FloatArray:
    chosen = np.random.default_rng(seed).permutation(len(windows))[:TRAINING_WINDOWS]
    return dataclasses.replace(windows, centres=windows.centres[chosen]).all()


def _frames(patches: FloatArray, fourier: bool) -> FloatArray:
    """Return windows as the autoencoder sees them; of the Fourier transform the whole plane, to be turned."""
    return FourierModulus(patches.shape[1]).plane(patches) if fourier else patches
