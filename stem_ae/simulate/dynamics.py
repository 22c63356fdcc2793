"""Molecular dynamics at constant temperature, also of structures that are partly held."""

from __future__ import annotations

from typing import Any

from ase.md.nose_hoover_chain import NoseHooverChainNVT


class NoseHoover(NoseHooverChainNVT):
    """ASE's Nosé-Hoover chain, with forces that respect constraints.

    ASE's own gives held atoms momenta that they cannot follow, which its thermostat takes for heat.
    """

    def _get_forces(self) -> Any:
        self._update_atoms()
        return self.atoms.get_forces()
