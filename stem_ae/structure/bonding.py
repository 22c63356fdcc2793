"""Which atoms of a structure are bonded."""

from __future__ import annotations

import ase
import numpy as np
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray

from stem_ae.structure.possible import refuse_nowhere

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_STRETCHED = 1.2
"""Bonds are at most this multiple of the sum of covalent radii."""

_NON_METALS = np.array([1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 32, 33, 34, 35, 51, 52, 53])


def bonded(atoms: ase.Atoms) -> tuple[IntArray, IntArray, FloatArray]:
    """Return every bond from both its ends: atom, bonded atom, vector between them in Å; sorted by the first.

    Periodic images count. Two metals are never bonded: in MoS2 they are as near as their radii allow, but no bond.

    Raises
    ------
    StemAeError
        If an atom or the cell is nowhere.
    """
    refuse_nowhere(atoms)
    first, second, vectors = neighbor_list("ijD", atoms, natural_cutoffs(atoms, mult=_STRETCHED))
    covalent = np.isin(atoms.numbers[first], _NON_METALS) | np.isin(atoms.numbers[second], _NON_METALS)
    return first[covalent], second[covalent], vectors[covalent]
