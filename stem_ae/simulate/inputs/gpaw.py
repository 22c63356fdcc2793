"""GPAW: a script that reads the structure and does the task with the same optimiser and integrator as stem_ae."""

from __future__ import annotations

import io

from ase.io import write as write_atoms

from stem_ae.simulate.inputs.common import InputSet, Job
from stem_ae.simulate.tasks import Relax

_SCRIPT = '''"""PBE in plane waves; run with: gpaw -P 8 python run.py"""

from ase import units
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read
from gpaw import GPAW, PW, FermiDirac

atoms = read("structure.extxyz")
atoms.set_constraint({constraints})
atoms.calc = GPAW(mode=PW({cutoff:g}), xc="PBE", kpts={kpoints}, occupations={occupations}, txt="gpaw.txt",
                  charge={charge}, spinpol={spinpol},
                  convergence={{"density": 1e-5}},
                  symmetry={{"point_group": False}})  # held atoms and heat break it, which GPAW refuses
{action}
atoms.write("final.extxyz")
'''


def write(job: Job) -> InputSet:
    """Return ``run.py`` and ``structure.extxyz``."""
    held: list[str] = [f"FixAtoms({job.held_atoms})"] if job.held_atoms else []
    for letters, atoms in job.partly_held().items():
        held.append(f"FixCartesian({atoms}, mask={[letter in letters for letter in 'XYZ']})")
    text = _SCRIPT.format(
        constraints="[" + ", ".join(held) + "]", cutoff=job.cutoff_ev, kpoints=job.kpoints, action=_action(job),
        charge=job.charge, spinpol=bool(job.unpaired),
        occupations=f"FermiDirac(0.05, fixmagmom={bool(job.unpaired)})",
    )  # fmt: skip
    structure = io.StringIO()
    plain = job.atoms.copy()
    plain.set_constraint()
    plain.info = {}
    columns = ["symbols", "positions"]
    if job.isotopes:
        plain.set_array("masses", plain.get_masses())
        columns.append("masses")
    if job.unpaired:
        columns.append("initial_magmoms")
    write_atoms(structure, plain, format="extxyz", columns=columns)
    return InputSet({"run.py": text, "structure.extxyz": structure.getvalue()}, "gpaw -P 8 python run.py")


def _action(job: Job) -> str:
    dynamics = job.dynamics
    if dynamics is None:
        assert isinstance(job.task, Relax)
        moving = "FrechetCellFilter(atoms)" if job.task.cell else "atoms"
        lines = ["from ase.filters import FrechetCellFilter"] if job.task.cell else []
        lines += [
            "from ase.optimize import BFGS",
            f'BFGS({moving}, trajectory="relax.traj").run(fmax={job.task.fmax:g}, steps={job.task.max_steps})',
        ]
        return "\n".join(lines)
    if dynamics.thermostat:
        integrator = (
            "from ase.md.nose_hoover_chain import NoseHooverChainNVT\n"
            f"dynamics = NoseHooverChainNVT(atoms, {dynamics.timestep:g} * units.fs, {dynamics.temperature:g}, "
            f"{dynamics.damping:g} * units.fs, trajectory='md.traj', loginterval={dynamics.every})"
        )
    else:
        integrator = (
            "from ase.md.verlet import VelocityVerlet\n"
            f"dynamics = VelocityVerlet(atoms, {dynamics.timestep:g} * units.fs, trajectory='md.traj', "
            f"loginterval={dynamics.every})"
        )
    return (
        "from ase.md.velocitydistribution import MaxwellBoltzmannDistribution\n"
        f"MaxwellBoltzmannDistribution(atoms, temperature_K={dynamics.temperature:g})\n"
        f"{integrator}\ndynamics.run({dynamics.steps})"
    )
