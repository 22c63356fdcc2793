"""Small changes to a structure: ad-atoms, CHx groups, vacancies."""

from __future__ import annotations

from typing import Literal, get_args

import ase
import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from ase.geometry import get_distances
from numpy.typing import NDArray

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.structure.bonding import bonded
from stem_ae.structure.possible import refuse_nowhere
from stem_ae.structure.rings import covered, in_sheet, rings

FloatArray = NDArray[np.float64]
Site = Literal["top", "bridge", "hollow"]
Group = Literal["CH", "CH2", "CH3"]

SITES: tuple[Site, ...] = get_args(Site)
GROUPS: tuple[Group, ...] = get_args(Group)

_CH_BOND = 1.09
_VACUUM_ABOVE = 10.0
"""Å that a patch in vacuum keeps above what was added."""
_HIGHEST = 100.0
"""Å."""
_FAR = 5.0
"""Å from the nearest site, beyond which a place is not on the sheet."""
_CLOSEST = 1.0
"""Å above the sheet, for an atom that would fall through."""
_TETRAHEDRAL = np.arccos(-1 / 3)


def sites(atoms: ase.Atoms, kind: Site) -> FloatArray:
    """Return the adsorption sites of a sheet, ``(K, 3)`` in Å, in its plane: on atoms, on bonds, or in rings' centres.

    Raises
    ------
    StemAeError
        If ``kind`` is not one of the three.
    """
    if kind == "top":
        return np.array(atoms.positions[in_sheet(atoms) & ~covered(atoms)])
    if kind == "bridge":
        first, second, vectors = bonded(atoms)
        inside = in_sheet(atoms)
        once = (first < second) & inside[first] & inside[second]
        return np.array(atoms.positions[first[once]] + vectors[once] / 2)
    if kind == "hollow":
        centres = []
        for ring in rings(atoms):
            to_others = atoms.get_distances(ring.atoms[0], list(ring.atoms), mic=True, vector=True)
            centres.append(atoms.positions[ring.atoms[0]] + to_others.mean(axis=0))
        return np.array(centres).reshape(-1, 3)
    raise StemAeError(f"The site {kind!r} is not known: choose top, bridge or hollow.")


def add_adatom(
    atoms: ase.Atoms, element: str, site: Site, *, near: tuple[float, float] | None = None, height: float | None = None
) -> ase.Atoms:
    """Return a copy with one atom above the sheet.

    Parameters
    ----------
    atoms : ase.Atoms
        The sheet, about normal to z.
    element : str
        Such as ``"Cr"``.
    site : {"top", "bridge", "hollow"}
        Kind of site.
    near : (float, float), optional
        The site nearest to this x, y (Å, the structure's frame); the middle of the sheet by default.
    height : float, optional
        Å above the site; by default where it touches the sheet, by the covalent radii.

    Raises
    ------
    StemAeError
        If the element or the site does not exist.
    """
    if element not in chemical_symbols[1:]:
        raise StemAeError(f"{element!r} is not an element: give its symbol, such as Cr.")
    if height is not None:
        checks.number(height, "The height of an ad-atom", -_HIGHEST, _HIGHEST, "Å")
    if near is not None:
        near = checks.place(near, "The place of an ad-atom")
    if not len(atoms):
        raise StemAeError("There are no atoms to add one to: build a structure first.")
    refuse_nowhere(atoms)
    places = sites(atoms, site)
    if len(places) == 0:
        raise StemAeError(f"The structure has no {site} site.")
    target = np.asarray(near if near is not None else atoms.positions[:, :2].mean(axis=0))
    away = np.linalg.norm(places[:, :2] - target, axis=1)
    if near is not None and away.min() > _FAR:
        raise StemAeError(
            f"The nearest {site} site is {away.min():.3g} Å from the place of an ad-atom: choose one on the structure."
        )
    place = places[away.argmin()]
    if height is None:
        height = _resting(atoms, element, place) - float(place[2])
    return _with(atoms, ase.Atoms([element], [place + np.array([0, 0, height])]))


def _resting(atoms: ase.Atoms, element: str, place: FloatArray) -> float:
    """Return the z at which an atom that comes down over a place is a bond's length from the first atom it meets."""
    way, _ = get_distances(place, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    aside = np.hypot(way[0, :, 0], way[0, :, 1])
    bond = covalent_radii[atomic_numbers[element]] + covalent_radii[atoms.numbers]
    met = aside < bond
    z = place[2] + way[0, met, 2] + np.sqrt(bond[met] ** 2 - aside[met] ** 2)
    return float(max([*z, place[2] + _CLOSEST]))


def add_group(
    atoms: ase.Atoms, group: Group, site: Site = "top", *, near: tuple[float, float] | None = None
) -> ase.Atoms:
    """Return a copy with a CH, CH2 or CH3 group above the sheet, its carbon on the site as an ad-atom.

    Raises
    ------
    StemAeError
        If the group or the site does not exist.
    """
    if group not in GROUPS:
        raise StemAeError(f"The group {group!r} is not known: choose CH, CH2 or CH3.")
    count = 1 if group == "CH" else int(group[2])
    with_carbon = add_adatom(atoms, "C", site, near=near)
    carbon = with_carbon.positions[-1]
    tilt = np.pi - _TETRAHEDRAL if count > 1 else 0.0
    turns = 2 * np.pi * np.arange(count) / count
    directions = np.column_stack(
        [np.sin(tilt) * np.cos(turns), np.sin(tilt) * np.sin(turns), np.full(count, np.cos(tilt))]
    )
    return _with(with_carbon, ase.Atoms(["H"] * count, carbon + _CH_BOND * directions))


def adsorb(atoms: ase.Atoms, what: str, site: Site, *, near: tuple[float, float] | None = None) -> ase.Atoms:
    """Return a copy with an ad-atom or a group above the sheet: ``"Cr"``, ``"H"``, ``"CH3"``.

    Raises
    ------
    StemAeError
        If it is neither an element nor a known group, or the site does not exist.
    """
    if what in GROUPS:
        return add_group(atoms, what, site, near=near)
    if what not in chemical_symbols[1:]:
        raise StemAeError(f"{what!r} cannot be adsorbed: give an element, such as Cr, or one of {', '.join(GROUPS)}.")
    return add_adatom(atoms, what, site, near=near)


def add_vacancy(atoms: ase.Atoms, *indices: int) -> ase.Atoms:
    """Return a copy without these atoms.

    Raises
    ------
    StemAeError
        If one does not exist.
    """
    wrong = [k for k in indices if not (0 <= k < len(atoms) and k == int(k))]
    if wrong:
        raise StemAeError(f"There is no atom {wrong[0]}: the structure has {len(atoms)} atoms, counted from 0.")
    result: ase.Atoms = atoms.copy()
    del result[[int(k) for k in indices]]
    return result


def _with(atoms: ase.Atoms, added: ase.Atoms) -> ase.Atoms:
    """Return both, the added atoms marked as ``adsorbate``; what the image says about atoms stays empty for them."""
    result: ase.Atoms = atoms.copy()
    result += added
    marked = atoms.arrays.get("adsorbate", np.zeros(len(atoms), bool))
    result.set_array("adsorbate", np.concatenate([marked, np.ones(len(added), bool)]))
    if result.has("image_atom"):
        result.arrays["image_atom"][-len(added) :] = -1
        result.arrays["image_position"][-len(added) :] = added.positions
        result.arrays["probability"][-len(added) :] = 1.0
    if not result.pbc.any() and result.cell.rank == 3:
        result.cell[2, 2] = max(result.cell[2, 2], result.positions[:, 2].max() + _VACUUM_ABOVE)
    return result
