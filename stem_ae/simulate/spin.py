"""Unpaired electrons, told to engines as ASE does it: by the initial magnetic moments."""

from __future__ import annotations

import pathlib

import ase
import numpy as np
from ase.data import ground_state_magnetic_moments
from numpy.typing import NDArray

from stem_ae.simulate.electrons import unpaired
from stem_ae.simulate.engines import Engine

__all__ = ["most_unpaired", "unpaired", "with_lowest_spin"]


def most_unpaired(adsorbate: ase.Atoms) -> int:
    """Return how many unpaired electrons the atoms would have one by one; hydrogen counts only where it is alone."""
    heavy = adsorbate.numbers[adsorbate.numbers > 1]
    return round(float(ground_state_magnetic_moments[heavy if len(heavy) else adsorbate.numbers].sum()))


def with_lowest_spin(
    atoms: ase.Atoms, carrier: NDArray[np.int64], most: int, engine: Engine, folder: pathlib.Path
) -> ase.Atoms:
    """Return a structure with the number of unpaired electrons that has the lowest energy, the fewest if in doubt.

    Parameters
    ----------
    atoms : ase.Atoms
        Neutral.
    carrier : array of int
        The atoms that the moments are written to.
    most : int
        No more unpaired electrons are tried.
    engine : Engine
        Those without spins leave everything as it is.
    folder : path
        Where the engine may write.
    """
    if not engine.spins:
        return atoms
    fewest = int(atoms.numbers.sum()) % 2
    trials = [_with_moments(atoms, carrier, count) for count in range(fewest, max(most, fewest) + 1, 2)]
    if len(trials) == 1:
        return trials[0]
    energies = []
    for trial in trials:
        calculated = trial.copy()
        calculated.calc = engine.make(calculated, folder)
        energies.append(calculated.get_potential_energy())
    best: ase.Atoms = trials[int(np.argmin(energies))]
    return best


def _with_moments(atoms: ase.Atoms, carrier: NDArray[np.int64], count: int) -> ase.Atoms:
    result: ase.Atoms = atoms.copy()
    moments = np.zeros(len(atoms))
    moments[carrier] = count / len(carrier)
    result.set_initial_magnetic_moments(moments)
    return result
