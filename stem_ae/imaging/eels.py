"""Electron energy-loss spectra of the atoms under the beam.

A deliberately simple, position-true model: a zero-loss peak, one plasmon-like peak per element, and core-loss edges,
each proportional to the number of atoms that the beam, widened by the delocalisation of that loss, sees; and the edge
and gap plasmons of nanoparticles, where the specimen has them. Single scattering.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from stem_ae.imaging.nanoparticles import modes
from stem_ae.imaging.probe import wavelength
from stem_ae.imaging.specimens import Specimen

FloatArray = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Edge:
    """A core-loss edge.

    Parameters
    ----------
    name : str
        Such as ``"C K"``.
    onset_ev : float
        Binding energy in eV.
    electrons : int
        In the shell.
    white_line : float
        Fraction of the edge in a sharp peak at the onset (transition metals).
    """

    name: str
    onset_ev: float
    electrons: int
    white_line: float = 0.0

    @property
    def number(self) -> int:
        """Atomic number."""
        return int(atomic_numbers[self.name.split()[0]])


# Onsets: Ahn and Krivanek, EELS Atlas (1983).
EDGES = (
    Edge("Si L", 99.0, 6),
    Edge("S L", 165.0, 6),
    Edge("Mo M", 227.0, 10),
    Edge("C K", 284.0, 2),
    Edge("Ti L", 456.0, 6, 0.3),
    Edge("O K", 532.0, 2),
    Edge("Mn L", 640.0, 6, 0.3),
    Edge("Fe L", 708.0, 6, 0.3),
    Edge("Ba M", 781.0, 10, 0.4),
    Edge("La M", 832.0, 10, 0.4),
    Edge("Ni L", 855.0, 6, 0.3),
)

_PLASMON_EV = {6: 15.0, 13: 15.0, 14: 17.0, 16: 22.0, 42: 24.0, 8: 26.0}  # round numbers around the bulk's
_PLASMON_OTHER_EV = 30.0
_PLASMON_WIDTH_EV, _SURFACE_PLASMON_WIDTH_EV = 6.0, 2.0
_PLASMON_CARBON = 0.015  # Å² per atom at 60 kV: a mean free path of some 60 nm in amorphous carbon
_ZERO_LOSS_EV = 0.35  # standard deviation: a cold field emitter
_EDGE_EXPONENT = 4.0  # of the fall behind an edge
_WHITE_LINE_EV = 2.0
_PAIRS_AT_ONCE = 1_000_000  # of a point and an atom: bounds the memory


def bethe_cross_section(edge: Edge, energy_ev: float) -> float:
    """Return the ionisation cross section of a shell in Å² (Bethe 1930, constants b = 0.9, c = 0.65 of Powell 1976)."""
    ratio = max(0.65 * energy_ev / edge.onset_ev, 1.0)
    return float(6.51e-14 * edge.electrons * 0.9 / (edge.onset_ev * energy_ev) * np.log(ratio) * 1e16)


def delocalisation(loss_ev: float, energy_ev: float) -> float:
    """Return the standard deviation in Å of the area an energy loss comes from.

    Half of the signal comes from within the diameter ``0.5 lambda / theta_E^(3/4)`` (Egerton, Ultramicroscopy 107
    (2007) 575); a Gaussian holds half within 2.355 standard deviations.
    """
    return float(0.5 * wavelength(energy_ev) / (loss_ev / (2 * energy_ev)) ** 0.75 / 2.355)


def areal_density(specimen: Specimen, points: ArrayLike, number: int, sigma: float) -> FloatArray:
    """Return atoms of one element per Å² as seen through a Gaussian, ``(...)`` for points ``(..., 2)`` in Å."""
    points = np.asarray(points, dtype=float)
    flat = points.reshape(-1, 2)
    atoms = specimen.positions[specimen.numbers == number, :2]
    density = np.zeros(len(flat))
    rows = max(_PAIRS_AT_ONCE // max(len(atoms), 1), 1)
    for start in range(0, len(flat), rows):
        apart = flat[start : start + rows, None, :] - atoms
        density[start : start + rows] = np.exp(-(apart**2).sum(axis=-1) / (2 * sigma**2)).sum(axis=-1)
    return (density / (2 * np.pi * sigma**2)).reshape(points.shape[:-1])


def edge_strength(
    specimen: Specimen, points: ArrayLike, edge: Edge, energy_ev: float, probe_sigma: float
) -> FloatArray:
    """Return the chance per electron of exciting an edge at points ``(..., 2)`` in Å: the ground truth of a map."""
    sigma = float(np.hypot(probe_sigma, delocalisation(edge.onset_ev, energy_ev)))
    return areal_density(specimen, points, edge.number, sigma) * bethe_cross_section(edge, energy_ev)


def spectrum(
    specimen: Specimen, point: ArrayLike, losses_ev: FloatArray, energy_ev: float, probe_sigma: float
) -> FloatArray:
    """Return the expected fraction of the beam in each channel.

    Parameters
    ----------
    specimen : Specimen
        The atoms.
    point : (2,) array
        Where the beam is, Å on the specimen.
    losses_ev : (E,) array
        Energy losses at the channels' middles in eV, evenly spaced.
    energy_ev : float
        Beam energy in eV.
    probe_sigma : float
        Width of the beam in Å.
    """
    step = losses_ev[1] - losses_ev[0]
    bounds = np.append(losses_ev - step / 2, losses_ev[-1] + step / 2)
    result = np.zeros(len(losses_ev))
    lost = 0.0
    for number in np.unique(specimen.numbers):
        peak = _PLASMON_EV.get(int(number), _PLASMON_OTHER_EV)
        sigma = float(np.hypot(probe_sigma, delocalisation(peak, energy_ev)))
        each = _PLASMON_CARBON * (number / 6.0) ** (1 / 3) * 60e3 / energy_ev
        chance = float(areal_density(specimen, point, int(number), sigma)) * each
        result += chance * np.diff(_plasmon_below(bounds, peak))
        lost += chance
    for mode in modes(specimen.particles, point) if specimen.particles else ():
        result += float(mode.chance) * np.diff(_plasmon_below(bounds, mode.energy_ev, _SURFACE_PLASMON_WIDTH_EV))
        lost += float(mode.chance)
    for edge in EDGES:
        if edge.onset_ev < bounds[-1] and np.any(specimen.numbers == edge.number):
            chance = float(edge_strength(specimen, point, edge, energy_ev, probe_sigma))
            result += chance * np.diff(_edge_below(bounds, edge))
            lost += chance
    result += max(1.0 - lost, 0.0) * np.diff(ndtr(bounds / _ZERO_LOSS_EV))
    return result


def _plasmon_below(loss_ev: FloatArray, peak_ev: float, width_ev: float = _PLASMON_WIDTH_EV) -> FloatArray:
    """Fraction of a plasmon peak below a loss: a Lorentzian, cut at zero loss."""
    below = np.arctan((np.maximum(loss_ev, 0.0) - peak_ev) / (width_ev / 2))
    start = np.arctan(-peak_ev / (width_ev / 2))
    result: FloatArray = (below - start) / (np.pi / 2 - start)
    return result


def _edge_below(loss_ev: FloatArray, edge: Edge) -> FloatArray:
    """Fraction of an edge below a loss: a power law behind the onset, and its white line."""
    tail = 1 - (np.maximum(loss_ev, edge.onset_ev) / edge.onset_ev) ** (1 - _EDGE_EXPONENT)
    line = ndtr((loss_ev - edge.onset_ev - 2 * _WHITE_LINE_EV) / _WHITE_LINE_EV)
    result: FloatArray = (1 - edge.white_line) * tail + edge.white_line * line
    return result
