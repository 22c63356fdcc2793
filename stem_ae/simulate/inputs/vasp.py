"""VASP: POSCAR with selective dynamics, INCAR, KPOINTS, and the POTCAR where the pieces are at hand."""

from __future__ import annotations

import pathlib
import re

import numpy as np

from stem_ae.errors import StemAeError
from stem_ae.files import existing_file
from stem_ae.simulate.inputs.common import InputSet, Job
from stem_ae.simulate.tasks import Relax


def write(job: Job) -> InputSet:
    """Return the files: PBE-PAW, the literature's settings by default (400 eV, Monkhorst-Pack)."""
    files = {"POSCAR": _poscar(job), "INCAR": _incar(job), "KPOINTS": _kpoints(job)}
    needed = tuple(f"{element}/POTCAR" for element in job.elements)
    if job.pseudopotentials:
        files["POTCAR"] = _potcar(job)
        needed = ()
    command = "mpirun vasp_gam" if job.kpoints == (1, 1, 1) else "mpirun vasp_std"
    if needed:
        command = f"cat {' '.join(f'$POTCARS/{name}' for name in needed)} > POTCAR && {command}"
    return InputSet(files, command, needed)


def _poscar(job: Job) -> str:
    """Return the structure; flags say for each coordinate whether it may move (T) or not (F)."""
    symbols = job.atoms.get_chemical_symbols()
    lines = [job.atoms.get_chemical_formula(), "1.0"]
    lines += ["".join(f"{value:22.14f}" for value in vector) for vector in job.atoms.cell.array]
    lines += [" ".join(job.elements), " ".join(str(symbols.count(element)) for element in job.elements)]
    # Flags act along the cell's vectors: each of these has to lie along x, y or z.
    cell = np.abs(job.atoms.cell.array)
    axis = cell.argmax(axis=1)
    if job.partly_held() and not np.allclose(cell.sum(axis=1), cell.max(axis=1)):
        raise StemAeError(
            "VASP holds coordinates along the cell's vectors, and this cell is not rectangular: hold whole atoms, or "
            "give a rectangular cell."
        )
    lines += ["Selective dynamics"] if not job.free.all() else []
    lines.append("Cartesian")
    for position, free in zip(job.atoms.positions, job.free, strict=True):
        flags = "" if job.free.all() else "  " + " ".join("T" if f else "F" for f in free[axis])
        lines.append("".join(f"{value:22.14f}" for value in position) + flags)
    return "\n".join(lines) + "\n"


def _incar(job: Job) -> str:
    tags: dict[str, object] = {
        "SYSTEM": job.atoms.get_chemical_formula(), "PREC": "Accurate", "ENCUT": job.cutoff_ev, "EDIFF": 1e-6,
        "ISMEAR": 0, "SIGMA": 0.05, "LREAL": "Auto", "LWAVE": ".FALSE.", "LCHARG": ".FALSE.", "GGA": "PE", "ISYM": 0,
    }  # fmt: skip
    if job.vdw:
        tags["IVDW"] = 12
    if job.unpaired:
        moments = " ".join(f"{moment:g}" for moment in job.atoms.get_initial_magnetic_moments())
        tags |= {"ISPIN": 2, "MAGMOM": moments, "NUPDOWN": job.unpaired}
    if job.charge:
        tags["NELECT"] = f"{_electrons(job):g}"
    if job.isotopes:
        tags["POMASS"] = " ".join(f"{mass:.4f}" for mass in job.masses("VASP").values())
    dynamics = job.dynamics
    if dynamics:
        tags |= {"IBRION": 0, "NSW": dynamics.steps, "POTIM": dynamics.timestep, "TEBEG": dynamics.temperature,
                 "TEEND": dynamics.temperature}  # fmt: skip
        if dynamics.thermostat:
            # MDALGO 2 with SMASS 0: Nosé-Hoover with a mass of 40 steps' period.
            tags |= {"MDALGO": 2, "SMASS": 0, "ISIF": 2}
        else:
            tags |= {"MDALGO": 1, "ANDERSEN_PROB": 0.0}
    else:
        assert isinstance(job.task, Relax)
        tags |= {"IBRION": 2, "NSW": job.task.max_steps, "EDIFFG": -job.task.fmax, "ISIF": 3 if job.task.cell else 2}
    return "\n".join(f"{name} = {value}" for name, value in tags.items()) + "\n"


def _kpoints(job: Job) -> str:
    return "Monkhorst-Pack\n0\n" + ("Gamma" if job.kpoints == (1, 1, 1) else "Monkhorst-Pack") + "\n" + (
        " ".join(str(k) for k in job.kpoints) + "\n0 0 0\n"
    )


def _electrons(job: Job) -> float:
    """Return the number of electrons, which VASP takes instead of a charge: its POTCARs say how many they have."""
    if not job.pseudopotentials:
        raise StemAeError(
            f"The structure has a charge of {job.charge:+d}, and VASP wants a number of electrons, which depends on "
            "the POTCARs: name their folder."
        )
    total = 0.0
    for element in job.elements:
        found = re.search(r"ZVAL\s*=\s*([\d.]+)", _read_potcar(job, element))
        if found is None:
            raise StemAeError(f"The POTCAR of {element} does not say its number of electrons (ZVAL).")
        total += float(found[1]) * job.atoms.get_chemical_symbols().count(element)
    return total - job.charge


def _potcar(job: Job) -> str:
    """Join the elements' POTCARs in the order of the POSCAR."""
    return "".join(_read_potcar(job, element) for element in job.elements)


def _read_potcar(job: Job, element: str) -> str:
    path = pathlib.Path(job.pseudopotentials) / element / "POTCAR"
    try:
        return existing_file(path).read_text(encoding="latin-1")
    except (OSError, StemAeError) as error:
        raise StemAeError(
            f"There is no POTCAR for {element} at {path}: correct the folder, or leave it out and join the POTCARs "
            "where VASP runs."
        ) from error
