"""What a column in the image stands for: its atoms along the beam, and how far its neighbours should be."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence

import ase.data

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.files import existing_file, read_text
from stem_ae.structure.possible import COINCIDENT

COVALENCE = {"B": 3, "C": 3, "N": 3, "Si": 3}
"""Bonds of an atom inside a sheet; fewer at an edge are made up with hydrogen."""


@dataclasses.dataclass(frozen=True)
class Material:
    """A template that turns projected columns into atoms.

    Parameters
    ----------
    name : str
        What a person calls it.
    columns : mapping
        For each class of column the atoms in it, as ``(element, height)``; height in Å towards the electron source.
    spacing : float
        Projected distance of nearest columns in Å, of the undisturbed material: the known constant that the image's
        scale is calibrated against.
    period : float or None
        Repeat along the beam in Å, for crystals; ``None`` for sheets.
    """

    name: str
    columns: Mapping[str, tuple[tuple[str, float], ...]]
    spacing: float
    period: float | None = None

    def __post_init__(self) -> None:
        checks.positive(self.spacing, "The spacing of a material's columns", 100, "Å")
        if self.period is not None:
            checks.positive(self.period, "A material's period along the beam", 1000, "Å")
        if not self.columns:
            raise StemAeError("A material has no columns: say which atoms each class of column stands for.")
        for name, column in self.columns.items():
            for element, height in column:
                if element not in ase.data.chemical_symbols[1:]:
                    raise StemAeError(f"The column {name} of a material holds {element!r}, which is no element.")
                checks.number(height, f"The height of {element} in the column {name}", -1000, 1000, "Å")
            if not column:
                raise StemAeError(f"The column {name} of a material holds no atoms.")
            heights = sorted(height for _, height in column)
            if any(above - below < COINCIDENT for below, above in itertools.pairwise(heights)):
                raise StemAeError(f"The column {name} of a material holds two atoms in one place.")

    @classmethod
    def read(cls, path: str | pathlib.Path) -> Material:
        """Read a template from a JSON file, such as ``{"name": "BN", "columns": {"B": [["B", 0]]}, "spacing": 1.45}``.

        Raises
        ------
        StemAeError
            If the file does not hold one.
        """
        path = existing_file(path)
        try:
            content = json.loads(read_text(path))
            columns = {
                str(name): tuple((str(element), float(height)) for element, height in column)
                for name, column in content.pop("columns").items()
            }
            material = cls(columns=columns, **content)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise StemAeError(
                f"{path.name} is not the template of a material ({error}): it has to give its name, its columns as "
                "lists of element and height in Å, and its spacing in Å."
            ) from error
        return material

    def atoms_of(self, column: str) -> tuple[tuple[str, float], ...]:
        """Return the atoms of one class of column.

        Raises
        ------
        StemAeError
            If the class is neither in the template nor the name of an element.
        """
        if column in self.columns:
            return self.columns[column]
        if column in ase.data.atomic_numbers and column != "X":
            return ((column, 0.0),)
        raise StemAeError(
            f"The class {column!r} is not a column of {self.name} nor an element: pass a Material that says which "
            "atoms it stands for."
        )


GRAPHENE = Material("graphene", {"C": (("C", 0.0),), "Si": (("Si", 0.0),)}, spacing=1.42)

# a = 3.16 Å, so the projected Mo-S distance is a / sqrt(3). Knock-on damage takes the sulphur where the beam leaves the
# sheet, hence the one that stays in S1 is on the source's side (Komsa et al., Phys. Rev. Lett. 109, 035503 (2012)).
MOS2 = Material(
    "MoS2",
    {"Mo": (("Mo", 0.0),), "S2": (("S", 1.56), ("S", -1.56)), "S1": (("S", 1.56),)},
    spacing=1.824,
)

# Perovskite along [001], a = 3.905 Å: Sr and O share no column, Ti and O do. Pure oxygen columns, which ADF images do
# not show, are not made up.
SRTIO3 = Material(
    "SrTiO3 [001]", {"Sr": (("Sr", 0.0),), "Ti": (("Ti", 1.9525), ("O", 0.0))}, spacing=2.761, period=3.905
)

MATERIALS = (GRAPHENE, MOS2, SRTIO3)


def material_for(species: Sequence[str]) -> Material:
    """Return the first known material that has all of these classes.

    Raises
    ------
    StemAeError
        If there is none.
    """
    for material in MATERIALS:
        if set(species) <= set(material.columns):
            return material
    graphene_like = {re.sub(r"\d+$", "", name) for name in species} <= set(ase.data.chemical_symbols[1:])
    if graphene_like and "C" in species:
        return GRAPHENE
    raise StemAeError(
        f"No known material has the classes {', '.join(species)}: pass a Material with its columns and their spacing."
    )
