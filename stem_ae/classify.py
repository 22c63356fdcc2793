"""Other ways to classify atoms that were found: by intensity, by their neighbours, by a few examples.

Each returns the same atoms with other classes: ``species``, ``labels`` and ``probabilities`` are new, the rest is kept.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.structure.lattice import REACH, bonds_2d, typical_distance

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Way = Literal["network", "intensity", "neighbours"]
"""How atoms are classified, where one word says it; :class:`Examples` are the other way."""

_MOST_GROUPS = 4
_APART = 2.5  # widths between the means of two groups that are two and not one
_RARE = 0.005  # share of the atoms below which a group is an outlier, but at least two atoms
_PROFILE_BINS = 8
_NEAREST = 3
_LOOKS = 1 + _PROFILE_BINS + 2 * _NEAREST
_GRAPH_NEIGHBOURS = 7  # over which an example's class spreads


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Atoms whose classes somebody has named, and what they looked like; good for later frames too."""

    names: tuple[str, ...] = ()
    """The class of each."""
    looks: FloatArray = dataclasses.field(default_factory=lambda: np.zeros((0, _LOOKS)))
    """What each looked like, ``(K, F)``; see :func:`looks`."""

    def counts(self) -> dict[str, int]:
        """Return how many examples there are of each class, the class that was named first in front."""
        return dict(Counter(self.names))

    def with_atoms(self, atoms: Atoms2D, image: ArrayLike, positions: ArrayLike, name: str) -> Examples:
        """Return these examples and the atoms nearest to some positions, ``(K, 2)`` in Å.

        Raises
        ------
        StemAeError
            If a position is on no atom, or there are too few atoms to tell what is special about one.
        """
        if len(atoms) <= _NEAREST:
            raise StemAeError(f"There are {len(atoms)} atoms, too few to learn from: {_NEAREST + 1} are needed.")
        chosen = _atoms_at(atoms, np.asarray(positions, dtype=float).reshape(-1, 2), name)
        seen = looks(atoms, np.asarray(image, dtype=float))[chosen]
        return Examples((*self.names, *[name] * len(chosen)), np.vstack([self.looks, seen]))


Classes = Way | Examples


def classified(atoms: Atoms2D, classes: Classes, image: ArrayLike) -> Atoms2D:
    """Return the atoms classified in one of the ways; ``network`` leaves them as they are.

    Where there are too few atoms for the way, or examples of fewer than two classes, they stay as they are too.
    """
    if classes == "network" or len(atoms) < 5:
        return atoms
    if isinstance(classes, Examples):
        return by_examples(atoms, image, classes) if len(classes.counts()) > 1 else atoms
    return by_intensity(atoms) if classes == "intensity" else by_neighbours(atoms)


def by_intensity(atoms: Atoms2D, groups: int | None = None, seed: int = 0) -> Atoms2D:
    """Classify by a Gaussian mixture of the atoms' intensities.

    Parameters
    ----------
    atoms : Atoms2D
    groups : int, optional
        How many; by default the largest number up to four whose groups are all apart.
    seed : int
        Of the mixture's start.

    Returns
    -------
    Atoms2D
        With the classes ``I1``, ``I2`` ... from dim to bright.

    Raises
    ------
    StemAeError
        If there are fewer atoms than groups could need.
    """
    from sklearn.mixture import GaussianMixture

    needed = 5 * (groups or 1)
    if len(atoms) < needed:
        raise StemAeError(f"There are {len(atoms)} atoms, too few to group by intensity: {needed} are needed.")
    values = (atoms.intensity / max(float(np.median(np.abs(atoms.intensity))), 1e-30))[:, None]
    for count in [groups] if groups else range(min(_MOST_GROUPS, len(atoms) // 5), 0, -1):
        mixture = GaussianMixture(count, n_init=3, random_state=seed, reg_covar=1e-5).fit(values)
        order = np.argsort(mixture.means_[:, 0])
        variances = mixture.covariances_[order, 0, 0]
        if groups or _are_apart(mixture.means_[order, 0], variances, mixture.weights_, len(atoms)):
            break
    probabilities = mixture.predict_proba(values)[:, order]
    return _with_classes(atoms, [f"I{k + 1}" for k in range(count)], probabilities)


def _are_apart(means: FloatArray, variances: FloatArray, weights: FloatArray, atoms: int) -> bool:
    width = np.sqrt(variances)
    gaps = np.diff(means) / np.maximum(np.maximum(width[1:], width[:-1]), 1e-12)
    return bool((gaps > _APART).all() and weights.min() * atoms >= max(2.0, _RARE * atoms))


def confirmed(atoms: Atoms2D) -> NDArray[np.bool_]:
    """Return for each atom whether its class is also what its intensity and its neighbours' speak for.

    A Gaussian mixture with one component for each class that has atoms enough, started from these, is fitted to an
    atom's own intensity and the mean of its three nearest neighbours'. Atoms of rarer classes are not confirmed.
    """
    from sklearn.mixture import GaussianMixture

    counts = np.bincount(atoms.labels, minlength=len(atoms.species))
    classes = np.flatnonzero(counts >= 5)
    if not len(classes) or len(atoms) <= _NEAREST:
        return np.zeros(len(atoms), bool)
    nearest = cKDTree(atoms.positions).query(atoms.positions, k=_NEAREST + 1)[1][:, 1:]
    seen = np.column_stack([atoms.intensity, atoms.intensity[nearest].mean(1)])
    seen /= max(float(np.median(np.abs(atoms.intensity))), 1e-30)
    start = np.array([np.median(seen[atoms.labels == k], axis=0) for k in classes])
    mixture = GaussianMixture(len(classes), means_init=start, weights_init=counts[classes] / counts[classes].sum(),
                              covariance_type="tied", reg_covar=1e-5, random_state=0)
    result: NDArray[np.bool_] = classes[mixture.fit_predict(seen)] == atoms.labels
    return result


def by_neighbours(atoms: Atoms2D) -> Atoms2D:
    """Classify by how many neighbours an atom has within 1.3 times the typical distance.

    Returns
    -------
    Atoms2D
        With the classes ``0 neighbours``, ``1 neighbour`` ... that occur, and ``border`` for atoms whose neighbours may
        lie outside the frame.

    Raises
    ------
    StemAeError
        If there are fewer than two atoms.
    """
    count, border = coordination(atoms)
    occurring = sorted({int(n) for n in count[~border]})
    names = [neighbours(n) for n in occurring] + ["border"] * bool(border.any())
    labels = np.where(border, len(occurring), np.searchsorted(occurring, count))
    return _with_classes(atoms, names, np.eye(len(names))[labels])


def neighbours(count: int) -> str:
    """Return the name of the class of atoms with so many neighbours."""
    return "1 neighbour" if count == 1 else f"{count} neighbours"


def coordination(atoms: Atoms2D) -> tuple[IntArray, NDArray[np.bool_]]:
    """Return the number of neighbours of each atom, and whether some may lie outside the frame."""
    reach = REACH * typical_distance(atoms.positions)
    count = np.bincount(bonds_2d(atoms.positions, reach).ravel(), minlength=len(atoms))
    limit = (np.array(atoms.shape[::-1]) - 1) * np.array(atoms.step[::-1])
    border = ((atoms.positions < reach) | (atoms.positions > limit - reach)).any(1)
    return count, border


def mean_bonds(atoms: Atoms2D) -> FloatArray:
    """Return each atom's mean distance to its neighbours in Å, NaN where it has none; see :func:`coordination`."""
    pairs = bonds_2d(atoms.positions, REACH * typical_distance(atoms.positions))
    lengths = np.linalg.norm(np.subtract(*atoms.positions[pairs.T]), axis=1)
    ends = pairs.ravel()
    count = np.bincount(ends, minlength=len(atoms))
    total = np.bincount(ends, np.repeat(lengths, 2), minlength=len(atoms))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def by_examples(atoms: Atoms2D, image: ArrayLike, examples: Examples | Mapping[str, ArrayLike]) -> Atoms2D:
    """Classify by a few examples, whose classes spread to atoms that look alike.

    The classes spread over the graph of similar atoms (Zhou et al., NIPS 2003).

    Parameters
    ----------
    atoms : Atoms2D
    image : (H, W) array
        Where they were found.
    examples : Examples or mapping of str to (K, 2) array
        Of this or other frames; or positions in Å by the name of their class, each standing for the atom nearest to it.

    Raises
    ------
    StemAeError
        If there are fewer than two classes, or a position is on no atom.
    """
    from sklearn.semi_supervised import LabelSpreading

    if not isinstance(examples, Examples):
        given = examples
        examples = Examples()
        for name, positions in given.items():
            examples = examples.with_atoms(atoms, image, positions, name)
    names = list(examples.counts())
    if len(names) < 2:
        raise StemAeError("Give examples of at least two classes: one of them may be “other”.")
    labels = np.array([names.index(name) for name in examples.names])
    here = looks(atoms, np.asarray(image, dtype=float))
    spread = np.subtract(*np.percentile(here, [95, 5], axis=0))
    scaled = np.vstack([examples.looks, here]) / np.maximum(spread, 1e-9 * np.abs(here).max())
    known = np.concatenate([labels, np.full(len(atoms), -1)])
    similar = min(_GRAPH_NEIGHBOURS, len(known) - 1)
    spreading = LabelSpreading(kernel="knn", n_neighbors=similar, alpha=0.2, max_iter=200).fit(scaled, known)
    probabilities = np.nan_to_num(spreading.label_distributions_[len(labels) :])
    unreached = probabilities.sum(1) < 1e-9
    nearest = cKDTree(scaled[: len(labels)]).query(scaled[len(labels) :])[1]
    probabilities[unreached] = np.eye(len(names))[labels[nearest[unreached]]]
    return _with_classes(atoms, names, probabilities / probabilities.sum(1, keepdims=True))


def _atoms_at(atoms: Atoms2D, positions: FloatArray, name: str) -> IntArray:
    limit = 0.6 * typical_distance(atoms.positions)
    distance, index = cKDTree(atoms.positions).query(positions)
    if (distance > limit).any():
        raise StemAeError(f"An example of “{name}” is on no atom: move it onto one.")
    return np.asarray(index, dtype=np.int64)


def looks(atoms: Atoms2D, image: FloatArray) -> FloatArray:
    """Return what each atom looks like, ``(N, F)``.

    That is its intensity, its radial profile in the image, and the distances and intensities of its three nearest
    neighbours; in units of the frame's median intensity, contrast and distance, so that frames can be compared.
    """
    typical = typical_distance(atoms.positions)
    radii = np.linspace(0, 1.4 * typical, _PROFILE_BINS)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    around = np.stack([np.outer(radii, np.cos(angles)), np.outer(radii, np.sin(angles))], -1)
    points = (atoms.positions[:, None, None] + around) / np.array(atoms.step[::-1])
    rings = ndimage.map_coordinates(image, [points[..., 1], points[..., 0]], order=1, mode="nearest").mean(-1)
    dark, bright = np.percentile(rings, [5, 95])
    intensity = atoms.intensity / max(float(np.median(np.abs(atoms.intensity))), 1e-30)
    distance, index = cKDTree(atoms.positions).query(atoms.positions, k=_NEAREST + 1)
    around_it = np.sort(intensity[index[:, 1:]], axis=1)
    profile = (rings - dark) / max(float(bright - dark), 1e-30)
    return np.column_stack([intensity, profile, distance[:, 1:] / typical, around_it])


def _with_classes(atoms: Atoms2D, names: Sequence[str], probabilities: FloatArray) -> Atoms2D:
    labels = probabilities.argmax(1) if len(atoms) else np.zeros(0, np.int64)
    return dataclasses.replace(atoms, species=tuple(names), labels=labels, probabilities=probabilities)
