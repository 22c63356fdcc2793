"""What the Simulate panel remembers, and what its words mean to the library."""

from __future__ import annotations

import dataclasses
import json

from .settings import Store, stored

KEY = "stem_ae/simulate_panel"

REGIONS = ("The rectangle on the image", "The whole frame")
CELLS = ("patch", "periodic")
CALIBRATIONS = ("scale", "affine", None)
SITES = ("top", "bridge", "hollow")
"""Where something is adsorbed; as in :data:`stem_ae.structure.edit.SITES`."""
FIXED = (None, "perimeter", "H", "xy")
CODES = {
    "vasp": "VASP", "espresso": "Quantum ESPRESSO", "gpaw": "GPAW", "cp2k": "CP2K", "dftb": "DFTB+", "lammps": "LAMMPS",
}  # fmt: skip
"""Engines elsewhere that input files are written for, as in :data:`stem_ae.simulate.inputs.CODES`, and their titles."""

RELAX, DYNAMICS, BOTH, ADSORPTION = range(4)
TASKS = ("Relax", "Molecular dynamics", "Relax, then molecular dynamics", "Adsorption energy")


@dataclasses.dataclass
class Settings:
    """The settings, with the values of a first start; numbers as the user types them, choices by their place."""

    region_index: int = 0
    cell_index: int = 0
    vacuum: str = "10"
    hydrogen: bool = True
    calibration_index: int = 0
    adsorb: str = ""
    """An element or a group above the sheet; nothing if empty."""
    site_index: int = 0
    task_index: int = 0
    engine: str = ""
    """Its name; the embedded one if empty."""
    fixed_index: int = 0
    fmax: str = "0.05"
    relax_cell: bool = False
    temperatures: str = "300"
    steps: str = "2000"
    variants: str = "0"
    """How many structures that the image allows as well are calculated too."""
    destination_index: int = 0
    """The queue, and then :data:`CODES`."""
    pseudopotentials: str = ""
    """Folder of the engine elsewhere."""

    @classmethod
    def load(cls, store: Store) -> Settings:
        """Return what was stored; values that this version does not understand are left at their first ones."""
        choices = {
            "region_index": len(REGIONS), "cell_index": len(CELLS), "calibration_index": len(CALIBRATIONS),
            "site_index": len(SITES), "task_index": len(TASKS), "fixed_index": len(FIXED),
            "destination_index": 1 + len(CODES),
        }  # fmt: skip
        return stored(cls(), store, KEY, {name: range(count) for name, count in choices.items()})

    def save(self, store: Store) -> None:
        """Store the settings."""
        store.set_persistent_string(KEY, json.dumps(dataclasses.asdict(self)))
