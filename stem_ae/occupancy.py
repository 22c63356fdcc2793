"""Crystals with partly occupied sites: as files state them, and with occupants drawn at random."""

from __future__ import annotations

import dataclasses
from typing import Any

import ase
import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SAME_SITE = 0.6
"""Å: of atoms that are closer only one can be there."""
_FULL = 1e-3
"""An occupancy may differ from 0 or 1 by so much and still be meant to be that."""
_MOST = 1.02
"""What the occupancies of a site may add up to, as files round them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Occupancy:
    """The possible occupants of each site.

    Parameters
    ----------
    atoms : ase.Atoms
        Every atom that may be there, also those that exclude one another; without those that never are.
    low, high : (N,) arrays
        An atom is there if the draw of its site, from 0 to 1, lies between: ``high - low`` is its occupancy.
    site : (N,) array
        Which site each belongs to, from 0.
    """

    atoms: ase.Atoms
    low: FloatArray
    high: FloatArray
    site: IntArray

    @property
    def partial(self) -> bool:
        """Whether any site is partly occupied."""
        return bool(np.any(self.high - self.low < 1 - _FULL))

    @property
    def partial_sites(self) -> str:
        """The sites that are not always held by the same atom, in words."""
        sites = []
        for number in range(int(self.site.max(initial=-1)) + 1):
            members = np.flatnonzero(self.site == number)
            shares = self.high[members] - self.low[members]
            if np.any(shares < 1 - _FULL):
                names = " ".join(
                    f"{self.atoms.symbols[int(k)]} {share:.3g}" for k, share in zip(members, shares, strict=True)
                )
                x, y, z = self.atoms.positions[members[0]]
                sites.append(f"{names} at ({x:.2f}, {y:.2f}, {z:.2f}) Å")
        return "; ".join(sites[:4]) + (f"; and {len(sites) - 4} more" if len(sites) > 4 else "")

    def drawn(self, copies: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return which atoms are present in each copy of the cell, ``(copies, N)``, with each site drawn by itself."""
        draw = rng.random((copies, int(self.site.max(initial=-1)) + 1))[:, self.site]
        result: NDArray[np.bool_] = (draw >= self.low) & (draw < self.high)
        return result

    def with_certainly(self, atom: int) -> Occupancy:
        """Return the same crystal in which one atom is always there."""
        low, high = self.low.copy(), self.high.copy()
        same = self.site == self.site[atom]
        low[same], high[same] = 2.0, 2.0
        low[atom], high[atom] = 0.0, 1.0
        return dataclasses.replace(self, low=low, high=high)


def occupancy(atoms: ase.Atoms) -> Occupancy:
    """Return the occupancies of a structure, from the notes of ASE's readers.

    That is ``info["occupancy"]`` of a CIF, or an array ``occupancies`` or ``occupancy``; without them every atom is
    there.

    Raises
    ------
    StemAeError
        If a site's occupancies are not between 0 and 1, or add up to more than 1.
    """
    try:
        every, shares = _every_atom(atoms)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise StemAeError("The occupancies of this structure cannot be read: correct or remove them.") from error
    if not np.all(np.isfinite(shares)) or np.any(shares < -_FULL) or np.any(shares > _MOST):
        wrong = int(np.argmax(~((shares >= -_FULL) & (shares <= _MOST))))
        raise StemAeError(
            f"The occupancy of {every.symbols[wrong]} (atom {wrong}) is {shares[wrong]:g}: it must be from 0 to 1."
        )
    shares = np.where(shares < _FULL, 0.0, np.where(shares > 1 - _FULL, 1.0, shares))
    every, shares = every[shares > 0], shares[shares > 0]
    if len(every) == 0:
        raise StemAeError("No site of this structure is occupied by anything.")
    site = _sites(every, shares)
    low = np.zeros(len(every))
    for number in np.unique(site[shares < 1]):
        members = np.flatnonzero(site == number)
        total = np.cumsum(shares[members])
        if total[-1] > _MOST:
            names = ", ".join(f"{every.symbols[int(k)]} {shares[k]:.3g}" for k in members)
            raise StemAeError(f"The occupancies of one site add up to {total[-1]:.3g} ({names}): give at most 1.")
        low[members] = total - shares[members]
    return Occupancy(every, low, low + shares, site)


def _every_atom(atoms: ase.Atoms) -> tuple[ase.Atoms, FloatArray]:
    """Return all atoms that a site may hold, and the occupancy of each."""
    for name in ("occupancies", "occupancy"):
        if atoms.has(name):
            return atoms, np.asarray(atoms.arrays[name], float).reshape(-1)
    stated: dict[str, Any] = atoms.info.get("occupancy") or {}
    kinds = atoms.arrays.get("spacegroup_kinds")
    if not stated or kinds is None:
        return atoms, np.ones(len(atoms))
    index, symbols, shares = [], [], []
    for k, kind in enumerate(kinds):
        holders = stated.get(str(kind)) or {atoms.symbols[k]: 1.0}
        index += [k] * len(holders)
        symbols += list(holders)
        shares += [float(share) for share in holders.values()]
    every = atoms[np.array(index, dtype=int)]
    every.symbols = symbols
    return every, np.array(shares)


def _sites(atoms: ase.Atoms, shares: FloatArray) -> IntArray:
    """Return the site of each atom: those that are only sometimes there share one where they exclude one another."""
    from ase.neighborlist import neighbor_list
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(atoms)
    if not np.any(shares < 1):
        return np.arange(n)
    sometimes = np.flatnonzero(shares < 1)
    first, second = neighbor_list("ij", atoms[sometimes], _SAME_SITE)
    links = coo_matrix((np.ones(len(first)), (sometimes[first], sometimes[second])), shape=(n, n))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)
