"""What the Eject panel intends to do with the chosen targets, and what that will cost. No Swift here."""

from __future__ import annotations

import dataclasses

import ase.data
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.imaging import damage
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.manipulate import (
    Limits,
    MoveDopants,
    OneFromEach,
    OpenLoop,
    Policy,
    RemoveDopants,
    RunSettings,
    View,
    rehearsal,
    step,
    targets,
)  # fmt: skip
from stem_ae.manipulate.beam import READING_S, Scan
from stem_ae.manipulate.columns import measured_blur
from stem_ae.manipulate.levels import signal_levels, weights_from_frame
from stem_ae.structure.material import material_for
from stem_ae.structure.region import in_polygon

from .ejection_choice import SAME_ATOM, Choice

FloatArray = NDArray[np.float64]

POLICIES = ("each target once", "repeat until done", "bring dopants to the targets")
ONCE, UNTIL, MOVE = range(len(POLICIES))
USUAL = (
    {"timeout": "5", "cap": "1e10", "local": "3e9"},
    {"timeout": "5", "cap": "1e10", "local": "3e9"},
    {"timeout": "60", "cap": "1e12", "local": "1e12"},
)
"""What is typed at first, for each policy: a dopant's jump takes many electrons."""
SOURCE_SIGMA = 0.30
"""Å: of the beam's source, as long as no frame has shown it."""
LOST_BESIDE = 0.005
"""Neighbours lost for each ejection: from here on the panel says what would help."""

_ENOUGH = 12  # columns from which the probe's width can be told
_DOPANT, _HOST = "Si", "C"
_REMOVING_TRIES = 20  # a dopant that resists is aimed at anew whenever the drift has become uncertain
_AIMING_S = 0.6  # s: between two exposures
_LARGEST_MRAD = 45.0  # that correctors are flat to
_BACKGROUND = 2e-5  # of the beam, on the detector
_THERMAL = 0.06  # Å: thermal motion in projection


@dataclasses.dataclass(frozen=True)
class Intent:
    """Targets, policy, beam and limits.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    sites : (K, 2) array
        Targets in order, in Å.
    finished : (M, 2) array
        Other targets, which were done before.
    zones : tuple of (n, 2) array
        Forbidden ones.
    ladder : tuple of str
        What becomes of the chosen class.
    policy : int
        A place in ``POLICIES``.
    timeout_s : float
        Of one exposure.
    limits : Limits
        Dose caps.
    column : Beam
        The microscope's settings.
    source_sigma : float
        Å: of the beam's source; see :func:`measured_source`.
    """

    atoms: Atoms2D
    sites: FloatArray
    finished: FloatArray
    zones: tuple[FloatArray, ...]
    ladder: tuple[str, ...]
    policy: int
    timeout_s: float
    limits: Limits
    column: Column
    source_sigma: float = SOURCE_SIGMA

    @classmethod
    def of(
        cls, choice: Choice, which: list[int], policy: int, timeout_s: float, limits: Limits, column: Column
    ) -> Intent:
        """Return the intent for what was chosen; ``which`` selects some of the targets."""
        if not len(choice.sites):
            raise StemAeError("There are no targets: choose some atoms.")
        sites, zones = choice.sites.copy(), tuple(choice.zones)
        others = np.setdiff1d(np.arange(len(sites)), which)
        return cls(
            choice.atoms, sites[which], sites[others], zones, choice.ladder, policy, timeout_s, limits, column
        )

    def settings(self) -> RunSettings:
        """Return how to expose, aim and look."""
        if self.policy == MOVE:
            return RunSettings.moving(_DOPANT, _HOST, timeout_s=self.timeout_s)
        if _DOPANT in self.ladder:
            scans = RunSettings.moving()
            return dataclasses.replace(scans, ladder=self.ladder, dopant="", timeout_s=self.timeout_s)
        return RunSettings(self.ladder, timeout_s=self.timeout_s)

    def carried_out_by(self) -> Policy:
        """Return the policy."""
        if self.policy == MOVE:
            return self._moves()
        if self.policy == ONCE:
            return OpenLoop(self.sites)
        if _DOPANT in self.ladder:
            return RemoveDopants(self._free_sites(), self.sites, _DOPANT, _REMOVING_TRIES)
        return OneFromEach(self.sites, self.ladder)

    def _moves(self) -> MoveDopants:
        """Return the moves; dopants in forbidden zones are not on the way of anything."""
        if _DOPANT not in self.atoms.species or _HOST not in self.atoms.species:
            raise StemAeError(f"There is no {_DOPANT} in {_HOST} that could be moved here: choose another policy.")
        return MoveDopants(self._free_sites(), self.sites, self.finished, _DOPANT, _HOST)

    def _free_sites(self) -> FloatArray:
        """Return where atoms are outside the forbidden zones."""
        free = np.ones(len(self.atoms), bool)
        for zone in self.zones:
            free &= ~in_polygon(self.atoms.positions, zone)
        return self.atoms.positions[free]

    def _index(self) -> list[int]:
        """Return the atoms at the targets; at the image's edge one may not have been found."""
        distance, nearest = cKDTree(self.atoms.positions).query(self.sites, distance_upper_bound=SAME_ATOM)
        index: list[int] = nearest[np.isfinite(distance)].tolist()
        if not index:
            raise StemAeError("No atom was found at any of the targets: look at the image, or choose again.")
        return index

    @property
    def probe(self) -> AberratedProbe:
        """The focused beam."""
        return self.column.probe(self.source_sigma)

    def cost(self) -> tuple[str, str]:
        """Return what it is expected to cost, in words, and what to consider before (empty: nothing)."""
        if self.policy == MOVE:
            return self._cost_of_moves(), ""
        index, barn = self._index(), cross_sections(self.atoms, self.column.energy_ev)
        plan = targets.plan(
            self.atoms, index, self.probe, self.column.current_pa, self.timeout_s, barn, move_s=_AIMING_S
        )
        beside = targets.lost_beside(self.atoms, index, self.probe, barn)
        words = (
            f"About {duration(plan.time_s)}, {plan.exposure_s:.2f} s on each, {plan.success:.0%} leave in time · "
            f"{plan.dose[index].max():.1e} e/Å² on targets, {plan.neighbour_dose:.1e} beside · "
            f"a neighbour is lost in {beside:.1%} of ejections · "
            f"the step is known {1e3 * self._delay_s(index[0]):.2g} ms after it"
        )
        return words, self._remedy(index, barn, beside) if beside > LOST_BESIDE else ""

    def _delay_s(self, target: int) -> float:
        """Return how soon after the step the test stops, with the readings that the instrument's loop gives."""
        material = material_for(self.atoms.species)
        elements = {name: [element for element, _ in material.atoms_of(name)] for name in self.atoms.species}
        weights = {
            name: float(cross_section([ase.data.atomic_numbers[e] for e in column]).sum())
            for name, column in elements.items()
        }
        after = self.ladder[self.ladder.index(self.atoms.symbols[target]) + 1]
        leaving = weights[self.atoms.symbols[target]] - weights.get(after, 0.0)
        current = self.column.current_pa
        whole, rest = signal_levels(self.atoms, target, weights, leaving, 1, self.probe, current, _BACKGROUND)
        return step.expected_delay_s(whole, rest, self.settings().false_alarm_per_s, READING_S)

    def _remedy(self, index: list[int], barn: dict[str, float], beside: float) -> str:
        """Say that too many neighbours will be lost, and which probe would spare them."""
        words = (
            f"Expect {beside:.1%} of the ejections to cost a neighbour (more than {LOST_BESIDE:.1%}): at "
            f"{self.column.semiangle_mrad:.0f} mrad with a source of {self.source_sigma:.2f} Å the probe's tails reach "
            "them, whatever current and time."
        )
        # The source is demagnified as the aperture grows: the same gun and current.
        for semiangle in np.arange(np.ceil(self.column.semiangle_mrad) + 1, _LARGEST_MRAD + 1):
            source = self.source_sigma * self.column.semiangle_mrad / semiangle
            probe = dataclasses.replace(self.column, semiangle_mrad=float(semiangle)).probe(source)
            left = targets.lost_beside(self.atoms, index, probe, barn)
            if left <= LOST_BESIDE:
                return f"{words} {semiangle:.0f} mrad with the same gun and current would make it {left:.1%}."
        return f"{words} A smaller source would help: a smaller current, or a brighter gun."

    def _cost_of_moves(self) -> str:
        ways = self._moves().ways(View(self.atoms, [], 1, False))
        if len(ways) < len(self.sites):
            raise StemAeError(f"Only {len(ways)} of {len(self.sites)} targets can be reached by a dopant.")
        steps = sum(len(way) - 1 for way in ways.values())
        peak = float(damage.fluence(self.probe, (0.0, 0.0), np.zeros((1, 2)))[0])
        per_electron = damage.exchange_cross_section(self.column.energy_ev) * damage.BARN * peak
        each_s = 1 / (per_electron * self.column.electrons(1.0))
        return (
            f"About {duration(steps * (each_s + _AIMING_S))}, {steps} steps of {each_s:.1f} s · "
            f"{peak / per_electron:.1e} e/Å² on each site"
        )


def measured_source(atoms: Atoms2D, pixels: NDArray[np.float32], ladder: tuple[str, ...], column: Column) -> float:
    """Return the size of the beam's source in Å (standard deviation), as the columns of a frame show it.

    Parameters
    ----------
    atoms : Atoms2D
        What was found in the frame.
    pixels : (H, W) array
        The frame.
    ladder : tuple of str
        Classes that the columns may have.
    column : Beam
        The microscope's settings.
    """
    if len(atoms) < _ENOUGH or not np.allclose(*atoms.known_sampling, rtol=0.01):
        return SOURCE_SIGMA
    scan = Scan(np.asarray(pixels, float), atoms.known_sampling[0], np.zeros(2), 0.0, 0.0, 1.0)
    weights, _ = weights_from_frame(atoms, scan, ladder)
    return float(np.sqrt(max(measured_blur(atoms, scan, column.probe(0.0), weights) ** 2 - _THERMAL**2, 0.0)))


def cross_sections(atoms: Atoms2D, energy_ev: float) -> dict[str, float]:
    """Return the cross section of each class in barn for what its ladder says, as the simulator has it."""
    specimen = rehearsal.specimen_of(atoms)
    events = damage.possible_events(specimen, energy_ev)
    shift = np.array(atoms.known_sampling[::-1]) / 2
    leaving = events.partner < 0
    hit = specimen.positions[events.hit[leaving], :2] - shift
    _, column = cKDTree(atoms.positions).query(hit)
    of_column = np.bincount(column, events.barn[leaving], len(atoms))
    return {
        name: float(np.median(of_column[atoms.labels == k]))
        for k, name in enumerate(atoms.species)
        if np.any(atoms.labels == k)
    }


def number(text: str, what: str) -> float:
    """Return the positive number that was typed."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = 0.0
    if not (np.isfinite(value) and value > 0):
        raise StemAeError(f"“{text}” is no {what}: type a positive number.")
    return value


def duration(seconds: float) -> str:
    """Return a duration in words."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
