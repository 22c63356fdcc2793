"""Hydrocarbon on the specimen: smooth patches with an amorphous grain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stem_ae.atoms import as_sampling
from stem_ae.imaging.scattering import Detector, cross_section

FloatArray = NDArray[np.float64]

_CARBON_PER_AREA = 1.0  # atoms per Å² of a layer about 1 nm thick (density about 2 g/cm³)


def hydrocarbon(
    shape: tuple[int, int],
    sampling: float | tuple[float, float],
    coverage: float,
    rng: np.random.Generator,
    thickness: float = 1.0,
    grain: float = 0.25,
    detector: Detector = "HAADF",
) -> FloatArray:
    """Return the fraction of the beam that contamination scatters into the detector, ``(H, W)``.

    Parameters
    ----------
    shape : (int, int)
        Image shape in pixels.
    sampling : float or (float, float)
        Å per pixel.
    coverage : float
        Fraction of the area that is covered, 0 to 1.
    rng : numpy.random.Generator
        Source of the pattern.
    thickness : float
        In nm, where it is thickest.
    grain : float
        Relative fluctuation of the amorphous structure, on the scale of 1 Å.
    detector : {"HAADF", "MAADF"}
        Where the electrons go.
    """
    if coverage <= 0:
        return np.zeros(shape)
    dy, dx = as_sampling(sampling)
    patches = _random_field(shape, (8 / dy, 8 / dx), rng)
    edge = np.quantile(patches, 1 - min(coverage, 1.0))
    height = np.clip((patches - edge) / 1.5, 0, 1)
    amorphous = np.clip(1 + grain * _random_field(shape, (0.6 / dy, 0.6 / dx), rng), 0, None)
    carbon = float(cross_section(6, detector))
    return thickness * _CARBON_PER_AREA * carbon * height * amorphous


def _random_field(shape: tuple[int, int], sigma: tuple[float, float], rng: np.random.Generator) -> FloatArray:
    field: FloatArray = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return field / max(float(field.std()), 1e-12)
