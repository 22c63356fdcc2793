"""CP2K: PBE with Gaussians and plane waves; ASE has no writer for its files."""

from __future__ import annotations

from stem_ae.simulate.inputs.common import InputSet, Job, ranges
from stem_ae.simulate.tasks import Relax

_HARTREE_PER_BOHR = 51.422067
"""eV/Å."""

_MOLECULE = """
      &DIAGONALIZATION
      &END DIAGONALIZATION
      &MIXING
        METHOD BROYDEN_MIXING
        ALPHA 0.4
        NBROYDEN 8
      &END MIXING"""
"""A gap lets plain diagonalisation converge: benzene in 17 iterations; orbital transformation took 50 for C24H12."""

_PERIODIC = """
      &OT
        MINIMIZER DIIS
        PRECONDITIONER FULL_SINGLE_INVERSE
      &END OT
      &OUTER_SCF
        EPS_SCF 1.0E-6
        MAX_SCF 10
      &END OUTER_SCF"""
"""Slower, but the charge cannot slosh."""


def dft_section(periodic: str, vdw: bool = False) -> str:
    """Return CP2K's section on electrons, also for its shell; ``periodic`` is XYZ, XY or NONE."""
    solver = {"XYZ": "PERIODIC", "XY": "ANALYTIC", "NONE": "MT"}[periodic]
    dispersion = """
      &VDW_POTENTIAL
        POTENTIAL_TYPE PAIR_POTENTIAL
        &PAIR_POTENTIAL
          TYPE DFTD3(BJ)
          PARAMETER_FILE_NAME dftd3.dat
          REFERENCE_FUNCTIONAL PBE
        &END PAIR_POTENTIAL
      &END VDW_POTENTIAL"""
    return f"""&FORCE_EVAL
  METHOD Quickstep
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    &MGRID
      CUTOFF 400
      REL_CUTOFF 50
    &END MGRID
    &POISSON
      PERIODIC {periodic}
      POISSON_SOLVER {solver}
    &END POISSON
    &SCF
      SCF_GUESS RESTART
      EPS_SCF 1.0E-6
      MAX_SCF 50{_MOLECULE if periodic == "NONE" else _PERIODIC}
    &END SCF
    &XC
      &XC_FUNCTIONAL PBE
      &END XC_FUNCTIONAL{dispersion if vdw else ""}
    &END XC
  &END DFT
&END FORCE_EVAL"""


def write(job: Job) -> InputSet:
    """Return ``cp2k.inp``."""
    periodic = "".join(letter for letter, p in zip("XYZ", job.atoms.pbc, strict=True) if p) or "NONE"
    if periodic not in ("XYZ", "XY"):
        periodic = "NONE"
    electrons = dft_section(periodic, job.vdw).splitlines()
    # An odd number of electrons is a radical, which needs both spins.
    if int(job.atoms.numbers.sum()) % 2:
        electrons.insert(electrons.index("  &DFT") + 1, "    UKS T")
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
    for element in job.elements:
        lines += [
            f"    &KIND {element}", "      BASIS_SET DZVP-MOLOPT-SR-GTH", "      POTENTIAL GTH-PBE", "    &END KIND",
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
