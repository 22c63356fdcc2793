"""Foreign atoms: those whose brightness fits none of the classes that they may be.

The networks tell classes by where an atom stands as much as by how bright it is: a column of S and Se, twice as bright
as S2, is called S2 with certainty, because it stands where S2 stands. So brightness is compared once more here: each
atom with the others of its class, and with its surroundings, since gain, focus and hydrocarbon differ across a frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]

_BLOCK = 4  # working pixels: the level around an atom is looked for on a coarser grid
_VALLEY = 5  # blocks: between the atoms of any lattice there is a valley that near
_SURROUNDINGS = 14  # atoms: few enough to be near, enough that one odd one among them does not matter
_FLOOR = 0.08  # of the brightness: nothing is known better
_POSSIBLE = 0.02  # probability from which on an atom may be of a class
_OWN = 12  # atoms: a class of fewer is rather as bright as it usually is
_RIM = 1.0  # Å from the border: what is left of an atom there says little
_DIMMEST = 0.05  # of the median
_NOTHING = float(np.log(0.25))  # of its class: an atom as dim as this is no other element, it is not there at all
_LEAST = 4.0  # standard deviations: less makes no atom foreign, however tidy the known frames are
_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


def surroundings(positions: FloatArray) -> NDArray[np.int64]:
    """Return the numbers of each atom's nearest, the nearest first, ``(N, K)``."""
    count = min(_SURROUNDINGS + 1, len(positions))
    if not count:
        return np.zeros((0, 0), np.int64)
    near = cKDTree(positions).query(positions, k=count)[1].reshape(len(positions), count)
    return np.asarray(near[:, 1:], np.int64)


def heights(blurred: Image, working: float, positions: FloatArray) -> FloatArray:
    """Return how high each atom stands above the lowest level around it, ``(N,)``.

    Parameters
    ----------
    blurred : (h, w) array
        The frame on the working grid, noise averaged over the size of an atom.
    working : float
        Å per pixel.
    positions : (N, 2) array
        x, y in Å.
    """
    h, w = (n - n % _BLOCK for n in blurred.shape)
    lowest = blurred[:h, :w].reshape(h // _BLOCK, _BLOCK, w // _BLOCK, _BLOCK).min((1, 3))
    level = ndimage.gaussian_filter(ndimage.minimum_filter(lowest, _VALLEY, mode="nearest"), 1.5, truncate=2)
    pixel = positions.T[::-1] / working
    block = (pixel - (_BLOCK - 1) / 2) / _BLOCK
    peak, valley = (
        ndimage.map_coordinates(image, at, order=1, mode="nearest") for image, at in ((blurred, pixel), (level, block))
    )
    return np.asarray(peak - valley, dtype=float)


def logarithm(height: FloatArray) -> FloatArray:
    """Return the logarithm of the heights in units of their median; what is not above its surroundings is very dim."""
    if not len(height):
        return height
    median = max(float(np.median(height)), 1e-9)
    return np.asarray(np.log(np.maximum(height / median, _DIMMEST)), dtype=float)


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """The atoms of a frame as the networks see them.

    Attributes
    ----------
    atoms : Atoms2D
    height : (N,) array
        From :func:`heights`.
    near : (N, K) array
        From :func:`surroundings`.
    """

    atoms: Atoms2D
    height: FloatArray
    near: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Brightness:
    """How bright the classes of known frames are.

    Attributes
    ----------
    usual : (C,) array
        Logarithm of each class's height in units of the first's; NaN where too few were seen.
    unit : float
        The deviation of the most deviating atom that few known frames exceed.
    """

    usual: FloatArray
    unit: float

    @classmethod
    def learn(cls, frames: Sequence[Seen], share: float) -> Brightness:
        """Learn from known frames, of which ``share`` are to lie within the unit."""
        medians = np.array([_medians(seen) for seen in frames])
        ratios = (medians - medians[:, :1]).T
        seen_ratios = (ratio[np.isfinite(ratio)] for ratio in ratios)
        usual = np.array([np.median(ratio) if len(ratio) else np.nan for ratio in seen_ratios])
        largest = [np.abs(deviations(seen, usual)).max(initial=0.0) for seen in frames]
        return cls(usual, max(float(np.quantile(largest, share)), _LEAST))

    def novelty(self, seen: Seen) -> FloatArray:
        """Return for each atom how foreign it is, ``(N,)``: up to 1 is known."""
        return np.abs(deviations(seen, self.usual)) / self.unit


def deviations(seen: Seen, usual: FloatArray) -> FloatArray:
    """Return by how many standard deviations each atom is too bright for the nearest class that it may be, ``(N,)``."""
    atoms, count = seen.atoms, len(seen.atoms)
    if count <= _SURROUNDINGS:
        return np.zeros(count)
    brightness, labels = logarithm(seen.height), atoms.labels
    centre = _centres(brightness, labels, usual)
    off = brightness - centre[labels]
    around = off[seen.near]
    gain = np.median(around, axis=1)
    local = _MAD * np.median(np.abs(around - gain[:, None]), axis=1)
    restless = np.maximum(local**2 - np.median(local) ** 2, 0)  # hydrocarbon, jitter: everything there is uncertain
    common = int(np.bincount(labels).argmax())
    spread = _MAD * float(np.median(np.abs(off - gain)[labels == common]))
    # As counting scales it: a rare class's own spread would be that of the foreign atoms in it.
    counting = spread**2 * np.exp(centre[common] - centre)
    variance = counting + _FLOOR**2 + restless[:, None]
    away = (brightness[:, None] - gain[:, None] - centre) / np.sqrt(variance)
    away[atoms.probabilities < _POSSIBLE] = np.inf
    nearest = away[np.arange(count), np.abs(away).argmin(1)]
    corner = (np.array(atoms.shape[::-1]) - 1) * np.array(atoms.step[::-1])
    inside = ((atoms.positions > _RIM) & (atoms.positions < corner - _RIM)).all(1)
    there = off - gain > _NOTHING
    return np.where(inside & there, nearest, 0.0)


def levelled(seen: Seen) -> tuple[FloatArray, FloatArray]:
    """Return the logarithm of the heights less that of the surroundings, and the latter, ``(N,)`` each."""
    brightness, labels = logarithm(seen.height), seen.atoms.labels
    off = brightness - _centres(brightness, labels, np.full(len(seen.atoms.species), np.nan))[labels]
    gain = np.median(off[seen.near], axis=1)
    return brightness - gain, gain


def _medians(seen: Seen) -> FloatArray:
    """Return each class's median logarithm, NaN for fewer than three atoms."""
    brightness = logarithm(seen.height)
    classes = (brightness[seen.atoms.labels == label] for label in range(len(seen.atoms.species)))
    return np.array([np.median(own) if len(own) > 2 else np.nan for own in classes])


def _centres(brightness: FloatArray, labels: NDArray[np.int64], usual: FloatArray) -> FloatArray:
    """Return how bright each class is here: its own median, and for few atoms rather what is usual."""
    common = int(np.bincount(labels, minlength=len(usual)).argmax())
    centre = usual - usual[common] + np.median(brightness[labels == common])
    for label in range(len(usual)):
        own = brightness[labels == label]
        if len(own):
            trust = len(own) / (len(own) + _OWN) if np.isfinite(centre[label]) else 1.0
            centre[label] = trust * np.median(own) + (1 - trust) * np.nan_to_num(centre[label])
    return np.asarray(np.nan_to_num(centre), dtype=float)
