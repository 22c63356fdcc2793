"""CP2K: PBE with Gaussians and plane waves; ASE has no writer for its files."""

from __future__ import annotations

from stem_ae.simulate.cp2k import dft_section
from stem_ae.simulate.inputs.common import InputSet, Job, ranges
from stem_ae.simulate.tasks import Relax

_HARTREE_PER_BOHR = 51.422067
"""eV/Å."""

def write(job: Job) -> InputSet:
    """Return ``cp2k.inp``."""
    periodic = "".join(letter for letter, p in zip("XYZ", job.atoms.pbc, strict=True) if p) or "NONE"
    if periodic not in ("XYZ", "XY"):
        periodic = "NONE"
    electrons = dft_section(periodic, job.vdw).splitlines()
    lines = [f"    CHARGE {job.charge}"] if job.charge else []
    # An odd number of electrons is a radical, which needs both spins.
    if job.unpaired or (int(job.atoms.numbers.sum()) - job.charge) % 2:
        lines.append("    UKS T")
    if job.unpaired:
        lines.append(f"    MULTIPLICITY {job.unpaired + 1}")
    start = electrons.index("  &DFT") + 1
    electrons[start:start] = lines
    force_eval = [*electrons[:-1], *_subsystem(job, periodic), electrons[-1]]
    kind = "MD" if job.dynamics else "CELL_OPT" if isinstance(job.task, Relax) and job.task.cell else "GEO_OPT"
    if kind == "CELL_OPT":
        force_eval.insert(2, "  STRESS_TENSOR ANALYTICAL")
    top = [
        "&GLOBAL", "  PROJECT stem_ae", f"  RUN_TYPE {kind}", "  PRINT_LEVEL LOW", "&END GLOBAL",
        "&MOTION", *_motion(job, kind), *_constraints(job), "&END MOTION",
    ]  # fmt: skip
    return InputSet({"cp2k.inp": "\n".join([*top, *force_eval]) + "\n"}, "mpirun cp2k.psmp -i cp2k.inp -o cp2k.out")


def _subsystem(job: Job, periodic: str) -> list[str]:
    lines = ["  &SUBSYS", "    &CELL"]
    for name, vector in zip("ABC", job.atoms.cell.array, strict=True):
        lines.append(f"      {name} " + " ".join(f"{value:.10f}" for value in vector))
    lines += [f"      PERIODIC {periodic}", "    &END CELL", "    &COORD"]
    for symbol, position in zip(job.atoms.get_chemical_symbols(), job.atoms.positions, strict=True):
        lines.append(f"      {symbol:<3}" + "".join(f"{value:20.12f}" for value in position))
    lines.append("    &END COORD")
    masses = job.masses("CP2K")
    for element in job.elements:
        mass = [f"      MASS {masses[element]:.4f}"] if job.isotopes else []
        lines += [
            f"    &KIND {element}", "      BASIS_SET DZVP-MOLOPT-SR-GTH", "      POTENTIAL GTH-PBE", *mass,
            "    &END KIND",
        ]  # fmt: skip
    return [*lines, "  &END SUBSYS"]


def _motion(job: Job, kind: str) -> list[str]:
    dynamics = job.dynamics
    if dynamics is None:
        assert isinstance(job.task, Relax)
        limits = [f"    MAX_FORCE {job.task.fmax / _HARTREE_PER_BOHR:.6e}", f"    MAX_ITER {job.task.max_steps}"]
        keep = ["    KEEP_SYMMETRY F"] if kind == "CELL_OPT" else []
        return [f"  &{kind}", "    OPTIMIZER BFGS", *limits, *keep, f"  &END {kind}"]
    lines = [
        "  &MD", f"    ENSEMBLE {'NVT' if dynamics.thermostat else 'NVE'}", f"    STEPS {dynamics.steps}",
        f"    TIMESTEP {dynamics.timestep:g}", f"    TEMPERATURE {dynamics.temperature:g}",
    ]  # fmt: skip
    if dynamics.thermostat:
        lines += [
            "    &THERMOSTAT", "      TYPE NOSE", "      &NOSE", "        LENGTH 3",
            f"        TIMECON {dynamics.damping:g}", "      &END NOSE", "    &END THERMOSTAT",
        ]  # fmt: skip
    return [*lines, "  &END MD"]


def _constraints(job: Job) -> list[str]:
    groups = {"XYZ": job.held_atoms, **job.partly_held()}
    lines: list[str] = []
    for letters, atoms in groups.items():
        if atoms:
            lines += [
                "    &FIXED_ATOMS", f"      COMPONENTS_TO_FIX {letters}",
                f"      LIST {ranges([k + 1 for k in atoms])}", "    &END FIXED_ATOMS",
            ]  # fmt: skip
    return ["  &CONSTRAINT", *lines, "  &END CONSTRAINT"] if lines else []
