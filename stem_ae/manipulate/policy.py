"""What to do next: policies.

A policy is any object with :attr:`Policy.sites` and :meth:`Policy.next`. It sees the specimen as it is known now and
what was tried, and names a site, asks for a new survey, or ends the run. It decides nothing about the beam.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae import checks
from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.manipulate.targets import shortest_path
from stem_ae.manipulate.verify import Verdict

FloatArray = NDArray[np.float64]

_SAME_SITE = 0.9
"""Å: an atom this close to a site is the site's (columns of MoS2 are 1.8 Å apart)."""


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """What is known.

    Parameters
    ----------
    atoms : Atoms2D
        The specimen, as last seen; positions in Å in the first survey, drift taken off.
    tried : sequence of (int, Verdict)
        Sites in the order in which they were tried, and how each was found afterwards; those that a pause has cut
        short are not among them.
    surveys : int
        How many there were.
    changed : bool
        Whether anything was tried since the last one.
    """

    atoms: Atoms2D
    tried: Sequence[tuple[int, Verdict]]
    surveys: int
    changed: bool

    def atom_at(self, position: ArrayLike) -> int | None:
        """Return the index of the atom at a position, or None if there is none."""
        if not len(self.atoms):
            return None
        distance = np.linalg.norm(self.atoms.positions - np.asarray(position, float), axis=1)
        nearest = int(np.argmin(distance))
        return nearest if distance[nearest] < _SAME_SITE else None

    def species_at(self, position: ArrayLike) -> str:
        """Return the class of the atom at a position; empty if there is none."""
        atom = self.atom_at(position)
        return "" if atom is None else self.atoms.symbols[atom]

    def tries(self, site: int) -> int:
        """Return how often a site was tried."""
        return sum(k == site for k, _ in self.tried)


class Do(enum.Enum):
    """What a policy can ask for besides a site."""

    SURVEY = "survey"
    END = "end"


class Policy(Protocol):
    """Decides.

    See :class:`OpenLoop`, :class:`ClosedLoop`, :class:`OneFromEach`, :class:`~stem_ae.manipulate.moves.MoveDopants`.
    """

    @property
    def sites(self) -> FloatArray:
        """``(K, 2)`` positions in Å in the first survey: where this policy may ever send the beam."""
        ...

    def next(self, view: View) -> int | Do:
        """Return the site to expose now (an index into ``sites``), or something else to do."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class OpenLoop:
    """Exposes each site once, in the order given.

    Parameters
    ----------
    sites : (K, 2) array
        Å in the first survey.
    """

    sites: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", checked_sites(self.sites))  # the dataclass is frozen

    def next(self, view: View) -> int | Do:
        """Return the first site that was not tried."""
        tried = {site for site, _ in view.tried}
        return next((k for k in range(len(self.sites)) if k not in tried), Do.END)


@dataclasses.dataclass(frozen=True, eq=False)
class ClosedLoop:
    """Works towards a structure: images, classifies and plans again until it stands.

    Parameters
    ----------
    sites : (K, 2) array
        Å in the first survey.
    wanted : sequence of str
        The class that each site is to have in the end; empty: no atom.
    ladder : sequence of str
        Classes in the order in which one becomes the next as atoms leave, such as ``("S2", "S1", "")``.
    tries : int
        How often one site is tried at most.
    surveys : int
        How many surveys there may be, the first one included.

    Raises
    ------
    StemAeError
        If there are no sites, one has no position or no wanted class, or the tries or surveys are zero.
    """

    sites: FloatArray
    wanted: tuple[str, ...]
    ladder: tuple[str, ...] = ("S2", "S1", "")
    tries: int = 4
    surveys: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", checked_sites(self.sites))  # the dataclass is frozen
        object.__setattr__(self, "wanted", tuple(self.wanted))
        if len(self.wanted) != len(self.sites):
            raise StemAeError(f"{len(self.sites)} sites but {len(self.wanted)} wanted classes: give one for each.")
        for name in ("tries", "surveys"):
            object.__setattr__(self, name, checks.whole(getattr(self, name), name))
        unknown = set(self.wanted) - set(self.ladder)
        if unknown:
            raise StemAeError(f"No ejection leads to {unknown.pop()!r}: choose from {', '.join(self.ladder[1:])}.")

    def next(self, view: View) -> int | Do:
        """Return the next site on the way, or a survey once there is none left, until a survey finds nothing to do."""
        to_do = [k for k in range(len(self.sites)) if self._lacks(k, view) and view.tries(k) < self.tries]
        if to_do:
            last = self.sites[view.tried[-1][0]] if view.tried else self.sites[0]
            fewest = min(view.tries(k) for k in to_do)  # those that resist are left for later
            now = [k for k in to_do if view.tries(k) == fewest]
            return now[int(shortest_path(self.sites[now], last)[0])]
        return Do.SURVEY if view.changed and view.surveys < self.surveys else Do.END

    def missing(self, view: View) -> list[int]:
        """Return the sites that are not as wanted."""
        return [k for k in range(len(self.sites)) if view.species_at(self.sites[k]) != self.wanted[k]]

    def _lacks(self, site: int, view: View) -> bool:
        """Return whether ejections can still bring this site to what is wanted."""
        now = view.species_at(self.sites[site])
        return now in self.ladder and self.ladder.index(now) < self.ladder.index(self.wanted[site])


@dataclasses.dataclass(eq=False)
class OneFromEach:
    """Takes one atom from each site, by a :class:`ClosedLoop` towards that: the first survey says what is there.

    Parameters
    ----------
    sites : (K, 2) array
        Å in the first survey.
    ladder : sequence of str
        Classes in the order in which one becomes the next as atoms leave.
    """

    sites: FloatArray
    ladder: tuple[str, ...] = ("S2", "S1", "")
    loop: ClosedLoop | None = dataclasses.field(default=None, init=False)

    def __post_init__(self) -> None:
        self.sites = checked_sites(self.sites)

    def next(self, view: View) -> int | Do:
        """Return the next site on the way; see :meth:`ClosedLoop.next`."""
        if self.loop is None:
            after = dict(itertools.pairwise(self.ladder))
            there = [view.species_at(site) for site in self.sites]
            self.loop = ClosedLoop(self.sites, tuple(after.get(name, name) for name in there), self.ladder)
        return self.loop.next(view)


def checked_sites(sites: ArrayLike) -> FloatArray:
    """Return positions as ``(K, 2)``.

    Raises
    ------
    StemAeError
        If there are none, or one is no position.
    """
    positions = checks.places(sites, "The targets")
    if not len(positions):
        raise StemAeError("There are no targets: choose some atoms.")
    return positions
