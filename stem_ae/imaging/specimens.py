"""Specimens: atoms in three dimensions, and their columns as the microscope sees them.

Axes are those of the screen: x to the right, y *down*, z along the beam (away from the viewer), which is right-handed.
Lengths are in Å.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import ase
import ase.geometry
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.occupancy import Occupancy, occupancy

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

GRAPHENE_LATTICE = 2.46  # Å
MOS2_LATTICE = 3.16  # Å
MOS2_SULPHUR_HEIGHT = 1.56  # Å above and below the Mo plane
_MOST_ATOMS = 1e7  # that are looked through to fill an area with a crystal: more fills the memory


@dataclasses.dataclass(frozen=True, eq=False)
class Particles:
    """Spheres of a metal, whose surfaces have plasmons; see :mod:`stem_ae.imaging.nanoparticles`.

    Parameters
    ----------
    centres : (P, 2) array
        x and y in Å.
    radii : (P,) array
        In Å.
    bulk_ev : float
        Energy of the metal's bulk plasmon.
    """

    centres: FloatArray
    radii: FloatArray
    bulk_ev: float


@dataclasses.dataclass(frozen=True, eq=False)
class Specimen:
    """Atoms in the beam.

    Parameters
    ----------
    positions : (N, 3) array
        x, y (down), z (along the beam) in Å.
    numbers : (N,) array
        Atomic numbers.
    name : str
        What a person calls it.
    counting : tuple of str
        Elements whose columns are told apart by their number of atoms: ``("S",)`` gives ``S2`` and ``S1``.
    extent : (float, float)
        Size of the area of interest, x and y in Å; atoms may lie beyond it.
    particles : Particles, optional
        Which of the atoms' assemblies have surface plasmons.
    """

    positions: FloatArray
    numbers: IntArray
    name: str
    counting: tuple[str, ...]
    extent: tuple[float, float]
    particles: Particles | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, selection: NDArray[np.bool_] | IntArray) -> Specimen:
        return dataclasses.replace(self, positions=self.positions[selection], numbers=self.numbers[selection])

    def moved(self, by: FloatArray) -> Specimen:
        """Return it displaced by x, y and z in Å."""
        spheres = self.particles and dataclasses.replace(self.particles, centres=self.particles.centres + by[:2])
        return dataclasses.replace(self, positions=self.positions + by, particles=spheres)

    def columns(self, tolerance: float = 0.5) -> tuple[FloatArray, list[str]]:
        """Return the projected columns: mean positions ``(M, 2)`` in Å, and their names.

        Atoms closer than ``tolerance`` (Å) in projection are one column, named by its heaviest element, with the
        number of its atoms where ``counting`` asks for it.
        """
        if not len(self):
            return np.zeros((0, 2)), []
        xy = self.positions[:, :2]
        pairs = cKDTree(xy).query_pairs(tolerance, output_type="ndarray")
        links = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(xy), len(xy)))
        count, member = connected_components(links, directed=False)
        size = np.bincount(member, minlength=count)
        centres = np.column_stack([np.bincount(member, xy[:, axis], count) / size for axis in (0, 1)])
        heaviest = np.zeros(count, np.int64)
        np.maximum.at(heaviest, member, self.numbers)
        number_of_heaviest = np.bincount(member[self.numbers == heaviest[member]], minlength=count)
        names = [
            symbol + (str(n) if symbol in self.counting else "")
            for symbol, n in ((chemical_symbols[z], n) for z, n in zip(heaviest, number_of_heaviest, strict=True))
        ]
        return centres, names


def lattice_points(
    vectors: FloatArray, basis: FloatArray, extent: tuple[float, float], rotation: float = 0.0
) -> tuple[FloatArray, IntArray]:
    """Fill ``[0, extent]`` with a crystal.

    Parameters
    ----------
    vectors : (2, 2) array
        In-plane lattice vectors in Å, one per row.
    basis : (B, 3) array
        Atoms of the cell in Å.
    extent : (float, float)
        Size of the area, x and y in Å.
    rotation : float
        Turn of the crystal about the area's centre, in degrees, from x towards y.

    Returns
    -------
    (N, 3) array, (N,) array
        Positions in Å, and which basis atom each is.

    Raises
    ------
    StemAeError
        If the area is not finite, or too large.
    """
    across, along = (checks.number(side, "The extent of a specimen", 0, unit="Å") for side in extent)
    rotation = checks.number(rotation, "The rotation", unit="degrees")
    if not max(across, along) <= np.sqrt(_MOST_ATOMS * abs(np.linalg.det(vectors)) / len(basis)):
        raise StemAeError(f"An area of {across:g} × {along:g} Å has too many atoms: choose a smaller one.")
    centre = np.asarray(extent) / 2
    reach = float(np.hypot(*extent)) / 2
    heights = abs(np.linalg.det(vectors)) / np.linalg.norm(vectors[::-1], axis=1)
    n = np.ceil(reach / heights).astype(int) + 2
    ij = np.stack(np.meshgrid(np.arange(-n[0], n[0] + 1), np.arange(-n[1], n[1] + 1), indexing="ij"), -1)
    origins = ij.reshape(-1, 2) @ vectors
    flat = (origins[:, None, :] + basis[None, :, :2]).reshape(-1, 2)
    kind = np.tile(np.arange(len(basis)), len(origins))
    angle = np.deg2rad(rotation)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    flat = flat @ turn + centre
    inside = np.all((flat >= 0) & (flat <= np.asarray(extent)), axis=1)
    return np.column_stack([flat, basis[kind, 2]])[inside], kind[inside]


def graphene(
    extent: tuple[float, float] = (80.0, 80.0),
    silicon: float = 0.01,
    vacancies: float = 0.0,
    rotation: float = 0.0,
    ripple: float = 0.0,
    seed: int = 0,
) -> Specimen:
    """Return graphene with substitutional Si and vacancies.

    Parameters
    ----------
    extent : (float, float)
        x and y in Å.
    silicon, vacancies : float
        Fractions of the sites.
    rotation : float
        Degrees.
    ripple : float
        Amplitude in Å of a smooth in-plane displacement (what a corrugated sheet looks like in projection).
    seed : int
        Of the random sites.
    """
    rng = np.random.default_rng(seed)
    a = GRAPHENE_LATTICE
    vectors = np.array([[a, 0.0], [a / 2, a * np.sqrt(3) / 2]])
    basis = np.array([[0.0, 0.0, 0.0], [0.0, a / np.sqrt(3), 0.0]])
    positions, _ = lattice_points(vectors, basis, extent, rotation)
    positions[:, :2] += smooth_displacement(positions[:, :2], ripple, rng)
    numbers = np.where(rng.random(len(positions)) < silicon, 14, 6).astype(np.int64)
    present = rng.random(len(positions)) >= vacancies
    return Specimen(positions[present], numbers[present], "graphene", (), extent)


def mos2(
    extent: tuple[float, float] = (80.0, 80.0),
    single_vacancies: float = 0.05,
    double_vacancies: float = 0.01,
    rotation: float = 0.0,
    ripple: float = 0.0,
    seed: int = 0,
) -> Specimen:
    """Return a MoS2 monolayer (2H) with S columns that lost one or both atoms.

    Parameters
    ----------
    extent : (float, float)
        x and y in Å.
    single_vacancies, double_vacancies : float
        Fractions of the S2 columns that lack one S, and both.
    rotation : float
        Degrees.
    ripple : float
        As in :func:`graphene`.
    seed : int
        Of the random sites.
    """
    rng = np.random.default_rng(seed)
    a = MOS2_LATTICE
    vectors = np.array([[a, 0.0], [a / 2, a * np.sqrt(3) / 2]])
    sulphur = [0.0, a / np.sqrt(3)]
    basis = np.array([[0.0, 0.0, 0.0], [*sulphur, -MOS2_SULPHUR_HEIGHT], [*sulphur, MOS2_SULPHUR_HEIGHT]])
    positions, kind = lattice_points(vectors, basis, extent, rotation)
    draw = rng.random(len(positions))
    top, bottom = kind == 1, kind == 2
    draw[bottom] = draw[top]  # both atoms of a column see the same draw: lattice_points keeps cells together
    gone = (top & (draw < single_vacancies + double_vacancies)) | (bottom & (draw < double_vacancies))
    positions[:, :2] += smooth_displacement(positions[:, :2], ripple, rng)
    numbers = np.where(kind == 0, 42, 16).astype(np.int64)
    return Specimen(positions[~gone], numbers[~gone], "MoS2", ("S",), extent)


def from_ase(
    atoms: ase.Atoms | Occupancy, extent: tuple[float, float], zone: Sequence[int] = (0, 0, 1), rotation: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Specimen:  # fmt: skip
    """Return a crystal from its unit cell, seen along a zone axis, one period thick.

    Parameters
    ----------
    atoms : ase.Atoms or Occupancy
        A periodic cell; atoms outside it are taken for their images inside.
    extent : (float, float)
        x and y in Å of the area to fill.
    zone : (int, int, int)
        Zone axis ``[uvw]``; it becomes the beam direction.
    rotation : float
        Degrees, about the beam.
    rng : Generator, optional
        Draws who is where on sites that are partly occupied; always the same draws by default.

    Raises
    ------
    StemAeError
        If the structure has no cell, the zone axis is zero or far from any simple one, or what is asked for is too
        large.
    """
    who = atoms if isinstance(atoms, Occupancy) else occupancy(atoms)
    atoms = who.atoms
    cell = np.asarray(atoms.cell, dtype=float)
    if not abs(np.linalg.det(cell)) > 1e-6 or not np.isfinite(cell).all():
        raise StemAeError("The structure has no three-dimensional cell: give a crystal (CIF, POSCAR, extended XYZ).")
    if not np.any(zone):
        raise StemAeError("The zone axis [0 0 0] is no direction: give three integers such as 1 1 0.")
    across, along = (checks.number(side, "The extent of a specimen", 0, unit="Å") for side in extent)
    rotation = checks.number(rotation, "The rotation", unit="degrees")
    beam = np.asarray(zone, dtype=float) @ cell
    period = float(np.linalg.norm(beam))
    third = beam / period
    helper = cell[int(np.argmin(np.abs(cell @ third) / np.linalg.norm(cell, axis=1)))]
    first = helper - (helper @ third) * third
    first /= np.linalg.norm(first)
    axes = np.array([first, np.cross(third, first), third])  # rows: x, y, z of the screen, right-handed
    angle = np.deg2rad(rotation)
    axes = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]]) @ axes
    reach = np.array([*extent, period])
    if not np.isfinite(atoms.positions).all():
        raise StemAeError("The structure has atoms without a position: remove or correct them.")
    inner = ase.geometry.wrap_positions(atoms.positions, cell, pbc=True)
    corners = np.stack(np.meshgrid(*[(0.0, r) for r in reach], indexing="ij"), -1).reshape(-1, 3) @ axes
    fractional = corners @ np.linalg.inv(cell)
    low, high = np.floor(fractional.min(0)) - 1, np.ceil(fractional.max(0)) + 1
    candidates = float(np.prod(high - low + 1.0)) * len(atoms)
    if not candidates <= _MOST_ATOMS:
        raise StemAeError(
            f"Along [{' '.join(map(str, zone))}], {across:g} × {along:g} Å of this crystal have to be looked for among "
            f"{candidates:.2g} atoms: choose a simpler zone axis or a smaller area."
        )
    ijk = np.stack(np.meshgrid(*[np.arange(a, b + 1) for a, b in zip(low, high, strict=True)], indexing="ij"), -1)
    ijk = ijk.reshape(-1, 3)
    points = (ijk[:, None, :] @ cell + inner[None]).reshape(-1, 3) @ axes.T
    numbers = np.tile(atoms.numbers, len(ijk)).astype(np.int64)
    small = 1e-6  # so that an atom on the boundary is counted once
    inside = np.all((points >= -small) & (points < reach - small), axis=1)
    if who.partial:
        inside &= who.drawn(len(ijk), np.random.default_rng(0) if rng is None else rng).ravel()
    return Specimen(points[inside], numbers[inside], atoms.get_chemical_formula("reduce"), (), extent)


def smooth_displacement(xy: FloatArray, amplitude: float, rng: np.random.Generator, waves: int = 6) -> FloatArray:
    """Return a random smooth in-plane displacement field at ``xy`` (N, 2), RMS ``amplitude`` per axis, in Å.

    A sum of plane waves with periods of 20 to 60 Å.
    """
    if amplitude == 0 or not len(xy):
        return np.zeros_like(xy)
    period = rng.uniform(20.0, 60.0, waves)
    direction = rng.uniform(0, 2 * np.pi, waves)
    k = 2 * np.pi / period * np.array([np.cos(direction), np.sin(direction)])
    phase = rng.uniform(0, 2 * np.pi, (2, waves))
    waves_at = np.stack([np.sin(xy @ k + phase[axis]) for axis in (0, 1)])
    displacement: FloatArray = amplitude * np.sqrt(2 / waves) * waves_at.sum(-1).T
    return displacement
