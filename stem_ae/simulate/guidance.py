"""Where to look next: places ranked by what is not known, by what costs energy, by where theory contradicts the image.

Every atom gets a score, scores are summed over each atom's surroundings, and the highest sums that are apart are the
places. Uncertainty and disagreement are in nats (of entropy, of log-likelihood), so that position and class errors add
up without weights.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D

if TYPE_CHECKING:
    import ase

FloatArray = NDArray[np.float64]

By = Literal["disagreement", "energy", "uncertainty"]
UNITS: dict[By, str] = {"disagreement": "nats", "energy": "eV", "uncertainty": "nats"}

REACH = 3.0
"""Å about an atom that count as its place."""

_THEORY_ERROR = 0.02
"""Å, standard deviation of a relaxed atom's coordinate that is the engine's own fault: its bonds are within 2 %."""


@dataclasses.dataclass(frozen=True)
class Spot:
    """A place in the image, in its Å, and how much it scores there (the unit is in :data:`UNITS`)."""

    x: float
    y: float
    score: float


def uncertainty(atoms: Atoms2D) -> FloatArray:
    """Return how much less is known of each atom than of the median one, in nats, ``(N,)``.

    Entropy of the position, ``½ ln det covariance`` up to a constant, plus the entropy of the class.
    """
    p = np.clip(atoms.probabilities, 1e-12, 1.0)
    entropy = 0.5 * np.log(np.maximum(np.linalg.det(atoms.covariance), 1e-18)) - np.sum(p * np.log(p), axis=1)
    result: FloatArray = entropy - np.median(entropy) if len(entropy) else entropy
    return result


def disagreement(relaxed: ase.Atoms) -> FloatArray:
    """Return how unlikely the image's position of each atom is if theory is right, in nats, ``(N,)``.

    Half the squared Mahalanobis distance, less its mean of 1 where both agree. NaN for hydrogen and for the perimeter,
    which moves because it was cut.
    """
    from stem_ae.simulate.statistics import displacement

    moved = displacement(relaxed)
    xx, xy, yy = relaxed.arrays["covariance"].T + np.array([[1.0], [0.0], [1.0]]) * _THEORY_ERROR**2
    dx, dy = moved.T
    squared = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / (xx * yy - xy**2)
    result: FloatArray = np.where(relaxed.arrays["perimeter"].astype(bool), np.nan, squared / 2 - 1)
    return result


def excess_energy(relaxed: ase.Atoms) -> FloatArray:
    """Return how much more energy each atom has than the median one of its element, in eV, ``(N,)``.

    By the engine's own partition of the energy into atoms. NaN for hydrogen and the perimeter, and everywhere if the
    engine does not partition it.
    """
    result: FloatArray = np.full(len(relaxed), np.nan)
    if not relaxed.has("atom_energy"):
        return result
    inside = ~relaxed.arrays["perimeter"].astype(bool) & (relaxed.numbers > 1)
    for number in set(relaxed.numbers[inside].tolist()):
        same = inside & (relaxed.numbers == number)
        energy = relaxed.arrays["atom_energy"][same]
        result[same] = energy - np.median(energy)
    return result


def spots(xy: FloatArray, scores: FloatArray, count: int = 5) -> list[Spot]:
    """Return the places with the highest sums of scores, highest first.

    At most ``count``, and none that scores less than a tenth of the first.

    Parameters
    ----------
    xy : (N, 2) array
        Where the atoms are in the image, Å.
    scores : (N,) array
        Of each; NaN where it is unknown.
    """
    known = np.isfinite(scores)
    xy, scores = xy[known], scores[known]
    if not len(xy):
        return []
    near = cKDTree(xy).query_ball_point(xy, REACH)
    total = np.array([scores[members].sum() for members in near])
    found: list[Spot] = []
    for k in np.argsort(-total):
        x, y = xy[k]
        if total[k] <= max(0.1 * total.max(), 0.0) or len(found) == count:
            break
        if all(np.hypot(x - other.x, y - other.y) > 2 * REACH for other in found):
            found.append(Spot(float(x), float(y), float(total[k])))
    return found
