"""Which coordinates of a structure may move, said once for every engine and input file."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled
from numpy.typing import NDArray

from stem_ae.errors import StemAeError

BoolArray = NDArray[np.bool_]

FIXABLE = ("perimeter", "H", "xy")
"""What ``fixed`` may name: the edge of the cut, all hydrogen, all x and y (only z is free); joined by ``+``."""


def fix(atoms: ase.Atoms, fixed: str | None) -> ase.Atoms:
    """Return a copy whose constraints hold what ``fixed`` names, as well as what was held already.

    Raises
    ------
    StemAeError
        If a name is unknown, or the structure has no marked perimeter.
    """
    free = free_coordinates(atoms)
    for name in filter(None, (fixed or "").split("+")):
        if name == "perimeter":
            if not atoms.has("perimeter") or not atoms.arrays["perimeter"].any():
                raise StemAeError("The structure has no perimeter to hold: build it as a patch, or hold others.")
            free[atoms.arrays["perimeter"].astype(bool)] = False
        elif name == "H":
            free[atoms.numbers == 1] = False
        elif name == "xy":
            free[:, :2] = False
        else:
            raise StemAeError(f"Nothing is called {name!r} to be held fixed: choose from {', '.join(FIXABLE)}.")
    result: ase.Atoms = atoms.copy()
    result.set_constraint(as_constraints(free))
    return result


def as_constraints(free: BoolArray) -> list[Any]:
    """Return ASE's constraints for a table of free coordinates, ``(N, 3)``."""
    held: list[Any] = []
    whole = ~free.any(axis=1)
    if whole.any():
        held.append(FixAtoms(indices=np.flatnonzero(whole)))
    partly = free.any(axis=1) & ~free.all(axis=1)
    for pattern in np.unique(free[partly], axis=0):
        same = partly & (free == pattern).all(axis=1)
        held.append(FixCartesian(np.flatnonzero(same), mask=~pattern))
    return held


def free_coordinates(atoms: ase.Atoms) -> BoolArray:
    """Return which coordinates may move, ``(N, 3)`` along x, y, z.

    Raises
    ------
    StemAeError
        For constraints that are not along the axes, which input files cannot express.
    """
    free = np.ones((len(atoms), 3), bool)
    for constraint in atoms.constraints:
        index = np.atleast_1d(constraint.get_indices())
        if isinstance(constraint, FixAtoms):
            free[index] = False
        elif isinstance(constraint, FixCartesian) or (isinstance(constraint, FixScaled) and _along_axes(atoms)):
            free[index] &= ~np.asarray(constraint.mask, bool)
        elif isinstance(constraint, FixedLine) and _axis(constraint.dir) is not None:
            free[index] &= np.arange(3) == _axis(constraint.dir)
        elif isinstance(constraint, FixedPlane) and _axis(constraint.dir) is not None:
            free[index] &= np.arange(3) != _axis(constraint.dir)
        else:
            raise StemAeError(
                f"The constraint {type(constraint).__name__} of this structure is not along the axes: hold whole atoms "
                "or single coordinates instead."
            )
    return free


def _along_axes(atoms: ase.Atoms) -> bool:
    cell = atoms.cell.array
    return bool(np.allclose(cell, np.diag(np.diag(cell))))


def _axis(direction: Any) -> int | None:
    axis = int(np.argmax(np.abs(direction)))
    return axis if np.isclose(abs(direction[axis]), np.linalg.norm(direction)) else None
