"""What all input writers are given and give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import ase
import ase.data
import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.simulate import electrons
from stem_ae.simulate.tasks import MolecularDynamics, Relax

_SAME_MASS = 1e-3
"""u: tables of masses differ by as much."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One thing to write: atoms sorted by element, and which of their coordinates are free ``(N, 3)``."""

    task: Relax | MolecularDynamics
    atoms: ase.Atoms
    free: NDArray[np.bool_]
    kpoints: tuple[int, int, int]
    cutoff_ev: float
    pseudopotentials: str
    vdw: bool

    @property
    def elements(self) -> list[str]:
        """Symbols in the order of the atoms, each once."""
        return list(dict.fromkeys(self.atoms.get_chemical_symbols()))

    @property
    def dynamics(self) -> MolecularDynamics | None:
        """The task if it is molecular dynamics."""
        return self.task if isinstance(self.task, MolecularDynamics) else None

    @property
    def charge(self) -> int:
        """Of the whole, in elementary charges."""
        return electrons.charge(self.atoms)

    @property
    def unpaired(self) -> int:
        """How many unpaired electrons there are."""
        return electrons.unpaired(self.atoms)

    def refuse_electrons(self, code: str, *, charge: bool = True, spin: bool = True) -> None:
        """Raise StemAeError if there is a charge, or a spin, that an engine's files cannot express."""
        if charge and self.charge:
            raise StemAeError(f"The structure has a charge of {self.charge:+d}, which the files for {code} do not say.")
        if spin and self.unpaired:
            raise StemAeError(f"The structure has {self.unpaired} unpaired electrons, which {code}'s files do not say.")

    def masses(self, code: str) -> dict[str, float]:
        """Return the mass of each element in u, for dynamics; a relaxation knows no masses.

        Raises
        ------
        StemAeError
            If atoms of one element have several masses.
        """
        result = {}
        for element in self.elements:
            of_element = self.atoms.get_masses()[self.atoms.symbols == element]
            if self.dynamics and np.ptp(of_element) > _SAME_MASS:
                raise StemAeError(
                    f"{element} has atoms of {of_element.min():.4g} and {of_element.max():.4g} u: isotopes side by "
                    f"side are not written for {code}; give them one mass, or run the dynamics here."
                )
            result[element] = float(of_element.mean())
        return result

    @property
    def isotopes(self) -> bool:
        """Whether dynamics is asked for with masses that are not the elements' own."""
        usual = ase.data.atomic_masses[self.atoms.numbers]
        return self.dynamics is not None and bool(np.any(np.abs(self.atoms.get_masses() - usual) > _SAME_MASS))

    @property
    def held_atoms(self) -> list[int]:
        """Atoms that are held in all three coordinates, from 0."""
        return [int(k) for k in np.flatnonzero(~self.free.any(axis=1))]

    def partly_held(self) -> dict[str, list[int]]:
        """Atoms that are held in some coordinates, from 0, by the letters of those (``"XY"``)."""
        result: dict[str, list[int]] = {}
        for k in np.flatnonzero(self.free.any(axis=1) & ~self.free.all(axis=1)):
            letters = "".join(letter for letter, free in zip("XYZ", self.free[k], strict=True) if not free)
            result.setdefault(letters, []).append(int(k))
        return result


@dataclasses.dataclass(frozen=True)
class InputSet:
    """Files by name; the command that runs them; files of others that have to be added."""

    files: Mapping[str, str]
    command: str
    needed: tuple[str, ...] = ()

    def readme(self, code: str, pseudopotentials: str) -> str:
        """Return what a person needs to know to run it."""
        lines = [f"Input for {code}, written by stem_ae.", "", f"Run:  {self.command}", ""]
        if self.needed:
            lines += [f"It needs these files, from {pseudopotentials or 'your licence or library'}:"]
            lines += [f"  {name}" for name in self.needed] + [""]
        lines += [
            "atoms.json keeps the structure; its 'order' says which of its atoms each line of the engine's files is.",
            "stem_ae.simulate.inputs.restore(folder, positions) puts results back on it.",
        ]
        return "\n".join(lines) + "\n"


def ranges(numbers: list[int]) -> str:
    """Return sorted numbers with runs joined, as ``1..3 7`` (CP2K); input files have short lines."""
    parts: list[tuple[int, int]] = []
    for k in numbers:
        if parts and k == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], k)
        else:
            parts.append((k, k))
    return " ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in parts)
