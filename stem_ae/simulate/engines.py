"""Engines: what computes energies and forces."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Callable
from typing import Any

import ase
import numpy as np

from stem_ae.errors import StemAeError
from stem_ae.simulate.linear_algebra import use_fast_lapack

DEFAULT = "gfn1"
"""The embedded engine that pip alone installs."""

_HOPELESS_SECONDS = 86400.0


@dataclasses.dataclass(frozen=True)
class Engine:
    """One way to compute energies and forces.

    Parameters
    ----------
    name : str
        What is written in scripts.
    title : str
        What a person reads.
    make : callable
        ``make(atoms, folder)`` returns an ASE calculator; ``folder`` is where it may write.
    missing : callable
        Returns one sentence on what is missing here, or None.
    elements : int
        Highest atomic number it knows.
    seconds : callable
        ``seconds(number of atoms)``: a rough time for one set of forces on one core.
    gigabytes : callable
        ``gigabytes(number of atoms)``: about how much memory it needs.
    spins : bool
        Whether it knows unpaired electrons: as many as the initial magnetic moments of the atoms add up to.
    """

    name: str
    title: str
    make: Callable[[ase.Atoms, pathlib.Path], Any]
    missing: Callable[[], str | None]
    elements: int
    seconds: Callable[[int], float]
    gigabytes: Callable[[int], float]
    spins: bool = False


def get(name: str | None) -> Engine:
    """Return an engine by its name, the embedded one for ``None``.

    Raises
    ------
    StemAeError
        If there is no such engine, or it cannot run on this machine.
    """
    engine = ENGINES.get(name or DEFAULT)
    if engine is None:
        raise StemAeError(f"There is no engine {name!r}: choose one of {', '.join(ENGINES)}.")
    missing = engine.missing()
    if missing:
        raise StemAeError(missing)
    return engine


def available() -> dict[str, str | None]:
    """Return every engine's name with what it is missing here, None if nothing."""
    return {name: engine.missing() for name, engine in ENGINES.items()}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a calculation will cost: time in s on one core, memory in GB, and a warning or an empty string."""

    seconds: float
    gigabytes: float
    warning: str


def estimate(atoms: ase.Atoms, engine: str | None, steps: int) -> Estimate:
    """Return about what ``steps`` sets of forces cost; with a warning where that is hopeless."""
    chosen = ENGINES.get(engine or DEFAULT)
    if chosen is None:
        raise StemAeError(f"There is no engine {engine!r}: choose one of {', '.join(ENGINES)}.")
    n = len(atoms)
    seconds, gigabytes = steps * chosen.seconds(n), chosen.gigabytes(n)
    warning = ""
    unknown = sorted({atoms.symbols[k] for k in np.flatnonzero(atoms.numbers > chosen.elements)})
    if unknown:
        warning = f"{chosen.title} does not know {', '.join(unknown)}."
    elif gigabytes > _memory_gigabytes():
        warning = f"{chosen.title} needs about {gigabytes:.0f} GB for {n} atoms, which this machine does not have."
    elif seconds > _HOPELESS_SECONDS:
        days = seconds / 86400
        warning = f"{chosen.title} needs about {days:.0f} days for {n} atoms: take a smaller region or another engine."
    return Estimate(seconds, gigabytes, warning)


def _memory_gigabytes() -> float:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / 1e9
    return 16.0


# --- the engines ------------------------------------------------------------------------------------------------------


def _tblite_missing() -> str | None:
    if importlib.util.find_spec("tblite") is None:
        where = "run the worker on Linux or macOS" if sys.platform == "win32" else "pip install tblite"
        return f"The embedded engine tblite is not installed: {where}, or choose another engine."
    return None


def _tblite(method: str) -> Callable[[ase.Atoms, pathlib.Path], Any]:
    def make(atoms: ase.Atoms, folder: pathlib.Path) -> Any:
        use_fast_lapack()
        from tblite.ase import TBLite

        # Forces follow the self-consistent cycle's accuracy: 1.0 is 1e-6 hartree, which 1e-3 eV/Å needs.
        polarised = 1.0 if atoms.get_initial_magnetic_moments().any() else None
        return TBLite(method=method, verbosity=0, spin_polarization=polarised)

    return make


def _program(*names: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        if any(shutil.which(name) for name in names):
            return None
        return f"The program {names[0]} is not installed on this machine: install it, or choose another engine."

    return missing


def _gfnff(atoms: ase.Atoms, folder: pathlib.Path) -> Any:
    from stem_ae.simulate.gfnff import GFNFF

    return GFNFF(folder / "gfnff")


def _cp2k(atoms: ase.Atoms, folder: pathlib.Path) -> Any:
    from ase.calculators.cp2k import CP2K

    from stem_ae.simulate.cp2k import dft_section

    if atoms.cell.rank < 3:
        raise StemAeError("CP2K needs a cell: build the structure with vacuum around it.")
    periodic = {3: "XYZ", 2: "XY"}.get(int(atoms.pbc.sum()), "NONE")
    unpaired = round(float(atoms.get_initial_magnetic_moments().sum()))
    # CP2K takes no path of more than 80 characters: it works in the folder and is given a name there.
    shell = shlex.quote(shutil.which("cp2k_shell.psmp") or shutil.which("cp2k_shell") or "cp2k_shell")
    # What the section says itself is switched off here. An odd number of electrons needs both spins.
    return CP2K(
        command=f"cd {shlex.quote(str(folder))} && exec {shell}", label="cp2k",
        inp=dft_section(periodic), force_eval_method=None, basis_set_file=None, potential_file=None, cutoff=None,
        max_scf=None, xc=None, poisson_solver=None, stress_tensor=bool(atoms.pbc.any()), print_level="LOW",
        uks=bool(unpaired or int(atoms.numbers.sum()) % 2), multiplicity=unpaired + 1 if unpaired else None,
        basis_set="DZVP-MOLOPT-SR-GTH", pseudo_potential="GTH-PBE",
    )  # fmt: skip


def _emt(atoms: ase.Atoms, folder: pathlib.Path) -> Any:
    from ase.calculators.emt import EMT

    return EMT()


# Times per set of forces on one core, fitted to measurements (docs/simulation.md): the cube is the eigenvalue problem.
ENGINES = {
    engine.name: engine
    for engine in (
        Engine("gfn1", "GFN1-xTB (tblite)", _tblite("GFN1-xTB"), _tblite_missing, 86,
               lambda n: 0.02 + 4.5e-7 * n**3, lambda n: 0.2 + 1.5e-6 * n**2, spins=True),
        Engine("gfn2", "GFN2-xTB (tblite)", _tblite("GFN2-xTB"), _tblite_missing, 86,
               lambda n: 0.02 + 6e-7 * n**3, lambda n: 0.2 + 2e-6 * n**2, spins=True),
        Engine("gfnff", "GFN-FF (xtb)", _gfnff, _program("xtb"), 86,
               lambda n: 0.1 + 4e-7 * n**2, lambda n: 0.1 + 1e-7 * n**2),
        Engine("cp2k", "PBE (CP2K)", _cp2k, _program("cp2k_shell", "cp2k_shell.psmp"), 86,
               lambda n: 1.0 * n + 1e-3 * n**3, lambda n: 1 + 1e-4 * n**2, spins=True),
        Engine("emt", "EMT (metals only, for trying things out)", _emt, lambda: None, 79,
               lambda n: 1e-4 * n, lambda n: 0.1),
    )
}  # fmt: skip
"""Every engine by its name."""
