"""Assemblies of metal nanoparticles, and the plasmons of their edges and gaps.

The bulk plasmon needs no more than the atoms under the beam (``eels``). What light does at surfaces depends on shapes
and distances; three facts of it are modelled here, each with its formula, and nothing else:

* a particle's edge mode lies at the surface plasmon's energy, ``bulk / sqrt(2)``, and is excited within a few Å of the
  edge: the field of a sphere's multipole falls as ``(R / r)^(l + 1)`` outside and ``(r / R)^l`` inside, here ``l = 3``
  (García de Abajo, Rev. Mod. Phys. 82, 209 (2010));
* the mode of a gap is the pair's dipole mode, which lies at ``bulk / sqrt(3)`` for one sphere and falls in energy as
  the gap closes, by ``1 + 0.18 exp(-(gap / diameter) / 0.23)`` (Jain, Huang & El-Sayed, Nano Lett. 7, 2080 (2007));
* it is excited where the fields of both particles are.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae.imaging.specimens import Particles, Specimen, lattice_points

FloatArray = NDArray[np.float64]

ALUMINIUM_LATTICE = 4.05  # Å
BULK_PLASMON_EV = 15.0  # of aluminium
_ALUMINIUM = 13
_MULTIPOLE = 3
_EDGE_CHANCE, _GAP_CHANCE = 0.02, 0.05  # per electron on the edge, in a closed gap: of the order that is measured
_RULER_DEPTH, _RULER_DECAY = 0.18, 0.23


@dataclasses.dataclass(frozen=True)
class Mode:
    """One plasmon: its energy in eV, and the chance per electron of exciting it at each point."""

    kind: str
    energy_ev: float
    chance: FloatArray


def nanoparticles(
    extent: tuple[float, float] = (160.0, 160.0), count: int = 7, radii: tuple[float, float] = (14.0, 24.0),
    closest: float = 2.0, seed: int = 0,
) -> Specimen:
    """Return spheres of aluminium side by side, each a piece of lattice turned in its own way.

    Parameters
    ----------
    extent : (float, float)
        x and y in Å.
    count : int
        How many, as far as there is room.
    radii : (float, float)
        Smallest and largest radius in Å.
    closest : float
        Smallest gap in Å. Every sphere after the first is put near another one, so that there are narrow gaps.
    seed : int
        Of places, radii and angles.
    """
    rng = np.random.default_rng(seed)
    centres, sizes = [np.asarray(extent) / 2], [float(rng.uniform(*radii))]
    for _ in range(2000):
        if len(centres) == count:
            break
        radius, other = float(rng.uniform(*radii)), int(rng.integers(len(centres)))
        angle, gap = rng.uniform(0, 2 * np.pi), closest + rng.exponential(4.0)
        place = centres[other] + (radius + sizes[other] + gap) * np.array([np.cos(angle), np.sin(angle)])
        inside = np.all((place > radius) & (place < np.asarray(extent) - radius))
        apart = min(np.linalg.norm(place - c) - r for c, r in zip(centres, sizes, strict=True))
        if inside and apart >= radius + closest:
            centres.append(place)
            sizes.append(radius)
    parts = [_sphere(c, r, float(rng.uniform(0, 90))) for c, r in zip(centres, sizes, strict=True)]
    positions = np.concatenate(parts)
    numbers = np.full(len(positions), _ALUMINIUM, dtype=np.int64)
    particles = Particles(np.array(centres), np.array(sizes), BULK_PLASMON_EV)
    return Specimen(positions, numbers, "aluminium nanoparticles", (), extent, particles)


def _sphere(centre: FloatArray, radius: float, rotation: float) -> FloatArray:
    a = ALUMINIUM_LATTICE
    layers = np.arange(-np.ceil(radius / a), np.ceil(radius / a) + 1) * a
    face_centred = np.array([[0, 0, 0], [a / 2, a / 2, 0], [a / 2, 0, a / 2], [0, a / 2, a / 2]])
    basis = np.concatenate([face_centred + np.array([0, 0, z]) for z in layers])
    positions, _ = lattice_points(np.eye(2) * a, basis, (2 * radius + 2 * a,) * 2, rotation)
    positions[:, :2] -= positions[:, :2].mean(axis=0)
    placed: FloatArray = positions[np.linalg.norm(positions, axis=1) <= radius] + np.append(centre, radius)
    return placed


def modes(particles: Particles, points: ArrayLike) -> list[Mode]:
    """Return the edge modes and the gap modes at points ``(..., 2)`` in Å: the ground truth of their maps."""
    points = np.asarray(points, dtype=float)
    distance = np.linalg.norm(points[..., None, :] - particles.centres, axis=-1)
    ratio = distance / particles.radii
    outside, inside = np.maximum(ratio, 1.0) ** (-2 * (_MULTIPOLE + 1)), np.minimum(ratio, 1.0) ** (2 * _MULTIPOLE)
    field = outside * inside  # intensity of the evanescent field, 1 on the edge
    found = [Mode("edge", particles.bulk_ev / np.sqrt(2), _EDGE_CHANCE * field.max(axis=-1))]
    for one, other in itertools.combinations(range(len(particles.radii)), 2):
        radii = particles.radii[[one, other]]
        gap = float(np.linalg.norm(particles.centres[one] - particles.centres[other]) - radii.sum())
        closeness = np.exp(-(gap / radii.sum()) / _RULER_DECAY)  # the sum of the radii is the mean diameter
        energy = particles.bulk_ev / np.sqrt(3) / (1 + _RULER_DEPTH * closeness)
        found.append(Mode("gap", float(energy), _GAP_CHANCE * closeness * field[..., one] * field[..., other]))
    return found
