"""What the detector counts on a column now, and after each ejection: the levels that the step detector tells apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.dose import electrons_per_pixel
from stem_ae.imaging.probe import Probe
from stem_ae.manipulate.beam import Scan

_AS_MANY = 5  # columns that count as much as what the ladder says
_REACH = 10.0  # Å: how far the tails of the probe are followed


def signal_levels(
    atoms: Atoms2D,
    target: int,
    weights: Mapping[str, float],
    leaving: float,
    ejections: int,
    probe: Probe,
    current_pa: float,
    background: float = 0.0,
) -> tuple[float, ...]:
    """Return mean counts per second with the beam on a column: now, after one ejection, and so on.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    target : int
        The column.
    weights : mapping
        Cross section of each class of column for scattering into the detector, in Å²; see
        :func:`stem_ae.imaging.scattering.cross_section`.
    leaving : float
        Cross section in Å² of one atom that leaves.
    ejections : int
        How many levels below the present one are wanted.
    probe : Probe
        The beam.
    current_pa : float
        Beam current in pA.
    background : float
        Fraction of the beam that is detected everywhere.

    Raises
    ------
    StemAeError
        If a class has no weight, or nothing would be left to count.
    """
    missing = [name for name in atoms.species if name not in weights]
    if missing:
        raise StemAeError(f"The class {missing[0]!r} has no cross section: give one in Å² for every class.")
    away = atoms.positions - atoms.positions[target]
    near = np.linalg.norm(away, axis=1) < _REACH
    weight = np.array([weights[name] for name in atoms.species])[atoms.labels]
    # Two images of one pixel, the beam's place: of everything around it, and of the atom that leaves.
    now = expected_fraction(away[near], weight[near], (1, 1), 0.1, probe)[0, 0]
    step = expected_fraction(np.zeros((1, 2)), np.array([leaving]), (1, 1), 0.1, probe)[0, 0]
    rates = electrons_per_pixel(current_pa, 1e6) * (background + now - step * np.arange(ejections + 1))
    if not rates.min() > 0:
        raise StemAeError(f"There are not {ejections} such atoms in this column: ask for fewer ejections.")
    return tuple(float(rate) for rate in rates)


def move_levels(
    atoms: Atoms2D, target: int, dopant: int, weights: Mapping[str, float], probe: Probe, current_pa: float,
    background: float = 0.0,
) -> tuple[float, float]:  # fmt: skip
    """Return mean counts per second on a target now, and after a dopant beside it has changed places with it.

    Parameters
    ----------
    atoms, target, weights, probe, current_pa, background
        As for :func:`signal_levels`.
    dopant : int
        The other atom.
    """
    away = atoms.positions - atoms.positions[target]
    near = np.linalg.norm(away, axis=1) < _REACH
    weight = np.array([weights[name] for name in atoms.species])[atoms.labels]
    after = weight.copy()
    after[[target, dopant]] = weight[[dopant, target]]
    now, then = (expected_fraction(away[near], w[near], (1, 1), 0.1, probe)[0, 0] for w in (weight, after))
    electrons_per_s = electrons_per_pixel(current_pa, 1e6)
    return float(electrons_per_s * (background + now)), float(electrons_per_s * (background + then))


def weights_from_frame(atoms: Atoms2D, scan: Scan, ladder: Sequence[str]) -> tuple[dict[str, float], float]:
    """Return what :func:`signal_levels` needs, as this image shows it: each class's cross section, and the background.

    Classes of the ladder that the image hardly shows are taken to hold equal atoms.

    Parameters
    ----------
    atoms : Atoms2D
        What was found in the image.
    scan : Scan
        The image, in detected electrons.
    ladder : sequence of str
        Classes in the order in which one becomes the next as atoms leave; the last is empty.

    Returns
    -------
    weights : dict
        Å² for each class.
    background : float
        Fraction of the beam that is detected between the atoms.
    """
    weights = {
        name: float(np.median(atoms.intensity[atoms.labels == k])) / scan.electrons
        for k, name in enumerate(atoms.species)
        if np.any(atoms.labels == k)
    }
    weights |= by_ladder(weights, atoms.counts(), ladder)
    for name in atoms.species:
        weights.setdefault(name, 0.0)  # there is none: nothing depends on it
    area = scan.image.size * scan.sampling**2
    in_atoms = sum(weights[name] * count for name, count in atoms.counts().items()) / area
    return weights, max(float(scan.image.mean()) / scan.electrons - in_atoms, 0.0)


def by_ladder(seen: Mapping[str, float], counts: Mapping[str, int], ladder: Sequence[str]) -> dict[str, float]:
    """Return the cross sections of the classes of a ladder, all of whose atoms are alike.

    What few columns have shown, perhaps misread ones, is drawn to what the most frequent class says.

    Parameters
    ----------
    seen : mapping
        Å²: of the classes that an image shows.
    counts : mapping
        How many columns of each class it shows.
    ladder : sequence of str
        Classes in the order in which one becomes the next as atoms leave. Unless the last one is empty, something takes
        the atoms' places, and nothing is known of classes that were not seen.
    """
    known = [name for name in ladder if name in seen]
    if not known:
        raise StemAeError(f"The image shows none of {', '.join(filter(None, ladder))}: choose other targets.")
    if ladder[-1]:
        return {name: seen[name] for name in known}
    usual = max(known, key=lambda name: counts[name])
    one = seen[usual] / atoms_left(usual, ladder)
    return {
        name: (seen.get(name, 0.0) * counts[name] + one * atoms_left(name, ladder) * _AS_MANY)
        / (counts[name] + _AS_MANY)
        for name in ladder[:-1]
        if name in counts
    }


def atoms_left(species: str, ladder: Sequence[str]) -> int:
    """Return how many ejections a class is away from the end of the ladder."""
    return len(ladder) - 1 - list(ladder).index(species)
