"""LAMMPS: a data file and a script with a reactive or bond-order potential, held coordinates as groups."""

from __future__ import annotations

import numpy as np

from stem_ae.errors import StemAeError
from stem_ae.simulate.inputs.common import InputSet, Job
from stem_ae.simulate.tasks import Relax

_POTENTIALS = (
    # elements it knows, pair_style, file
    ({"C", "H"}, "airebo 3.0", "CH.airebo"),
    ({"C", "Si"}, "tersoff", "SiC.tersoff"),
    ({"Mo", "S"}, "rebomos", "MoS.REBO.set5b"),
)


def write(job: Job) -> InputSet:
    """Return ``in.lammps`` and ``data.lammps``.

    Raises
    ------
    StemAeError
        If no potential that comes with LAMMPS knows all elements.
    """
    job.refuse_electrons("LAMMPS")
    known = [(style, potential) for elements, style, potential in _POTENTIALS if set(job.elements) <= elements]
    if not known:
        raise StemAeError(
            f"LAMMPS brings no potential for {', '.join(job.elements)} together: its choice is C with H, C with Si, or "
            "Mo with S; take the patch without hydrogen, or another engine."
        )
    style, potential = known[0]
    script = [
        "units metal", "atom_style atomic",
        "boundary " + " ".join("p" if p else "f" for p in job.atoms.pbc), "read_data data.lammps",
        f"pair_style {style}", f"pair_coeff * * {potential} " + " ".join(job.elements),
        *_held(job), "thermo 10", "thermo_style custom step temp pe fmax", *_action(job),
        "write_dump all custom final.lammpstrj id type x y z modify sort id",
    ]  # fmt: skip
    files = {"in.lammps": "\n".join(script) + "\n", "data.lammps": _data(job)}
    return InputSet(files, "lmp -in in.lammps", (f"{potential} (in LAMMPS' folder 'potentials')",))


def _data(job: Job) -> str:
    """Return the data file; a triclinic cell is turned so that its first vector lies along x, as LAMMPS wants."""
    cell = job.atoms.cell
    if not np.allclose(cell.array, np.diag(np.diag(cell.array))) or np.any(np.diag(cell.array) <= 0):
        raise StemAeError("For LAMMPS the cell must be rectangular: build a patch, or give a rectangular cell.")
    x, y, z = np.diag(cell.array)
    lines = [
        "written by stem_ae", "", f"{len(job.atoms)} atoms", f"{len(job.elements)} atom types", f"0 {x:.12f} xlo xhi",
        f"0 {y:.12f} ylo yhi", f"0 {z:.12f} zlo zhi", "", "Masses", "",
    ]  # fmt: skip
    for k, (element, mass) in enumerate(job.masses("LAMMPS").items(), start=1):
        lines.append(f"{k} {mass:.4f}  # {element}")
    lines += ["", "Atoms # atomic", ""]
    for k, (symbol, position) in enumerate(
        zip(job.atoms.get_chemical_symbols(), job.atoms.positions, strict=True), start=1
    ):
        lines.append(f"{k} {job.elements.index(symbol) + 1}" + "".join(f"{value:20.12f}" for value in position))
    return "\n".join(lines) + "\n"


def _held(job: Job) -> list[str]:
    """Return groups whose forces (and velocities) are set to zero along the held directions."""
    groups = {"XYZ": job.held_atoms, **job.partly_held()}
    lines: list[str] = []
    for letters, atoms in groups.items():
        if not atoms:
            continue
        name = f"held_{letters.lower()}"
        zero = " ".join("0.0" if letter in letters else "NULL" for letter in "XYZ")
        for start in range(0, len(atoms), 20):
            lines.append(f"group {name} id " + " ".join(str(k + 1) for k in atoms[start : start + 20]))
        lines.append(f"fix {name} {name} setforce {zero}")
    return lines


def _action(job: Job) -> list[str]:
    dynamics = job.dynamics
    if dynamics is None:
        assert isinstance(job.task, Relax)
        box = ["fix box all box/relax x 0.0 y 0.0"] if job.task.cell else []
        steps = job.task.max_steps
        return [*box, "min_style cg", f"minimize 0.0 {job.task.fmax:g} {steps} {10 * steps}"]
    letters = {"held_xyz": job.held_atoms} | {f"held_{k.lower()}": v for k, v in job.partly_held().items()}
    still = [
        f"velocity {name} set " + " ".join("0.0" if x in name else "NULL" for x in "xyz")
        for name, atoms in letters.items() if atoms
    ]  # fmt: skip
    temperature, picoseconds = dynamics.temperature, dynamics.timestep / 1000
    integrator = (
        f"fix motion all nvt temp {temperature:g} {temperature:g} {dynamics.damping / 1000:g}"
        if dynamics.thermostat
        else "fix motion all nve"
    )
    return [
        f"velocity all create {temperature:g} {dynamics.seed + 1} mom yes rot yes dist gaussian", *still,
        f"timestep {picoseconds:g}", integrator,
        f"dump frames all custom {dynamics.every} md.lammpstrj id type x y z", f"run {dynamics.steps}",
    ]  # fmt: skip
