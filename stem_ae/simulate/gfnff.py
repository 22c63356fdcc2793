"""The force field GFN-FF through the program xtb, for sheets of thousands of atoms."""

from __future__ import annotations

import pathlib
import subprocess
from typing import Any

import ase
import ase.io
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.units import Bohr, Hartree

from stem_ae.errors import StemAeError


class GFNFF(Calculator):
    """Spicher, Grimme, Angew. Chem. Int. Ed. 59, 15665 (2020). Not periodic.

    The program determines the bonds once (half a minute for 2000 atoms) and keeps them in its folder; later calls, and
    a calculation that goes on after having been killed, find them there.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  (ASE's interface)

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def calculate(
        self, atoms: ase.Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        """Run the program on the atoms' positions."""
        super().calculate(atoms, properties or ["energy"], system_changes)  # type: ignore[no-untyped-call]
        assert self.atoms is not None
        if self.atoms.pbc.any():
            raise StemAeError("GFN-FF works on patches in vacuum only: choose cell='patch' or the engine gfn1.")
        # Its answer is rounded like its input: xyz files need more digits than the usual 8 for 1e-3 eV/Å.
        ase.io.write(self._folder / "now.xyz", self.atoms, format="xyz", fmt="%22.14f")
        for name in ("gradient", "energy"):
            (self._folder / name).unlink(missing_ok=True)
        done = subprocess.run(
            ["xtb", "now.xyz", "--gfnff", "--grad"], cwd=self._folder, capture_output=True, text=True, check=False
        )
        answer = self._folder / "gradient"
        if done.returncode or not answer.exists():
            raise StemAeError(f"xtb stopped: {_cause(done.stdout + done.stderr)}")
        n = len(self.atoms)
        lines = answer.read_text().splitlines()
        self.results["energy"] = float(lines[1].split("=")[2].split()[0]) * Hartree
        gradient = np.array([line.replace("D", "E").split() for line in lines[2 + n : 2 + 2 * n]], float)
        self.results["forces"] = -gradient * Hartree / Bohr


def _cause(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "-1-" in line or "error" in line.lower()]
    return lines[-1] if lines else "no reason given"
