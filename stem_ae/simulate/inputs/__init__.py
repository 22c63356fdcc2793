"""Complete input folders for engines elsewhere: VASP, Quantum ESPRESSO, GPAW, CP2K, DFTB+ and LAMMPS.

Engines sort atoms by element or forget what they do not need. ``atoms.json`` in every folder keeps the structure with
all its arrays, and how the engine's files differ from it, so that results come back on the right atoms, where they
belong (:func:`restore`): line ``k`` of the files is atom ``order[k]``, their vector ``k`` is vector ``vectors[k]``, and
``moved`` is by what atoms that lay outside were moved into the cell.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ase
import numpy as np
from ase.io import jsonio
from numpy.typing import NDArray

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.files import output_folder
from stem_ae.simulate import electrons
from stem_ae.simulate.calculation import write_atomically
from stem_ae.simulate.constraints import fix, free_coordinates
from stem_ae.simulate.inputs import cp2k, dftb, espresso, gpaw, lammps, vasp
from stem_ae.simulate.inputs.common import InputSet, Job
from stem_ae.simulate.tasks import MolecularDynamics, Relax
from stem_ae.structure.possible import refuse_impossible

FloatArray = NDArray[np.float64]

_ON_THE_BORDER = 1e-6
"""Part of a cell's vector by which an atom may lie outside."""
_TOUCHING = 0.79
"""Of the sum of covalent radii; closer atoms overlap."""

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
        If the engine is not known, the pseudopotentials are not where they should be, the structure or a number cannot
        be meant, or the folder cannot be written.
    """
    if code not in _WRITERS:
        raise StemAeError(f"There is no input writer for {code!r}: choose one of {', '.join(CODES)}.")
    if len(atoms) == 0:
        raise StemAeError("There are no atoms to write: build a structure first.")
    task.check_numbers()
    refuse_impossible(atoms)
    electrons.check(atoms)
    cutoff_ev = checks.number(cutoff_ev, "The plane-wave cutoff", 50, 5000, "eV")
    if len(kpoints) != 3:
        raise StemAeError(f"The grid of k points has {len(kpoints)} numbers: give one along each of the three vectors.")
    grid = [checks.whole(k, "A number of k points", 1, 200) for k in kpoints]
    if pseudopotentials and not pathlib.Path(pseudopotentials).is_dir():
        raise StemAeError(f"The folder of pseudopotentials {pseudopotentials} does not exist: give another, or none.")
    if isinstance(task, Relax) and task.cell and not atoms.pbc.any():
        raise StemAeError("A patch in vacuum has no cell to relax: switch cell off, or build it periodic.")
    held = fix(atoms, task.fixed)
    if held.cell.rank < 3:
        raise StemAeError("The structure has no cell: build it with vacuum around it.")
    # Input files say by numbers what ASE says by constraints, in the order in which the engine wants the atoms.
    order = np.argsort(held.numbers, kind="stable")
    free = free_coordinates(held)
    vectors = _right_handed(held.cell.array)
    placed = held.copy()
    placed.set_cell(held.cell.array[vectors])
    placed.set_pbc(held.pbc[vectors])
    moved = _into_the_cell(placed)
    placed.set_positions(placed.positions + moved, apply_constraint=False)
    if code in ("vasp", "espresso", "gpaw") or (code == "dftb" and held.pbc.any()):
        _refuse_touching_images(placed)
    k = [grid[vector] if held.pbc[vector] else 1 for vector in vectors]
    job = Job(task, placed[order], free[order], (k[0], k[1], k[2]), cutoff_ev, pseudopotentials, vdw)
    written = _WRITERS[code](job)
    folder = output_folder(folder)
    for name, content in written.files.items():
        write_atomically(folder / name, content.encode())
    kept = {
        "order": order.tolist(), "vectors": vectors, "moved": moved.tolist(),
        "structure": json.loads(jsonio.encode(atoms.copy())),
    }  # fmt: skip
    write_atomically(folder / "atoms.json", json.dumps(kept).encode())
    write_atomically(folder / "README.txt", written.readme(code, pseudopotentials).encode())
    return folder


def _right_handed(cell: FloatArray) -> list[int]:
    """Return the order of a cell's vectors in which they are right-handed, which VASP insists on."""
    return [0, 1, 2] if np.linalg.det(cell) > 0 else [1, 0, 2]


def _into_the_cell(atoms: ase.Atoms) -> FloatArray:
    """Return by what atoms are moved so that they lie in the cell, ``(N, 3)`` in Å; zero for those that do.

    Along periodic directions each by itself, along others all together.
    """
    cell = atoms.cell.array
    fractional = atoms.positions @ np.linalg.inv(cell)
    steps = -np.floor(fractional + _ON_THE_BORDER)
    for direction in np.flatnonzero(~atoms.pbc):
        low, high = fractional[:, direction].min(), fractional[:, direction].max()
        if high - low > 1 + _ON_THE_BORDER:
            raise StemAeError(
                f"The atoms extend over more than the cell along its vector {direction + 1}, which is not periodic: "
                "give a larger cell."
            )
        outside = low < _ON_THE_BORDER or high > 1 - _ON_THE_BORDER
        steps[:, direction] = 0.5 - (low + high) / 2 if outside else 0.0
    return np.asarray(np.where(steps == 0, 0.0, steps) @ cell, dtype=float)


def _refuse_touching_images(atoms: ase.Atoms) -> None:
    """Raise StemAeError if atoms touch those of the next cell: these engines repeat it along every direction."""
    from ase.neighborlist import natural_cutoffs, neighbor_list

    repeated = atoms.copy()
    repeated.set_pbc(True)
    reach = natural_cutoffs(repeated, mult=_TOUCHING)
    if len(neighbor_list("i", repeated, reach)) > len(neighbor_list("i", atoms, reach)):
        raise StemAeError(
            "Atoms touch their images in the next cell, across a border that is not periodic: give a larger cell."
        )


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
    atoms.positions -= np.array(kept.get("moved", 0.0))
    if cell is not None:
        vectors = np.array(cell, float)
        vectors[kept.get("vectors", [0, 1, 2])] = np.array(cell, float)
        atoms.set_cell(vectors)
    return atoms
