"""What the Eject panel intends to do with the chosen targets, and what that will cost. No Swift here."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.imaging import damage
from stem_ae.imaging.virtual_microscope import Beam as Column
from stem_ae.manipulate import (
    ClosedLoop,
    Limits,
    MoveDopants,
    OpenLoop,
    Policy,
    RunSettings,
    View,
    rehearsal,
    targets,
)  # fmt: skip
from stem_ae.structure.region import select

from .ejection_choice import Choice

FloatArray = NDArray[np.float64]

POLICIES = ("each target once", "until the pattern stands", "bring dopants to the targets")
ONCE, UNTIL, MOVE = range(len(POLICIES))
USUAL = (
    {"timeout": "5", "cap": "1e10", "local": "3e9"},
    {"timeout": "5", "cap": "1e10", "local": "3e9"},
    {"timeout": "60", "cap": "1e12", "local": "1e12"},
)
"""What is typed at first, for each policy: a dopant's jump takes many electrons."""
SOURCE_SIGMA = 0.30
"""Å: of the beam's source."""

_DOPANT, _HOST = "Si", "C"
_REMOVING_TRIES = 20  # a dopant that resists is aimed at anew whenever the drift has become uncertain
_AIMING_S = 0.6  # s: between two exposures


@dataclasses.dataclass(frozen=True)
class Intent:
    """Targets, policy, beam and limits.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    sites : (K, 2) array
        Targets in order, in Å.
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
    """

    atoms: Atoms2D
    sites: FloatArray
    zones: tuple[FloatArray, ...]
    ladder: tuple[str, ...]
    policy: int
    timeout_s: float
    limits: Limits
    column: Column

    @classmethod
    def of(cls, choice: Choice, policy: int, timeout_s: float, limits: Limits, column: Column) -> Intent:
        """Return what is intended with what was chosen."""
        if not len(choice.sites):
            raise StemAeError("There are no targets: choose some atoms.")
        sites, zones = choice.sites.copy(), tuple(choice.zones)
        return cls(choice.atoms, sites, zones, choice.ladder, policy, timeout_s, limits, column)

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
        after = {name: self.ladder[k + 1] for k, name in enumerate(self.ladder[:-1])}
        now = [self.atoms.symbols[k] for k in self._index()]
        tries = _REMOVING_TRIES if _DOPANT in self.ladder else 4
        return ClosedLoop(self.sites, tuple(after.get(name, name) for name in now), self.ladder, tries)

    def _moves(self) -> MoveDopants:
        """Return the moves; dopants in forbidden zones are not on the way of anything."""
        if _DOPANT not in self.atoms.species or _HOST not in self.atoms.species:
            raise StemAeError(f"There is no {_DOPANT} in {_HOST} that could be moved here: choose another policy.")
        free = np.ones(len(self.atoms), bool)
        for zone in self.zones:
            free &= ~select(self.atoms, zone)
        return MoveDopants(self.atoms.positions[free], self.sites, dopant=_DOPANT, host=_HOST)

    def _index(self) -> list[int]:
        distance = np.linalg.norm(self.atoms.positions - self.sites[:, None], axis=2)
        index: list[int] = distance.argmin(axis=1).tolist()
        return index

    def cost(self) -> str:
        """Return what it is expected to cost, in words."""
        probe = self.column.probe(SOURCE_SIGMA)
        if self.policy == MOVE:
            return self._cost_of_moves()
        index, barn = self._index(), cross_sections(self.atoms, self.column.energy_ev)
        plan = targets.plan(self.atoms, index, probe, self.column.current_pa, self.timeout_s, barn, move_s=_AIMING_S)
        return (
            f"About {duration(plan.time_s)}, {plan.exposure_s:.2f} s on each · {plan.dose[index].max():.1e} e/Å² on "
            f"targets, {plan.neighbour_dose:.1e} beside · {plan.success:.0%} leave in time · {plan.collateral:.2f} "
            "others expected to be lost"
        )

    def _cost_of_moves(self) -> str:
        ways = self._moves().ways(View(self.atoms, [], 1, False))
        if len(ways) < len(self.sites):
            raise StemAeError(f"Only {len(ways)} of {len(self.sites)} targets can be reached by a dopant.")
        steps = sum(len(way) - 1 for way in ways.values())
        peak = float(damage.fluence(self.column.probe(SOURCE_SIGMA), (0.0, 0.0), np.zeros((1, 2)))[0])
        per_electron = damage.exchange_cross_section(self.column.energy_ev) * damage.BARN * peak
        each_s = 1 / (per_electron * self.column.electrons(1.0))
        return (
            f"About {duration(steps * (each_s + _AIMING_S))}, {steps} steps of {each_s:.1f} s · "
            f"{peak / per_electron:.1e} e/Å² on each site"
        )


def cross_sections(atoms: Atoms2D, energy_ev: float) -> dict[str, float]:
    """Return the cross section of each class in barn for what its ladder says, as the simulator has it."""
    specimen = rehearsal.specimen_of(atoms)
    events = damage.possible_events(specimen, energy_ev)
    shift = np.array(atoms.sampling[::-1]) / 2
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
