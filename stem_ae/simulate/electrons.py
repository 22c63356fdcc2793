"""Charge and spin of a structure, told as ASE does it: by the initial charges and magnetic moments of its atoms."""

from __future__ import annotations

import ase
import numpy as np

from stem_ae.errors import StemAeError

_WHOLE = 0.05
"""What the sum over the atoms may differ by from a whole number; partial charges are rounded in files."""


def charge(atoms: ase.Atoms) -> int:
    """Return the charge of a structure in elementary charges.

    Raises
    ------
    StemAeError
        If its atoms' charges are not finite, or do not add up to a whole number.
    """
    return _total(atoms.get_initial_charges(), "charges")


def unpaired(atoms: ase.Atoms) -> int:
    """Return how many unpaired electrons a structure is said to have.

    Raises
    ------
    StemAeError
        If its atoms' moments are not finite, or do not add up to a whole number.
    """
    return abs(_total(atoms.get_initial_magnetic_moments(), "magnetic moments"))


def _total(values: np.ndarray, name: str) -> int:
    if np.ndim(values) != 1 or not np.isfinite(values).all():
        raise StemAeError(f"The atoms' {name} are not finite numbers, one for each: correct them.")
    total = float(np.sum(values))
    if abs(total - round(total)) > _WHOLE:
        raise StemAeError(f"The atoms' {name} add up to {total:.3g}, which is no whole number: correct them.")
    return round(total)


def check(atoms: ase.Atoms) -> None:
    """Raise StemAeError if there are not as many unpaired electrons as the number of electrons allows."""
    electrons, spins = int(atoms.numbers.sum()) - charge(atoms), unpaired(atoms)
    if electrons < 0 or spins > electrons:
        raise StemAeError(f"A charge of {charge(atoms)} with {spins} unpaired electrons is more than the atoms have.")
    if spins and (electrons - spins) % 2:
        raise StemAeError(
            f"{electrons} electrons cannot have {spins} unpaired ones: correct the atoms' magnetic moments or charges."
        )
