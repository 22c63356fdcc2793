"""CP2K: how it treats the electrons, in its input files as well as in its shell."""

from __future__ import annotations

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
