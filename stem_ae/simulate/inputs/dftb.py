"""DFTB+: dftb_in.hsd and geo_end.gen; parameters of the user's choice of Slater-Koster set."""

from __future__ import annotations

import pathlib

from stem_ae.errors import StemAeError
from stem_ae.simulate.inputs.common import InputSet, Job
from stem_ae.simulate.tasks import Relax

_ANGULAR_MOMENTUM = {"H": "s", "B": "p", "C": "p", "N": "p", "O": "p", "F": "p", "Si": "d", "P": "d", "S": "d"}
_AU_PER_EV_ANGSTROM = 1 / 51.422067
_KELVIN_AU = 3.1668114e-6


def write(job: Job) -> InputSet:
    """Return ``dftb_in.hsd`` and ``geo.gen``; self-consistent charges, DFTB2."""
    job.refuse_electrons("DFTB+", charge=False)  # its constants of spin depend on the Slater-Koster set
    if job.isotopes:
        raise StemAeError("Masses other than the elements' own are not written for DFTB+: choose another engine.")
    pairs = tuple(f"{a}-{b}.skf" for a in job.elements for b in job.elements)
    if job.pseudopotentials:
        missing = [name for name in pairs if not (pathlib.Path(job.pseudopotentials) / name).exists()]
        if missing:
            raise StemAeError(f"The Slater-Koster files {', '.join(missing)} are not in {job.pseudopotentials}.")
    prefix = f"{job.pseudopotentials.rstrip('/')}/" if job.pseudopotentials else "./"
    momenta = "\n".join(f'    {element} = "{_ANGULAR_MOMENTUM.get(element, "d")}"' for element in job.elements)
    sampling = "" if not job.atoms.pbc.any() else _kpoints(job)
    dispersion = '  Dispersion = SimpleDftD3 { a1 = 0.746 a2 = 4.191 s6 = 1.0 s8 = 3.209 }\n' if job.vdw else ""
    text = f"""Geometry = GenFormat {{
  <<< "geo.gen"
}}
{_driver(job)}
Hamiltonian = DFTB {{
  SCC = Yes
  SCCTolerance = 1.0E-7
  MaxSCCIterations = 250
  Charge = {job.charge}
  SlaterKosterFiles = Type2FileNames {{
    Prefix = "{prefix}"
    Separator = "-"
    Suffix = ".skf"
  }}
  MaxAngularMomentum = {{
{momenta}
  }}
  Filling = Fermi {{ Temperature [Kelvin] = 300 }}
{sampling}{dispersion}}}
Options {{ WriteResultsTag = Yes }}
ParserOptions {{ ParserVersion = 9 }}
"""
    return InputSet({"dftb_in.hsd": text, "geo.gen": _geometry(job)}, "dftb+ > dftb.out", pairs)


def _geometry(job: Job) -> str:
    periodic = job.atoms.pbc.any()
    lines = [f"{len(job.atoms)} {'S' if periodic else 'C'}", " ".join(job.elements)]
    for k, (symbol, position) in enumerate(
        zip(job.atoms.get_chemical_symbols(), job.atoms.positions, strict=True), start=1
    ):
        lines.append(f"{k} {job.elements.index(symbol) + 1}" + "".join(f"{value:20.12f}" for value in position))
    if periodic:
        vectors = [[0.0, 0.0, 0.0], *job.atoms.cell.array.tolist()]
        lines += ["".join(f"{value:20.12f}" for value in vector) for vector in vectors]
    return "\n".join(lines) + "\n"


def _kpoints(job: Job) -> str:
    rows = "\n".join("    " + " ".join(str(k if a == b else 0) for b in range(3)) for a, k in enumerate(job.kpoints))
    shift = " ".join("0.0" if k % 2 else "0.5" for k in job.kpoints)
    return f"  KPointsAndWeights = SupercellFolding {{\n{rows}\n    {shift}\n  }}\n"


def _driver(job: Job) -> str:
    dynamics = job.dynamics
    movable = [k + 1 for k in range(len(job.atoms)) if job.free[k].any()]
    moved = f"  MovedAtoms = {' '.join(map(str, movable)) if len(movable) < len(job.atoms) else '1:-1'}\n"
    if dynamics:
        if job.partly_held():
            raise StemAeError("DFTB+ cannot hold single coordinates in dynamics: hold whole atoms, or relax.")
        thermostat = (
            f"""NoseHoover {{
    Temperature [Kelvin] = {dynamics.temperature:g}
    CouplingStrength [cm^-1] = {33356.4 / dynamics.damping:.1f}
  }}"""
            if dynamics.thermostat
            else f"None {{ InitialTemperature [Kelvin] = {dynamics.temperature:g} }}"
        )
        return f"""Driver = VelocityVerlet {{
{moved}  Steps = {dynamics.steps}
  TimeStep [Femtosecond] = {dynamics.timestep:g}
  MDRestartFrequency = {dynamics.every}
  Thermostat = {thermostat}
}}"""
    assert isinstance(job.task, Relax)
    held = ""
    if job.partly_held():
        # One line per atom and direction: the force along it is projected out.
        unit = {"X": "1.0 0.0 0.0", "Y": "0.0 1.0 0.0", "Z": "0.0 0.0 1.0"}
        rows = [
            f"    {atom + 1} {unit[letter]}" for letters, atoms in job.partly_held().items() for atom in atoms
            for letter in letters
        ]  # fmt: skip
        held = "  Constraints = {\n" + "\n".join(rows) + "\n  }\n"
    cell = "  LatticeOpt = Yes\n" if job.task.cell else ""
    # The old name of the driver: it is the one that takes constraints along single directions.
    return f"""Driver = ConjugateGradient {{
{moved}{held}{cell}  MaxForceComponent = {job.task.fmax * _AU_PER_EV_ANGSTROM:.6e}
  MaxSteps = {job.task.max_steps}
  OutputPrefix = "geo_end"
}}"""
