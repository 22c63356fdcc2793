"""A model of the energy's second derivatives, so that the first relaxation step already knows stiff from soft.

Stretches and bends with the force constants of Lindh, Bernhardsson, Karlström and Malmqvist, Chem. Phys. Lett. 241, 423
(1995), restricted to bonded atoms, which keeps the matrix sparse. Instead of their torsions, every three-fold atom is
held in the plane of its neighbours, with the stiffness of graphite's out-of-plane optical phonon.
"""

from __future__ import annotations

import ase
import numpy as np
import scipy.sparse
from ase.units import Bohr, Hartree
from numpy.typing import NDArray

from stem_ae.structure.bonding import bonded

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Rows = tuple[FloatArray, IntArray, FloatArray]
"""Force constants ``(m,)``, each internal coordinate's atoms ``(m, k)``, and its derivatives by them ``(m, k, 3)``."""

# Rows of the periodic table H | Li to Ne | Na and heavier: reference distances in bohr, decays in bohr^-2 (table 1).
_REFERENCE = np.array([[1.35, 2.10, 2.53], [2.10, 2.87, 3.40], [2.53, 3.40, 3.40]])
_DECAY = np.array([[1.0000, 0.3949, 0.3949], [0.3949, 0.2800, 0.2800], [0.3949, 0.2800, 0.2800]])
# Lindh's constants times 0.8: sp2 bonds come out too stiff otherwise (66 instead of 44 eV/Å² for graphene).
_STRETCH = 0.8 * 0.45 * Hartree / Bohr**2
_BEND = 0.8 * 0.15 * Hartree
_PLANE = 8.8
"""eV/Å² against the mean of the three neighbours: k = m ω² / 4, ω = 893 cm^-1 (ZO phonon, both sublattices move)."""
_FLOOR = 2.0
"""eV/Å² given to every coordinate: free translations would make the matrix singular, and softer starts overshoot along
the long waves of a sheet (measured on a 91-atom flake with 0.02 Å of ripple: 25 steps to 1e-3 eV/Å instead of 60)."""


def model_hessian(atoms: ase.Atoms) -> scipy.sparse.csc_matrix:
    """Return the model Hessian in eV/Å², ``(3N, 3N)``, symmetric and positive definite."""
    centre, neighbour, vectors = bonded(atoms)
    strength = _strength(atoms.numbers[centre], atoms.numbers[neighbour], np.linalg.norm(vectors, axis=1))
    size = 3 * len(atoms)
    total = _FLOOR * scipy.sparse.identity(size, format="csc")
    for constants, members, derivatives in (
        _stretches(centre, neighbour, vectors, strength),
        _bends(centre, neighbour, vectors, strength),
        _planes(centre, neighbour, vectors),
    ):
        columns = (3 * members[:, :, None] + np.arange(3)).reshape(len(constants), 3 * members.shape[1])
        rows = np.broadcast_to(np.arange(len(constants))[:, None], columns.shape)
        wilson = scipy.sparse.csr_matrix(
            (derivatives.ravel(), (rows.ravel(), columns.ravel())), shape=(len(constants), size)
        )
        total = total + wilson.T @ scipy.sparse.diags(constants) @ wilson
    return scipy.sparse.csc_matrix(total)


def _strength(first: IntArray, second: IntArray, distance: FloatArray) -> FloatArray:
    """Lindh's rho for pairs of elements: one at the reference distance, more for shorter bonds."""
    row, column = np.digitize(first, [3, 11]), np.digitize(second, [3, 11])
    return np.exp(_DECAY[row, column] * (_REFERENCE[row, column] ** 2 - (distance / Bohr) ** 2))


def _stretches(centre: IntArray, neighbour: IntArray, vectors: FloatArray, strength: FloatArray) -> Rows:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    # Each bond is there from both its ends, hence the half.
    return 0.5 * _STRETCH * strength, np.stack([centre, neighbour], axis=1), np.stack([-unit, unit], axis=1)


def _bends(centre: IntArray, neighbour: IntArray, vectors: FloatArray, strength: FloatArray) -> Rows:
    a, b = _pairs_of_bonds(centre)
    la, lb = (np.linalg.norm(vectors[k], axis=1, keepdims=True) for k in (a, b))
    u, v = vectors[a] / la, vectors[b] / lb
    cosine = np.clip(np.sum(u * v, axis=1, keepdims=True), -0.999, 0.999)
    sine = np.sqrt(1 - cosine**2)
    at_a, at_b = (cosine * u - v) / (la * sine), (cosine * v - u) / (lb * sine)
    members = np.stack([neighbour[a], centre[a], neighbour[b]], axis=1)
    return _BEND * strength[a] * strength[b], members, np.stack([at_a, -at_a - at_b, at_b], axis=1)


def _planes(centre: IntArray, neighbour: IntArray, vectors: FloatArray) -> Rows:
    atoms, first, number = np.unique(centre, return_index=True, return_counts=True)
    atoms, first = atoms[number == 3], first[number == 3]
    a, b, c = (vectors[first + k] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    members = np.stack([atoms, *(neighbour[first + k] for k in range(3))], axis=1)
    return np.full(len(atoms), _PLANE), members, np.stack([normal, *3 * [-normal / 3]], axis=1)


def _pairs_of_bonds(centre: IntArray) -> tuple[IntArray, IntArray]:
    """Return the indices of every two bonds that start at the same atom; ``centre`` is sorted."""
    later = [np.flatnonzero(centre[k:] == centre[:-k]) for k in range(1, _most(centre))]
    a = np.concatenate([np.zeros(0, np.int64), *later])
    b = np.concatenate([np.zeros(0, np.int64), *(index + k for k, index in enumerate(later, start=1))])
    return a, b


def _most(centre: IntArray) -> int:
    return int(np.bincount(centre).max()) if len(centre) else 1
