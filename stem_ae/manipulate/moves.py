"""Dopants in a sheet moved site by site: the beam rests on the neighbour that a dopant is to change places with.

An electron that hits a carbon beside a silicon in graphene makes the two exchange places now and then (Susi et al., PRL
113 (2014) 115501): the dopant comes to the beam, and the signal under it rises.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from stem_ae import checks
from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.manipulate.columns import Evidence
from stem_ae.manipulate.exposure import Outcome
from stem_ae.manipulate.policy import Do, View, checked_sites
from stem_ae.manipulate.verify import BOND, CLEAR, Change, Verdict

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_PRIOR = {Outcome.STEP: (0.02, 0.95), Outcome.ABNORMAL: (0.4, 0.4)}  # chance that it stayed, that it came to the beam
_NO_STEP = (0.9, 0.05)


def dopant_beside(atoms: Atoms2D, target: int, dopant: str) -> int:
    """Return the dopant that is next to an atom.

    Raises
    ------
    StemAeError
        If there is none, or more than one.
    """
    near = _neighbours(atoms, target)
    found = [k for k in near if atoms.symbols[k] == dopant]
    if len(found) != 1:
        raise StemAeError(
            f"There {'is no' if not found else 'is more than one'} {dopant} next to the target: choose a neighbour of "
            "exactly one."
        )
    return int(found[0])


def exchanged(atoms: Atoms2D, one: int, other: int) -> Atoms2D:
    """Return the map with two atoms having changed places."""
    order = np.arange(len(atoms))
    order[[one, other]] = other, one
    return dataclasses.replace(
        atoms, labels=atoms.labels[order], probabilities=atoms.probabilities[order], intensity=atoms.intensity[order]
    )


def _neighbours(atoms: Atoms2D, atom: int) -> IntArray:
    away = np.linalg.norm(atoms.positions - atoms.positions[atom], axis=1)
    near: IntArray = np.flatnonzero((away < BOND) & (away > 0))
    return near


def _occupants(view: View, sites: FloatArray) -> NDArray[np.str_]:
    """Return the class of the atom at each site; empty where there is none."""
    distance, nearest = cKDTree(view.atoms.positions).query(sites)
    return np.where(distance < BOND / 2, np.array([*view.atoms.symbols, ""])[nearest], "")


class MoveVerification:
    """Says where a dopant is after an exposure that was to move it: Bayes' rule over its places.

    Parameters
    ----------
    atoms : Atoms2D
        The specimen before the exposure.
    target : int
        The atom that was exposed, next to the dopant.
    outcome : Outcome
        What the exposure's signal said.
    dopant : str
        Class of the dopant.
    """

    def __init__(self, atoms: Atoms2D, target: int, outcome: Outcome, dopant: str) -> None:
        self._atoms, self._dopant, self._host = atoms, dopant, atoms.symbols[target]
        start = dopant_beside(atoms, target, dopant)
        others = [int(k) for k in _neighbours(atoms, start) if k != target]
        self._places = [start, target, *others]
        """Where the dopant may be: where it was, at the target, at another neighbour. The last chance: it is gone."""
        stayed, moved = _PRIOR.get(outcome, _NO_STEP)
        rest = (1 - stayed - moved) / (len(others) + 1)
        self._prior = self._odds = np.log([stayed, moved, *[rest] * len(others), rest])
        self._is_judged = False

    def look(self, evidence: Evidence) -> None:
        """Take in what all images since the exposure say."""
        if not evidence.seen[self._places].all():
            return
        as_host, as_dopant = evidence.log_likelihood((self._host, self._dopant))[self._places].T
        self._odds = self._prior + np.append(as_dopant - as_host, 0.0)
        self._is_judged = True

    @property
    def _chances(self) -> FloatArray:
        weight = np.exp(self._odds - self._odds.max())
        chances: FloatArray = weight / weight.sum()
        return chances

    @property
    def is_clear(self) -> bool:
        """Whether another image would not help."""
        return self._is_judged and bool(self._chances.max() >= CLEAR)

    @property
    def verdict(self) -> Verdict:
        """What has become of the dopant."""
        if not self.is_clear:
            return Verdict.UNCLEAR
        place = int(self._chances.argmax())
        if place == len(self._places):
            return Verdict.GONE
        return (Verdict.NONE, Verdict.MOVED)[place] if place < 2 else Verdict.ASTRAY

    def bystanders(self) -> list[Change]:
        """Return the other columns that have changed: the place where the dopant went instead."""
        if self.verdict is not Verdict.ASTRAY:
            return []
        place = int(self._chances.argmax())
        x, y = self._atoms.positions[self._places[place]]
        return [Change((float(x), float(y)), self._host, self._dopant, float(self._chances[place]))]

    def updated(self) -> Atoms2D:
        """Return the map of the specimen with what has changed."""
        if not self.is_clear or self.verdict is Verdict.NONE:
            return self._atoms
        start, place = self._places[0], int(self._chances.argmax())
        if place < len(self._places):
            return exchanged(self._atoms, start, self._places[place])
        labels, probabilities = self._atoms.labels.copy(), self._atoms.probabilities.copy()
        labels[start] = self._atoms.species.index(self._host)
        probabilities[start] = np.eye(len(self._atoms.species))[labels[start]]
        return dataclasses.replace(self._atoms, labels=labels, probabilities=probabilities)


class MoveDopants:
    """Brings a dopant to each goal, site by site; plans anew after each exposure.

    Dopants of a class are all alike: those with the shortest way go, around the others, each step onto the next site of
    its way. Sites beside another dopant are not shone on, as that one might move as well.

    Parameters
    ----------
    sites : (N, 2) array
        The lattice: all atoms in the first survey that the beam may be sent to, in Å.
    goals : (K, 2) array
        Where there are to be dopants, in Å in the first survey; each is one of the sites.
    keep : (M, 2) array, optional
        Dopants that are to stay where they are.
    dopant, host : str
        Classes.
    exposures, surveys : int
        How many there may be.

    Raises
    ------
    StemAeError
        If a goal is no site, or is given twice.
    """

    def __init__(
        self,
        sites: ArrayLike,
        goals: ArrayLike,
        keep: ArrayLike = (),
        dopant: str = "Si",
        host: str = "C",
        exposures: int = 100,
        surveys: int = 10,
    ) -> None:
        self.sites, self._dopant, self._host = checked_sites(sites), dopant, host
        self._exposures, self._surveys = checks.whole(exposures, "exposures"), checks.whole(surveys, "surveys")
        self.serving = 0
        """The goal that the last exposure was for."""
        tree = cKDTree(self.sites)
        distance, self._goals = tree.query(checked_sites(goals))
        if distance.max() > BOND / 2 or len(np.unique(self._goals)) < len(self._goals):
            raise StemAeError("A goal is no site of the lattice, or is given twice: click on an atom for each.")
        self._kept = np.zeros(len(self.sites), bool)
        self._kept[tree.query(np.asarray(keep, float).reshape(-1, 2))[1]] = True
        pairs = tree.query_pairs(BOND, output_type="ndarray")
        ends = np.concatenate([pairs, pairs[:, ::-1]]).T
        self._links = csr_array((np.ones(len(ends[0])), ends), shape=(len(self.sites),) * 2)

    def next(self, view: View) -> int | Do:
        """Return the site that the next dopant is to step on, or a survey when in doubt and at the end."""
        may_look = view.changed and view.surveys < self._surveys
        if may_look and view.tried and view.tried[-1][1] is Verdict.UNCLEAR:
            return Do.SURVEY
        ways = {goal: way for goal, way in self.ways(view).items() if len(way) > 1}
        if not ways or len(view.tried) >= self._exposures:
            return Do.SURVEY if may_look else Do.END
        self.serving = min(ways, key=lambda goal: len(ways[goal]))
        return ways[self.serving][1]

    def missing(self, view: View) -> list[int]:
        """Return the goals that have no dopant."""
        return [k for k, goal in enumerate(self._goals) if view.species_at(self.sites[goal]) != self._dopant]

    def is_goal(self, site: int) -> bool:
        """Return whether a site is a goal."""
        return site in self._goals

    def ways(self, view: View) -> dict[int, list[int]]:
        """Return the way of a dopant to each goal that one can reach: sites, from the dopant's own to the goal's."""
        species = _occupants(view, self.sites)
        movers = np.flatnonzero((species == self._dopant) & ~self._kept)
        if not len(movers):
            return {}
        found = [self._ways_from(mover, species) for mover in movers.tolist()]
        steps = np.array([[len(way) if way else 10 * len(self.sites) for way in ways] for ways in found])
        pairs = zip(*linear_sum_assignment(steps), strict=True)
        return {int(goal): found[mover][goal] for mover, goal in pairs if found[mover][goal]}

    def _ways_from(self, mover: int, species: NDArray[np.str_]) -> list[list[int]]:
        """Return a dopant's shortest way to each goal; an empty one if there is none."""
        other = species == self._dopant
        other[mover] = False
        free = (species == self._host) & (self._links @ other.astype(float) == 0)
        free[mover] = True
        allowed = (self._links * free[:, None] * free[None, :]).tocsr()
        allowed.eliminate_zeros()  # they would count as ways
        _, before = dijkstra(allowed, indices=mover, unweighted=True, return_predecessors=True)
        ways = []
        for goal in self._goals.tolist():
            way = [goal]
            while way[-1] != mover and before[way[-1]] >= 0:
                way.append(int(before[way[-1]]))
            ways.append(way[::-1] if way[-1] == mover else [])
        return ways


class RemoveDopants:
    """Shines on dopants until host atoms have taken their places, and goes after those that jump to a neighbour.

    Parameters
    ----------
    sites : (N, 2) array
        The lattice: all atoms in the first survey that the beam may be sent to, in Å.
    dopants : (K, 2) array
        Those to remove, in Å in the first survey; each is one of the sites.
    dopant : str
        Their class.
    tries : int
        How often the beam is sent to each at most.
    surveys : int
        How many there may be, the first one included.

    Raises
    ------
    StemAeError
        If a dopant is at no site, or is given twice.
    """

    def __init__(
        self, sites: ArrayLike, dopants: ArrayLike, dopant: str = "Si", tries: int = 20, surveys: int = 10
    ) -> None:
        self.sites, self._dopant = checked_sites(sites), dopant
        self._tries, self._surveys = checks.whole(tries, "tries"), checks.whole(surveys, "surveys")
        tree = cKDTree(self.sites)
        distance, places = tree.query(checked_sites(dopants))
        if distance.max() > BOND / 2 or len(np.unique(places)) < len(places):
            raise StemAeError("A dopant is at no site of the lattice, or is given twice: click on an atom for each.")
        self._neighbours: list[list[int]] = tree.query_ball_point(self.sites, BOND)
        self._places: list[int] = places.tolist()
        self._left = [tries] * len(places)
        self._before: NDArray[np.bool_] | None = None
        self.serving = 0
        """Which of the dopants the last exposure was for."""

    def next(self, view: View) -> int | Do:
        """Return the place of a dopant that is still there, or a survey at the end."""
        occupied = _occupants(view, self.sites) == self._dopant
        if self._before is not None:
            self._places = [self._followed(place, occupied & ~self._before, occupied) for place in self._places]
        self._before = occupied
        there = [k for k, place in enumerate(self._places) if occupied[place] and self._left[k]]
        if not there:
            return Do.SURVEY if view.changed and view.surveys < self._surveys else Do.END
        self.serving = max(there, key=lambda k: self._left[k])
        self._left[self.serving] -= 1
        return self._places[self.serving]

    def _followed(self, place: int, new: NDArray[np.bool_], occupied: NDArray[np.bool_]) -> int:
        """Return where the dopant of a place is now: at a neighbour that had none, if it has left."""
        if occupied[place]:
            return place
        return next((k for k in self._neighbours[place] if new[k]), place)

    def missing(self, view: View) -> list[int]:
        """Return the dopants that are still there."""
        return [k for k, place in enumerate(self._places) if view.species_at(self.sites[place]) == self._dopant]
