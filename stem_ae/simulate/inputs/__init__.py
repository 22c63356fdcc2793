"""Complete input folders for engines elsewhere: VASP, Quantum ESPRESSO, GPAW, CP2K, DFTB+ and LAMMPS.

Engines sort atoms by element or forget what they do not need. ``atoms.json`` in every folder keeps the structure with
all its arrays, and ``order``: line ``k`` of the engine's files is atom ``order[k]`` of the structure, so that results
come back on the right atoms (:func:`restore`).
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ase
import numpy as np
from ase.io import jsonio

from stem_ae.errors import StemAeError
from stem_ae.simulate.calculation import disk_error, write_atomically
from stem_ae.simulate.constraints import fix, free_coordinates
from stem_ae.simulate.inputs import cp2k, dftb, espresso, gpaw, lammps, vasp
from stem_ae.simulate.inputs.common import InputSet, Job
from stem_ae.simulate.tasks import MolecularDynamics, Relax

_WRITERS: dict[str, Callable[[Job], InputSet]] = {
    "vasp": vasp.write, "espresso": espresso.write, "gpaw": gpaw.write, "cp2k": cp2k.write, "dftb": dftb.write,
    "lammps": lammps.write,
}  # fmt: skip

CODES = tuple(_WRITERS)
"""What :func:`export` can write for."""


def export(
    task: Relax | MolecularDynamics, atoms: ase.Atoms, code: str, folder: str | pathlib.Path, *,
    kpoints: Sequence[int] = (1, 1, 1), cutoff_ev: float = 400.0, pseudopotentials: str = "", vdw: bool = False,
) -> pathlib.Path:  # fmt: skip
    """Write everything one engine needs to do the task, and a README that says how to start it.

    Parameters
    ----------
    task : Relax or MolecularDynamics
        What to do; its ``engine`` does not matter.
    atoms : ase.Atoms
        The structure.
    code : {"vasp", "espresso", "gpaw", "cp2k", "dftb", "lammps"}
        For which engine.
    folder : path
        Where to; made if needed.
    kpoints : 3 int
        Monkhorst-Pack grid; along directions without periodicity it is 1.
    cutoff_ev : float
        Plane-wave cutoff in eV (VASP, Quantum ESPRESSO, GPAW).
    pseudopotentials : str
        Folder with the POTCARs, UPFs or Slater-Koster files; the README lists what it has to hold.
    vdw : bool
        Add Grimme's D3 dispersion where the engine knows it.

    Raises
    ------
    StemAeError
        If the engine is not known, the pseudopotentials are not where they should be, or the folder cannot be written.
    """
    if code not in _WRITERS:
        raise StemAeError(f"There is no input writer for {code!r}: choose one of {', '.join(CODES)}.")
    if len(atoms) == 0:
        raise StemAeError("There are no atoms to write: build a structure first.")
    if pseudopotentials and not pathlib.Path(pseudopotentials).is_dir():
        raise StemAeError(f"The folder of pseudopotentials {pseudopotentials} does not exist: give another, or none.")
    if isinstance(task, Relax) and task.cell and not atoms.pbc.any():
        raise StemAeError("A patch in vacuum has no cell to relax: switch cell off, or build it periodic.")
    held = fix(atoms, task.fixed)
    if held.cell.rank < 3:
        raise StemAeError("The structure has no cell: build it with vacuum around it.")
    grid = tuple(int(k) if p else 1 for k, p in zip(kpoints, held.pbc, strict=True))
    # Input files say by numbers what ASE says by constraints, in the order in which the engine wants the atoms.
    order = np.argsort(held.numbers, kind="stable")
    free = free_coordinates(held)
    job = Job(task, held[order], free[order], (grid[0], grid[1], grid[2]), cutoff_ev, pseudopotentials, vdw)
    written = _WRITERS[code](job)
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error
    for name, content in written.files.items():
        write_atomically(folder / name, content.encode())
    kept = {"order": order.tolist(), "structure": json.loads(jsonio.encode(atoms.copy()))}
    write_atomically(folder / "atoms.json", json.dumps(kept).encode())
    write_atomically(folder / "README.txt", written.readme(code, pseudopotentials).encode())
    return folder


def restore(folder: str | pathlib.Path, positions: Any, cell: Any = None) -> ase.Atoms:
    """Put an engine's final positions (Å, in the order of its files) back on the structure that was exported.

    Raises
    ------
    StemAeError
        If the folder is not one that :func:`export` wrote, or the number of atoms differs.
    """
    try:
        kept = json.loads((pathlib.Path(folder) / "atoms.json").read_bytes())
        atoms: ase.Atoms = jsonio.decode(json.dumps(kept["structure"]))
    except (OSError, ValueError, KeyError) as error:
        raise StemAeError(f"{folder} is not an input folder that stem_ae wrote: atoms.json cannot be read.") from error
    positions = np.asarray(positions, float)
    if positions.shape != (len(atoms), 3):
        raise StemAeError(f"{len(positions)} positions do not fit the {len(atoms)} atoms of {folder}.")
    atoms.positions[np.array(kept["order"])] = positions
    if cell is not None:
        atoms.set_cell(cell)
    return atoms
