"""The sampling of an image from its own lattice."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from stem_ae import checks
from stem_ae.elit.preprocess import as_image, repair
from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]

HEXAGONAL_LATTICE = {"graphene": 2.46, "mos2": 3.16}  # Å
_SAMPLING_RANGE = (0.02, 0.4)  # Å per pixel: outside it, atoms are not resolved or fewer than a few are in view
_ANGLES = np.deg2rad(np.arange(0, 60, 0.5))


def estimate_sampling(image: ArrayLike, material: str | float) -> tuple[float, float]:
    """Measure an image's sampling from the hexagonal lattice that it shows.

    The power spectrum is searched for the six first-order spots of the lattice together with the six second-order ones,
    which are sqrt(3) further out and turned by 30 degrees; looking for both tells the orders apart.

    Parameters
    ----------
    image : (H, W) array
        Any real numbers.
    material : str or float
        ``"graphene"``, ``"mos2"``, or the lattice constant of a hexagonal lattice in Å.

    Returns
    -------
    sampling : float
        Å per pixel.
    confidence : float
        0 to 1; below 0.5 the lattice is not clearly seen.

    Raises
    ------
    StemAeError
        If the image cannot be used or the material's lattice is not known.
    """
    constant = HEXAGONAL_LATTICE.get(material) if isinstance(material, str) else float(material)
    if not constant:
        raise StemAeError(f"The lattice of {material!r} is not known: give its sampling in Å per pixel.")
    constant = checks.number(constant, "The lattice constant", 1, 100, "Å")
    power = _log_power(repair(as_image(image)))
    spacing = constant * np.sqrt(3) / 2  # of the first-order planes
    frequencies = np.geomspace(_SAMPLING_RANGE[0] / spacing, min(_SAMPLING_RANGE[1] / spacing, 0.28), 400)
    first = _sixfold(power, frequencies, 0.0)
    second = _sixfold(power, frequencies * np.sqrt(3), np.pi / 6)
    inside = _sixfold(power, frequencies / np.sqrt(3), np.pi / 6)
    # Spots further in belong to a larger lattice, whose second order this would be.
    score = np.clip(first, 0, 6) + np.clip(second, 0, 6) - 0.7 * np.clip(inside, 0, 6)
    row, column = np.unravel_index(int(score.argmax()), score.shape)
    frequency = _refined(power, float(frequencies[row]), float(_ANGLES[column]))
    best = float(score[row, column])
    typical = float(np.median(score.max(1)))
    confidence = float(np.clip((best - typical - 0.5) / 2.5, 0, 1))
    return float(frequency * spacing), confidence


def _log_power(image: NDArray[np.float32]) -> FloatArray:
    """Return the logarithm of the power spectrum, centred, of a square that holds the image, less its radial median."""
    flat = image - ndimage.gaussian_filter(image, 0.06 * min(image.shape), mode="nearest")
    flat /= np.sqrt(ndimage.gaussian_filter(flat * flat, 0.1 * min(image.shape), mode="nearest")) + 0.3 * flat.std()
    side = int(fft.next_fast_len(max(512, max(image.shape))))
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    power = np.abs(fft.fftshift(fft.fft2(flat * window, (side, side)))) ** 2
    log_power: FloatArray = np.log(ndimage.gaussian_filter(power, 0.7) + 1e-12)
    y, x = np.indices(log_power.shape) - side // 2
    ring = np.hypot(x, y).astype(int)
    order = np.argsort(ring, axis=None)
    edges = np.searchsorted(ring.ravel()[order], np.arange(ring.max() + 2))
    values = log_power.ravel()[order]
    medians = np.array([np.median(values[a:b]) if b > a else 0 for a, b in itertools.pairwise(edges)])
    above: FloatArray = log_power - medians[ring]
    return above


def _sixfold(power: FloatArray, frequencies: FloatArray, turn: float) -> FloatArray:
    """Return ``(F, A)``: the weaker two of a hexagon's three spot pairs, so that one strong line does not count."""
    centre, side = len(power) // 2, len(power)
    values = []
    for k in range(3):
        angle = _ANGLES[None, :] + turn + k * np.pi / 3
        radius = frequencies[:, None] * side
        where = [centre + radius * np.sin(angle), centre + radius * np.cos(angle)]
        values.append(ndimage.map_coordinates(power, where, order=1, mode="nearest"))
    ordered = np.sort(values, axis=0)
    result: FloatArray = 0.5 * ordered[0] + 0.5 * ordered[1]
    return result


def _refined(power: FloatArray, frequency: float, angle: float) -> float:
    """Return the mean radius of the spots that lie near a hexagon, in cycles per pixel, weighted by their strength."""
    centre, side = len(power) // 2, len(power)
    reach = max(2, round(0.05 * frequency * side))
    total, weight = 0.0, 0.0
    for order, turn in ((1.0, 0.0), (np.sqrt(3), np.pi / 6)):
        for k in range(3):
            theta = angle + turn + k * np.pi / 3
            y0 = round(centre + order * frequency * side * np.sin(theta))
            x0 = round(centre + order * frequency * side * np.cos(theta))
            box = power[y0 - reach : y0 + reach + 1, x0 - reach : x0 + reach + 1]
            if box.shape != (2 * reach + 1, 2 * reach + 1) or box.max() < 1:
                continue
            y, x = np.unravel_index(int(box.argmax()), box.shape)
            near = np.exp(power[y0 - reach + y - 1 : y0 - reach + y + 2, x0 - reach + x - 1 : x0 - reach + x + 2])
            if near.shape != (3, 3):
                continue
            dy, dx = (near.sum(1) @ [-1, 0, 1]) / near.sum(), (near.sum(0) @ [-1, 0, 1]) / near.sum()
            radius = np.hypot(y0 - reach + y + dy - centre, x0 - reach + x + dx - centre) / side / order
            total += float(box.max()) * radius * order
            weight += float(box.max()) * order
    return float(total / weight) if weight else frequency
