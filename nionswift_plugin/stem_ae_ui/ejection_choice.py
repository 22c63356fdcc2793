"""Which atoms the Eject panel is to work on: what clicks, zones and lists choose. No Swift here."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.manipulate import targets
from stem_ae.manipulate.aim import Track, common_shift, repeat_distance
from stem_ae.manipulate.ledger import Spent
from stem_ae.manipulate.relocate import relocated
from stem_ae.structure.region import in_polygon

from .ejection_fates import Fate, Plan

FloatArray = NDArray[np.float64]

PICKS = ("Click atoms", "Row: click both ends", "Area: click its corners", "Pattern: click its first atom",
         "Keep out: click corners")  # fmt: skip
CLICK, ROW, AREA, PATTERN, ZONE = range(len(PICKS))
LADDERS = (("S2", "S1", ""), ("C", ""), ("Si", "C"))
"""What becomes of a column: atoms leave one by one; a carbon takes the place of a dopant that leaves graphene."""

SAME_ATOM = 0.9
"""Å: an atom this close to a place is the one that is meant; polygons end twice as close to their first corner."""
_SAME, _AGREE = 0.5, 0.7  # Å; the fraction of atoms that have to be this close to where they were, drift aside
_WANDERED = 20.0  # Å: largest drift considered since an earlier run
_UNSTEADY = 0.02  # Å/s: how much the drift's velocity may have changed since it was measured


class Choice:
    """The newest atoms, and the targets among them.

    Positions are in Å of the newest image. What cannot be done raises :class:`StemAeError`.
    """

    def __init__(self) -> None:
        self.atoms = Atoms2D.empty(("",), (1, 1), 1.0)
        self.sites: FloatArray = np.zeros((0, 2))
        """Targets in order, ``(K, 2)``."""
        self.fates: list[Fate] = []
        """What has become of each target."""
        self.elsewhere = ""
        """Why the targets are not in the newest image; empty if they are in it."""
        self.doubt = ""
        """Why the targets may be on wrong atoms; a person has to check, see :meth:`confirm`."""
        self.zones: list[FloatArray] = []
        """Corners of each forbidden zone."""
        self.spent = Spent()
        """The dose of the specimen in the runs on these targets, moved to where the specimen is now."""
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
        self._field: object = None

    # --- following the specimen -------------------------------------------------------------------------------------

    def follow(self, atoms: Atoms2D, time_s: float, field: object = None) -> bool:
        """Take newer atoms up, with the targets on their columns, and return whether it could be done.

        Frames of another field or specimen, and dark frames, are ignored as long as there are targets.

        Parameters
        ----------
        atoms : Atoms2D
            What was found in the newest image.
        time_s : float
            When that was taken, in seconds of the monotonic clock.
        field
            Where scan and stage were: anything that is equal as long as they are not moved.
        """
        before = self.atoms
        same_field = atoms.shape == before.shape and np.allclose(atoms.known_sampling, before.known_sampling, rtol=0.01)
        same_field = same_field and field == self._field
        if len(self.sites):
            shift = self._shift_of(atoms, time_s) if same_field else None
            if shift is None:
                if len(atoms) or not same_field:  # otherwise the frame is dark
                    self.elsewhere = self._other("specimen" if same_field else "field")
                return False
        else:
            shift = self._shift_of(atoms, time_s) if same_field and not self.is_lost(time_s) else None
        self.elsewhere = ""
        self._take(atoms, time_s, shift)
        self._field = field
        return True

    def _other(self, what: str) -> str:
        return (
            f"The image shows another {what} than the targets were chosen in: go back there, or choose again (that "
            "drops the old ones)."
        )

    def _take(self, atoms: Atoms2D, time_s: float, shift: FloatArray | None) -> None:
        """Use newer atoms, given how far the specimen has moved since the last ones."""
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

    def _track_anew(self, time_s: float) -> None:
        self.track, self._shift = Track(), np.zeros(2)
        self.track.add(time_s, self._shift)
        self._repeat = repeat_distance(self.atoms) if len(self.atoms) else 0.0

    def _shift_of(self, atoms: Atoms2D, time_s: float) -> FloatArray | None:
        """Return how far the specimen has moved since the last frame; None if the two do not show the same atoms."""
        before = self.atoms.positions
        if not len(atoms) or not len(before):
            return None
        unseen_s = max(time_s - self.track.now.time_s, 0.0)
        if self.is_lost(time_s):
            return self._found_again(atoms, unseen_s)
        expected = self.track.now.velocity * unseen_s
        shift: FloatArray = expected + common_shift(atoms.positions - expected, before, self._repeat / 2)
        distance, _ = cKDTree(atoms.positions).query(before + shift)
        return shift if np.mean(distance < _SAME) > _AGREE else None

    def _found_again(self, atoms: Atoms2D, unseen_s: float) -> FloatArray | None:
        """Return how far the specimen has moved during a gap so long that it may show the next column."""
        velocity_deviation = float(np.hypot(self.track.velocity_deviation, _UNSTEADY))
        deviation = min(velocity_deviation * unseen_s, _WANDERED)
        expected = np.clip(self.track.now.velocity * unseen_s, -_WANDERED, _WANDERED)
        place = relocated(self.atoms, atoms, deviation, expected)
        if place is None:
            return None
        if place.is_certain:
            return place.shift
        self.doubt = f"The specimen was last imaged {unseen_s:.0f} s ago"
        return place.nearest

    def is_lost(self, time_s: float) -> bool:
        """Return whether the specimen may have moved to the next column since the last frame."""
        unseen_s = time_s - self.track.now.time_s
        return not 0.0 <= unseen_s <= self.track.lost_after_s(self._repeat)

    @property
    def repeat(self) -> float:
        """Å: repeat distance of the specimen."""
        return self._repeat

    def expect(self, time_s: float) -> None:
        """Move the targets to where they are by now, as far as the drift is known."""
        unseen_s = min(max(time_s - self.track.now.time_s, 0.0), self.track.lost_after_s(self._repeat))
        ahead = self.track.now.velocity * unseen_s
        self._move(ahead - self._ahead)
        self._ahead = ahead

    def _move(self, shift: FloatArray) -> None:
        self.sites = self.sites + shift
        self.zones = [zone + shift for zone in self.zones]
        self.spent = self.spent.moved(shift)

    def confirm(self) -> None:
        """Note that a person has confirmed that the targets are on the right atoms."""
        self.doubt = ""

    def go_on_after(self, atoms: Atoms2D, shift: FloatArray, drift: Track, time_s: float, spent: Spent) -> None:
        """Continue after a run that has followed the specimen.

        Parameters
        ----------
        atoms : Atoms2D
            The specimen as the run knows it, in Å of the image in which it began.
        shift : (2,) array
            How far the specimen has moved since.
        drift : Track
            The estimate of its velocity.
        time_s : float
            Now, as in :meth:`follow`.
        spent : Spent
            What the specimen has had by the end of the run.
        """
        self._move(shift - self._ahead)
        self.spent = spent.moved(shift)
        self._ahead = np.zeros(2)
        self.atoms = dataclasses.replace(atoms, positions=atoms.positions + shift)
        self._repeat = repeat_distance(self.atoms) if len(self.atoms) else 0.0
        self.track, self._shift = Track(drift.velocity_deviation, velocity=drift.now.velocity), np.zeros(2)
        self.track.add(time_s, self._shift)

    def take_up(self, plan: Plan) -> str:
        """Choose the targets of a run that was stopped or crashed, and return a message.

        Raises
        ------
        StemAeError
            If the newest image does not show the place.
        """
        place = relocated(plan.specimen(), self.atoms, _WANDERED) if len(self.atoms) else None
        if place is None:
            raise StemAeError(
                "The newest image does not show the place of that run: scan there with the Atoms panel running, at the "
                "same magnification and rotation, and press again."
            )
        shift = place.shift if place.is_certain else place.nearest
        self.doubt = "" if place.is_certain else f"The run of {plan.started.astimezone():%H:%M} was some time ago"
        self.sites = np.array([self.snapped(site) for site in plan.sites + shift]).reshape(-1, 2)
        self.fates, self.zones, self.drawn = list(plan.fates), [zone + shift for zone in plan.zones], []
        self._ahead, self.elsewhere = np.zeros(2), ""
        self.spent = plan.spent.moved(shift)
        return f"{plan.done} of {len(plan.sites)} are done. Arm, then Run goes on with the rest."

    # --- what is left to do -----------------------------------------------------------------------------------------

    def rest(self, once: bool, again: bool) -> list[int]:
        """Return the targets of the next run: those that have not lost an atom yet.

        Parameters
        ----------
        once : bool
            Leave out those that were tried as well.
        again : bool
            Take all of them, finished ones included.
        """
        return [k for k, fate in enumerate(self.fates) if again or not (self.has_left(k) or (once and fate.tried))]

    def has_left(self, target: int) -> bool:
        """Return whether a target has lost an atom: as a run found, or as the image shows if the run was cut off."""
        fate = self.fates[target]
        return fate.left or (fate.state == "unclear" and self.species_at(self.sites[target]) != fate.species)

    def told(self, target: int) -> Fate:
        """Return the text for a target: its fate, and what the newest image shows if that adds something."""
        fate, now = self.fates[target], self.species_at(self.sites[target])
        if fate.state == "unclear":
            seen = f"now {now}" if now else "no atom found here now"
            return fate.now(fate.state, f"{fate.detail}, {seen}")
        if fate.state == "waiting" and not now:
            return fate.now("waiting", "no atom found here")
        return fate

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
        if len(self.drawn) > 2 and np.linalg.norm(point - self.drawn[0]) < 2 * SAME_ATOM:
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
        if np.any(away < SAME_ATOM):
            return self._set_sites(self.sites[away >= SAME_ATOM])
        return self._set_sites(np.vstack([self.sites, position]))

    def _atom_at(self, point: FloatArray) -> int:
        candidates = self.candidates()
        away = np.linalg.norm(self.atoms.positions[candidates] - point, axis=1)
        if away.min() > SAME_ATOM:
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
        self.zones, self.drawn, self.sites, self.fates = [], [], np.zeros((0, 2)), []
        self.spent = Spent()
        self.elsewhere = self.doubt = ""

    def add(self, chosen: NDArray[np.int64]) -> str:
        """Choose more atoms, given by their indices."""
        new = self.atoms.positions[chosen]
        if len(self.sites):
            new = new[np.linalg.norm(new[:, None] - self.sites, axis=2).min(axis=1) > SAME_ATOM]
        return self._set_sites(np.vstack([self.sites, new]))

    def _set_sites(self, sites: FloatArray) -> str:
        """Take these as the targets, without those in forbidden zones, in the shortest order."""
        known = {tuple(site): fate for site, fate in zip(self.sites.tolist(), self.fates, strict=True)}
        allowed = np.ones(len(sites), bool)
        for zone in self.zones:
            allowed &= ~in_polygon(sites, zone)
        kept = sites[allowed]
        self.sites = kept[targets.shortest_path(kept)] if len(kept) else kept
        self.fates = [known.get(tuple(site), Fate(self.species_at(np.array(site)))) for site in self.sites.tolist()]
        left_out = len(sites) - len(kept)
        return f"{left_out} in forbidden zones left out." if left_out else ""

    # --- atoms at places --------------------------------------------------------------------------------------------

    def _nearest(self, position: FloatArray) -> int | None:
        """Return the atom at a position; None if none is close enough."""
        if not len(self.atoms):
            return None
        away = np.linalg.norm(self.atoms.positions - position, axis=1)
        return int(away.argmin()) if away.min() < SAME_ATOM else None

    def species_at(self, position: FloatArray) -> str:
        """Return the class of the atom at a position; empty if there is none."""
        nearest = self._nearest(position)
        return "" if nearest is None else self.atoms.symbols[nearest]

    def snapped(self, position: FloatArray, strict: bool = False) -> FloatArray:
        """Return the position of the atom that is meant; the position itself if there is none, unless ``strict``."""
        nearest = self._nearest(position)
        if nearest is not None:
            found: FloatArray = self.atoms.positions[nearest]
            return found
        if strict:
            raise StemAeError(f"There is no atom at ({position[0]:.1f}, {position[1]:.1f}) Å: check the list.")
        return position


