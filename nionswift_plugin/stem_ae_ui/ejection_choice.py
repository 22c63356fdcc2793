"""Which atoms the Eject panel is to work on: what clicks, zones and lists choose. No Swift here."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.manipulate import targets
from stem_ae.manipulate.aim import Track, common_shift, repeat_distance

FloatArray = NDArray[np.float64]

PICKS = ("Click atoms", "Row: click both ends", "Area: click its corners", "Pattern: click its first atom",
         "Keep out: click corners")  # fmt: skip
CLICK, ROW, AREA, PATTERN, ZONE = range(len(PICKS))
LADDERS = (("S2", "S1", ""), ("C", ""), ("Si", "C"))
"""What becomes of a column: atoms leave one by one; a carbon takes the place of a dopant that leaves graphene."""

_CLOSE = 0.9  # Å: a click this close to an atom means it; polygons end this close to their first corner
_SAME, _AGREE = 0.5, 0.7  # Å; the fraction of atoms that have to be this close to where they were, drift aside


class Choice:
    """The newest atoms, and the targets among them.

    Positions are in Å of the newest image. What cannot be done raises :class:`StemAeError`.
    """

    def __init__(self) -> None:
        self.atoms = Atoms2D.empty(("",), (1, 1), 1.0)
        self.sites: FloatArray = np.zeros((0, 2))
        """Targets in order, ``(K, 2)``."""
        self.zones: list[FloatArray] = []
        """Corners of each forbidden zone."""
        self.drawn: list[FloatArray] = []
        """Corners of what is being drawn."""
        self.species = ""
        """Class that rows, areas and patterns are made of."""
        self.pick = CLICK
        """How clicks choose, as a place in ``PICKS``."""
        self.every = "1"
        self.track = Track()
        """The specimen's drift, as the frames have shown it."""
        self._repeat = 0.0
        self._shift = self._ahead = np.zeros(2)  # since tracking began; beyond the last frame

    # --- following the specimen -------------------------------------------------------------------------------------

    def follow(self, atoms: Atoms2D, time_s: float) -> bool:
        """Take newer atoms up, with the targets on their columns, and return whether it could be done.

        Another field, or a dark frame, is not taken up as long as there are targets.

        Parameters
        ----------
        atoms : Atoms2D
            What was found in the newest image.
        time_s : float
            When that was taken, in seconds since 1970.
        """
        before = self.atoms
        same_field = atoms.shape == before.shape and np.allclose(atoms.sampling, before.sampling, rtol=0.01)
        shift = self._shift_of(atoms, time_s) if same_field else None
        if shift is None and len(self.sites):
            return False
        self.atoms = atoms
        if shift is None or self.is_lost(time_s):
            self._track_anew(time_s)
        else:
            self._shift = self._shift + shift
            self.track.add(time_s, self._shift)
        if shift is not None:
            self._move(shift - self._ahead)
            self._ahead = np.zeros(2)
            self.sites = np.array([self.snapped(site) for site in self.sites]).reshape(-1, 2)
        return True

    def _track_anew(self, time_s: float) -> None:
        self.track, self._shift = Track(), np.zeros(2)
        self.track.add(time_s, self._shift)
        self._repeat = repeat_distance(self.atoms) if len(self.atoms) else 0.0

    def _shift_of(self, atoms: Atoms2D, time_s: float) -> FloatArray | None:
        """Return how far the specimen has moved since the last frame; None if the two do not show the same atoms."""
        before = self.atoms.positions
        if not len(atoms) or not len(before):
            return None
        unseen_s = 0.0 if self.is_lost(time_s) else time_s - self.track.now.time_s
        expected = self.track.now.velocity * unseen_s
        shift: FloatArray = expected + common_shift(atoms.positions - expected, before, self._repeat / 2)
        distance, _ = cKDTree(atoms.positions).query(before + shift)
        return shift if np.mean(distance < _SAME) > _AGREE else None

    def is_lost(self, time_s: float) -> bool:
        """Return whether the specimen may have moved to the next column since the last frame."""
        return time_s - self.track.now.time_s > self.track.lost_after_s(self._repeat)

    def expect(self, time_s: float) -> None:
        """Move the targets to where they are by now, as far as the drift is known."""
        ahead = self.track.now.velocity * (time_s - self.track.now.time_s)
        self._move(ahead - self._ahead)
        self._ahead = ahead

    def _move(self, shift: FloatArray) -> None:
        self.sites = self.sites + shift
        self.zones = [zone + shift for zone in self.zones]

    # --- choosing ---------------------------------------------------------------------------------------------------

    @property
    def species_names(self) -> list[str]:
        """Classes that something can be done to."""
        return [name for name in self.atoms.species if any(name in ladder[:-1] for ladder in LADDERS)]

    @property
    def ladder(self) -> tuple[str, ...]:
        """What becomes of the chosen class."""
        ladder = next((ladder for ladder in LADDERS if self.species in ladder[:-1]), None)
        if ladder is None:
            raise StemAeError("No class that atoms can be ejected from was found: choose another model.")
        return ladder

    def candidates(self) -> NDArray[np.int64]:
        """Return all atoms of the chosen class."""
        if not len(self.atoms):
            raise StemAeError("There are no atoms yet: press Start in the Atoms panel.")
        assert self.ladder
        return targets.of_class(self.atoms, self.species)

    def click(self, x: float, y: float) -> str:
        """Choose at a place in Å, as :attr:`pick` says, and return what there is to say."""
        point = np.array([x, y])
        if self.pick == CLICK:
            return self._toggle(point)
        if self.pick == PATTERN:
            origin = self._atom_at(point)
            lattice = targets.of_class(self.atoms, [name for name in self.ladder if name in self.atoms.species])
            return self.add(targets.lattice_pattern(self.atoms, self.candidates(), origin, self._period(), lattice))
        if self.pick == ROW and self.drawn:
            start, self.drawn = self.drawn[0], []
            return self.add(
                targets.along_line(self.atoms, self.candidates(), start, point, every=self._period()[0])
            )
        if len(self.drawn) > 2 and np.linalg.norm(point - self.drawn[0]) < 2 * _CLOSE:
            return self._end_polygon()
        self.drawn.append(point)
        more = "its other end" if self.pick == ROW else "the next corner; the first one again to end"
        return f"Now click {more}."

    def _end_polygon(self) -> str:
        corners, self.drawn = np.array(self.drawn), []
        if self.pick == ZONE:
            self.zones.append(corners)
            return self._set_sites(self.sites)
        return self.add(targets.of_class(self.atoms, self.species, corners))

    def _toggle(self, point: FloatArray) -> str:
        position = self.atoms.positions[self._atom_at(point)]
        away = np.linalg.norm(self.sites - position, axis=1)
        if np.any(away < _CLOSE):
            return self._set_sites(self.sites[away >= _CLOSE])
        return self._set_sites(np.vstack([self.sites, position]))

    def _atom_at(self, point: FloatArray) -> int:
        candidates = self.candidates()
        away = np.linalg.norm(self.atoms.positions[candidates] - point, axis=1)
        if away.min() > _CLOSE:
            raise StemAeError(f"There is no {self.species} here: click on one.")
        return int(candidates[away.argmin()])

    def _period(self) -> tuple[int, int]:
        numbers = [int(number) for number in re.findall(r"\d+", self.every)]
        if not numbers or min(numbers) < 1:
            raise StemAeError("“Every” is to be a number such as 2, or two such as 3 x 2.")
        return numbers[0], numbers[-1]

    def read(self, path: str) -> str:
        """Choose the atoms that a list names."""
        self.candidates()
        positions = [self.snapped(position, strict=True) for position in targets.read_positions(path)]
        return self._set_sites(np.vstack([self.sites, positions]))

    def clear(self) -> None:
        """Choose none, and forbid nothing."""
        self.zones, self.drawn, self.sites = [], [], np.zeros((0, 2))

    def add(self, chosen: NDArray[np.int64]) -> str:
        """Choose more atoms, given by their indices."""
        new = self.atoms.positions[chosen]
        if len(self.sites):
            new = new[np.linalg.norm(new[:, None] - self.sites, axis=2).min(axis=1) > _CLOSE]
        return self._set_sites(np.vstack([self.sites, new]))

    def _set_sites(self, sites: FloatArray) -> str:
        """Take these as the targets, without those in forbidden zones, in the shortest order."""
        index = np.array([self.nearest(site) for site in sites], np.int64)
        kept = sites[np.isin(index, targets.outside(self.atoms, index, self.zones))] if len(index) else sites
        self.sites = kept[targets.shortest_path(kept)] if len(kept) else kept
        left_out = len(sites) - len(kept)
        return f"{left_out} in forbidden zones left out." if left_out else ""

    # --- atoms at places --------------------------------------------------------------------------------------------

    def nearest(self, position: FloatArray) -> int:
        """Return the atom that is nearest to a position."""
        return int(np.argmin(np.linalg.norm(self.atoms.positions - position, axis=1)))

    def species_at(self, position: FloatArray) -> str:
        """Return the class of the atom nearest to a position."""
        return self.atoms.symbols[self.nearest(position)] if len(self.atoms) else ""

    def snapped(self, position: FloatArray, strict: bool = False) -> FloatArray:
        """Return the position of the atom that is meant; the position itself if there is none, unless ``strict``."""
        found: FloatArray = self.atoms.positions[self.nearest(position)]
        if np.linalg.norm(found - position) < _CLOSE:
            return found
        if strict:
            raise StemAeError(f"There is no atom at ({position[0]:.1f}, {position[1]:.1f}) Å: check the list.")
        return position
