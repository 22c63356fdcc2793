"""What the beam does to atoms: displacement cross sections, exchanges of dopants, the chance game of an exposure.

Elastic knock-on is computed (:func:`knock_on_cross_section`). Sulphur in MoS2 is stated instead: at 60 kV an electron
can hand it 4.4 eV at most, less than the 6.9 eV that its displacement takes (Komsa et al., PRL 109 (2012) 035503), and
yet it leaves, because electronic excitation helps (Kretschmer et al., Nano Lett. 20 (2020) 2865; Speckmann et al., PRB
107 (2023) 094112, who measured it from 55 to 90 keV). The values here are this simulator's own round numbers, of the
order of barns as in those papers, not a fit to them.

A threefold Si in graphene exchanges places with a carbon neighbour that an electron has hit (Susi et al., PRL 113
(2014) 115501). The values are again this simulator's own: at 55 and 60 kV such that, with 150 pA, a jump takes the 45
and 15 s that the published presets of an auto-manipulator wait for one; at 80 kV the knock-on cross section for an
effective threshold of 15 eV. A carbon ad-atom may take the dopant's place and set it free: measured for P (0.07 barn;
Su et al., Sci. Adv. 5 (2019) eaav2252), taken to be rarer for Si.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from numpy.typing import ArrayLike, NDArray
from scipy import constants, fft, ndimage
from scipy.spatial import cKDTree

from stem_ae.imaging.probe import Probe
from stem_ae.imaging.specimens import Specimen

FloatArray = NDArray[np.float64]

BARN = 1e-8  # Å²

# Displacement thresholds in eV.
_PRISTINE_CARBON = 21.14  # Susi et al., Nat. Commun. 7 (2016) 13040
_EDGE_CARBON = 12.0  # zigzag edge: Kotakoski et al., ACS Nano 6 (2012) 671
_OTHER = 20.0  # usual for bulk; nothing heavier than carbon comes near it below 100 kV
_CARBON_VELOCITY = np.sqrt(3.17e5)  # m/s, out of plane at 300 K: Susi et al. 2016

# Sulphur on the exit side of an S2 column, in barn, at energies in eV.
_SULPHUR_ENERGIES = (40e3, 60e3, 80e3, 100e3)
_SULPHUR_BARN = (0.5, 1.0, 5.0, 15.0)
_LONE_SULPHUR = 0.5  # of it, for the S that is left in an S1 column

# Si in graphene, in barn, at energies in eV; in between its logarithm is interpolated.
_EXCHANGE_ENERGIES = (50e3, 55e3, 60e3, 80e3)
_EXCHANGE_BARN = (1e-3, 3e-3, 1e-2, 5.0)
_REPLACED_BARN = 5e-3  # an electron on the Si, whatever its energy

_COLUMN = 0.5  # Å: atoms closer than this in projection are one column
_BOND = 1.9  # Å: carbon's neighbours
_REACH = 10.0  # Å: how far the tails of a focused beam are followed
_WIDE = 20.0  # Å: a scan larger than this doses its field evenly, but for a rim that does not matter


def knock_on_cross_section(number: int, threshold_ev: float, energy_ev: float, velocity: float | None = None) -> float:
    """Return the elastic displacement cross section in barn.

    McKinley and Feshbach's approximation (Phys. Rev. 74 (1948) 1759), averaged over the thermal motion of the atom
    along the beam as in Meyer et al., PRL 108 (2012) 196102.

    Parameters
    ----------
    number : int
        Atomic number; the approximation holds for light atoms.
    threshold_ev : float
        Energy the atom needs to leave, in eV.
    energy_ev : float
        Beam energy in eV.
    velocity : float, optional
        RMS velocity of the atom along the beam in m/s; by default that of equipartition at 300 K.
    """
    mass = float(atomic_masses[number]) * constants.atomic_mass
    if velocity is None:
        velocity = float(np.sqrt(constants.k * 300.0 / mass))
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    largest = _largest_transfer(mass, energy_ev, velocity * nodes)
    rest = constants.m_e * constants.c**2
    energy = energy_ev * constants.e
    beta2 = 1 - (rest / (rest + energy)) ** 2
    radius = number * constants.e**2 / (4 * np.pi * constants.epsilon_0 * 2 * rest)
    rutherford = 4 * np.pi * radius**2 * (1 - beta2) / beta2**2
    ratio = np.maximum(largest / threshold_ev, 1.0)
    relativistic = np.pi * number * constants.fine_structure * np.sqrt(beta2)
    shape = ratio - 1 - beta2 * np.log(ratio) + relativistic * (2 * np.sqrt(ratio) - np.log(ratio) - 2)
    return float(rutherford * (weights @ shape) / weights.sum() / 1e-28)


def _largest_transfer(mass: float, energy_ev: float, velocity: FloatArray) -> FloatArray:
    """Return the energy in eV that a head-on electron leaves an atom with, which moved at ``velocity`` (m/s)."""
    rest, energy = constants.m_e * constants.c**2, energy_ev * constants.e
    kinetic = mass * velocity**2 / 2
    before = np.sqrt(energy * (energy + 2 * rest)) / constants.c + mass * velocity
    after = np.sqrt((energy + kinetic) * (energy + 2 * rest + kinetic)) / constants.c
    transfer: FloatArray = (before + after) ** 2 / (2 * mass) / constants.e
    return transfer


@functools.lru_cache(maxsize=256)
def _knock_on(number: int, at_edge: bool, energy_ev: float) -> float:
    if number == 6:
        threshold = _EDGE_CARBON if at_edge else _PRISTINE_CARBON
        return knock_on_cross_section(6, threshold, energy_ev, float(_CARBON_VELOCITY))
    return knock_on_cross_section(number, _OTHER, energy_ev)


def ejection_cross_sections(specimen: Specimen, energy_ev: float) -> FloatArray:
    """Return each atom's cross section for being ejected, ``(N,)`` in barn, as its neighbours allow.

    In a column of two S the one on the exit side leaves (the other would have to pass it); once alone, the second
    leaves half as easily. Carbon with fewer than three neighbours is edge carbon.

    Parameters
    ----------
    specimen : Specimen
        Atoms, z along the beam.
    energy_ev : float
        Beam energy in eV.
    """
    positions, numbers = specimen.positions, specimen.numbers
    barn = np.zeros(len(specimen))
    for number in np.unique(numbers[numbers != 16]):
        barn[numbers == number] = _knock_on(int(number), False, energy_ev)
    carbon = numbers == 6
    if carbon.any():
        tree = cKDTree(positions)
        neighbours = tree.query_ball_point(positions[carbon], _BOND, return_length=True) - 1
        barn[np.flatnonzero(carbon)[neighbours < 3]] = _knock_on(6, True, energy_ev)
    sulphur = np.flatnonzero(numbers == 16)
    if len(sulphur):
        full = float(np.interp(energy_ev, _SULPHUR_ENERGIES, _SULPHUR_BARN))
        barn[sulphur] = full * _LONE_SULPHUR
        pairs = sulphur[cKDTree(positions[sulphur, :2]).query_pairs(_COLUMN, output_type="ndarray")]
        deeper = positions[pairs[:, 0], 2] > positions[pairs[:, 1], 2]
        barn[np.where(deeper, pairs[:, 0], pairs[:, 1])] = full
        barn[np.where(deeper, pairs[:, 1], pairs[:, 0])] = 0.0
    return barn


def exchange_cross_section(energy_ev: float) -> float:
    """Return the cross section in barn with which a carbon beside a threefold Si exchanges places with it."""
    return float(np.exp(np.interp(energy_ev, _EXCHANGE_ENERGIES, np.log(_EXCHANGE_BARN))))


LEAVES, REPLACED = -1, -2


@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """All that may happen to a specimen next.

    Parameters
    ----------
    hit : (K,) array of int
        Which atom an electron has to hit for it.
    barn : (K,) array
        Cross section.
    partner : (K,) array of int
        The atom that the hit one exchanges places with; ``LEAVES``: it leaves; ``REPLACED``: a carbon takes its place.
    """

    hit: NDArray[np.int64]
    barn: FloatArray
    partner: NDArray[np.int64]


def possible_events(specimen: Specimen, energy_ev: float) -> Events:
    """Return what a beam of this energy (eV) may do: ejections, exchanges of Si and C, Si replaced by C."""
    barn = ejection_cross_sections(specimen, energy_ev)
    leaving = np.flatnonzero(barn)
    dopants, carbon = _threefold_dopants(specimen)
    silicon = np.unique(dopants)
    return Events(
        np.concatenate([leaving, carbon, silicon]),
        np.concatenate([barn[leaving], np.full(len(carbon), exchange_cross_section(energy_ev)),
                        np.full(len(silicon), _REPLACED_BARN)]),
        np.concatenate([np.full(len(leaving), LEAVES), dopants, np.full(len(silicon), REPLACED)]),
    )  # fmt: skip


def _threefold_dopants(specimen: Specimen) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the Si that have three carbon neighbours and no others, and these neighbours: ``(3 n,)`` each."""
    sheet = np.flatnonzero(np.isin(specimen.numbers, (6, 14)))
    silicon = np.flatnonzero(specimen.numbers == 14)
    if not len(silicon):
        return silicon, silicon
    near = cKDTree(specimen.positions[sheet]).query_ball_point(specimen.positions[silicon], _BOND)
    around = [np.setdiff1d(sheet[k], [atom]) for k, atom in zip(near, silicon, strict=True)]
    good = [len(k) == 3 and bool(np.all(specimen.numbers[k] == 6)) for k in around]
    neighbours = [k for k, is_good in zip(around, good, strict=True) if is_good]
    return np.repeat(silicon[good], 3), np.concatenate([np.zeros(0, np.int64), *neighbours])


def after_event(specimen: Specimen, hit: int, partner: int) -> Specimen:
    """Return what an event leaves: see :class:`Events`."""
    if partner == LEAVES:
        return specimen[np.arange(len(specimen)) != hit]
    numbers = specimen.numbers.copy()
    if partner == REPLACED:
        numbers[hit] = 6
    else:
        numbers[[hit, partner]] = numbers[[partner, hit]]
    return dataclasses.replace(specimen, numbers=numbers)


def fluence(probe: Probe, size: tuple[float, float], points: ArrayLike) -> FloatArray:
    """Return the electrons per Å² at points for one electron spread over a scan.

    Parameters
    ----------
    probe : Probe
        The beam.
    size : (float, float)
        Size of the scan in Å, x and y; ``(0, 0)`` is a parked beam.
    points : (N, 2) array
        Å from the scan's middle, along its axes.
    """
    points = np.asarray(points, dtype=float)
    if min(size) > _WIDE:
        result: FloatArray = np.all(np.abs(points) <= np.asarray(size) / 2, axis=1) / (size[0] * size[1])
        return result
    spacing, table = _fluence_table(probe, size)
    index = points[:, ::-1] / spacing + np.array(table.shape)[None, :] // 2
    result = ndimage.map_coordinates(table, index.T, order=1, mode="constant")
    return result


@functools.lru_cache(maxsize=32)
def _fluence_table(probe: Probe, size: tuple[float, float]) -> tuple[float, FloatArray]:
    wide, high = (side + 2 * _REACH + 8 * probe.sigma for side in size)
    spacing = max(0.08, max(wide, high) / 1024)  # Å
    fy, fx = (fft.fftfreq(2 * int(length / 2 / spacing), spacing) for length in (high, wide))
    fx, fy = np.meshgrid(fx, fy)
    spectrum = probe.otf(fx, fy) * np.sinc(fx * size[0]) * np.sinc(fy * size[1])
    table = fft.fftshift(fft.ifft2(spectrum).real) / spacing**2
    return spacing, np.maximum(table, 0.0)


@dataclasses.dataclass(frozen=True)
class Ejection:
    """One atom that the beam has ejected.

    Parameters
    ----------
    time_s : float
        On the microscope's clock.
    position : (float, float)
        x and y in Å on the specimen.
    number : int
        Atomic number.
    electrons : float
        How many electrons of the exposure had passed by then.
    """

    time_s: float
    position: tuple[float, float]
    number: int
    electrons: float

    @property
    def symbol(self) -> str:
        """Chemical symbol."""
        return str(chemical_symbols[self.number])


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One dopant that the beam has moved, or replaced by carbon.

    Parameters
    ----------
    time_s, electrons : float
        As for :class:`Ejection`.
    position : (float, float)
        Where it was, x and y in Å on the specimen.
    moved_to : (float, float) or None
        Where it is now; None if it is gone.
    """

    time_s: float
    position: tuple[float, float]
    electrons: float
    moved_to: tuple[float, float] | None


def first_event(rates: FloatArray, electrons: float, rng: np.random.Generator) -> tuple[int, float] | None:
    """Return which event happens first and after how many electrons, or None if none does.

    Parameters
    ----------
    rates : (K,) array
        Chance of each event, per electron of the exposure.
    electrons : float
        Length of the exposure in electrons.
    rng : numpy.random.Generator
        Source of the waiting times (exponential).
    """
    total = float(rates.sum())
    if total <= 0:
        return None
    after = float(rng.exponential(1 / total))
    if after >= electrons:
        return None
    return int(rng.choice(len(rates), p=rates / total)), after
