"""Quantum ESPRESSO: one file for pw.x, with if_pos for held coordinates."""

from __future__ import annotations

import pathlib
import re

from stem_ae.errors import StemAeError
from stem_ae.simulate.inputs.common import InputSet, Job
from stem_ae.simulate.tasks import Relax

_RYDBERG_EV = 13.605693
_HARTREE_EV = 27.211386
_BOHR = 0.529177211
_TIME_UNIT_FS = 0.04837769  # one Rydberg atomic unit of time


def write(job: Job) -> InputSet:
    """Return ``pw.in``. Pseudopotentials are named ``El.upf`` unless the folder has a file that starts with ``El``."""
    pseudo = {element: _pseudopotential(job, element) for element in job.elements}
    task, dynamics = job.task, job.dynamics
    cell_too = isinstance(task, Relax) and task.cell
    kind = "md" if dynamics else "vc-relax" if cell_too else "relax"
    control: dict[str, object] = {
        "calculation": f"'{kind}'", "prefix": "'stem_ae'", "outdir": "'./out'",
        "pseudo_dir": f"'{job.pseudopotentials or './pseudo'}'", "tprnfor": ".true.",
        "forc_conv_thr": task.fmax / _HARTREE_EV * 2 * _BOHR if isinstance(task, Relax) else None,
        "nstep": dynamics.steps if dynamics else task.max_steps if isinstance(task, Relax) else None,
        "dt": dynamics.timestep / _TIME_UNIT_FS if dynamics else None,
    }  # fmt: skip
    system: dict[str, object] = {
        "ibrav": 0, "nat": len(job.atoms), "ntyp": len(job.elements), "ecutwfc": job.cutoff_ev / _RYDBERG_EV,
        "ecutrho": 8 * job.cutoff_ev / _RYDBERG_EV, "occupations": "'smearing'", "smearing": "'gaussian'",
        "tot_charge": job.charge or None, "nspin": 2 if job.unpaired else None,
        "tot_magnetization": job.unpaired or None, "degauss": 0.05 / _RYDBERG_EV,
        "nosym": ".true." if dynamics else None,
        "vdw_corr": "'dft-d3'" if job.vdw else None,
        "assume_isolated": "'2D'" if job.atoms.pbc.sum() == 2 and kind == "relax" else None,
    }  # fmt: skip
    ions: dict[str, object] = {}
    if dynamics:
        # pw.x has no Nosé-Hoover; stochastic velocity rescaling samples the same ensemble.
        ions = {"ion_dynamics": "'verlet'", "ion_velocities": "'random'", "tempw": dynamics.temperature}
        ions |= {"ion_temperature": "'svr'", "nraise": round(dynamics.damping / dynamics.timestep)} if (
            dynamics.thermostat
        ) else {"ion_temperature": "'initial'"}
    sections = [_namelist("CONTROL", control), _namelist("SYSTEM", system), _namelist("ELECTRONS", {"conv_thr": 1e-9})]
    sections.append(_namelist("IONS", ions))
    if cell_too:
        sections.append(_namelist("CELL", {"cell_dofree": "'2Dxy'" if job.atoms.pbc.sum() == 2 else "'all'"}))
    masses = job.masses("Quantum ESPRESSO")
    sections.append("ATOMIC_SPECIES\n" + "".join(f"{e} {masses[e]:.4f} {pseudo[e]}\n" for e in job.elements))
    sections.append(
        "CELL_PARAMETERS angstrom\n" + "".join("".join(f"{v:22.14f}" for v in r) + "\n" for r in job.atoms.cell.array)
    )
    sections.append("ATOMIC_POSITIONS angstrom\n" + _positions(job))
    grid = "automatic\n" + " ".join(map(str, job.kpoints)) + " 0 0 0" if max(job.kpoints) > 1 else "gamma"
    sections.append(f"K_POINTS {grid}\n")
    return InputSet({"pw.in": "\n".join(sections)}, "mpirun pw.x -in pw.in > pw.out", tuple(pseudo.values()))


def _positions(job: Job) -> str:
    """Return the atoms; 0 after a position says that this coordinate is held."""
    lines = []
    for symbol, position, free in zip(job.atoms.get_chemical_symbols(), job.atoms.positions, job.free, strict=True):
        flags = "" if free.all() else "  " + " ".join(str(int(f)) for f in free)
        lines.append(f"{symbol:<3}" + "".join(f"{value:22.14f}" for value in position) + flags + "\n")
    return "".join(lines)


def _namelist(name: str, values: dict[str, object]) -> str:
    lines = "".join(f"  {key} = {value}\n" for key, value in values.items() if value is not None)
    return f"&{name}\n{lines}/\n"


def _pseudopotential(job: Job, element: str) -> str:
    if not job.pseudopotentials:
        return f"{element}.upf"
    folder = pathlib.Path(job.pseudopotentials)
    named = re.compile(rf"{element}[._-].*", re.IGNORECASE)
    found = sorted(
        path.name for path in folder.iterdir() if path.suffix.lower() == ".upf" and named.fullmatch(path.name)
    )
    if not found:
        raise StemAeError(f"There is no pseudopotential for {element} in {folder}: it should be named {element}.upf.")
    return found[0]
