"""What the bundled models know: for each material, random specimens to train on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import ase
import numpy as np

from stem_ae.elit.calibrate import HEXAGONAL_LATTICE
from stem_ae.elit.synthesis import Conditions, MakeSpecimen
from stem_ae.errors import StemAeError
from stem_ae.imaging.specimens import Specimen, from_ase, graphene, mos2
from stem_ae.occupancy import Occupancy, occupancy


@dataclasses.dataclass(frozen=True)
class Material:
    """A material that a model can be trained for.

    Attributes
    ----------
    species : tuple of str
        Column names, in the order of the model's classes.
    make_specimen : callable
        ``(extent in Å, rng) -> Specimen``.
    conditions : Conditions
        Microscope states to cover.
    lattice_constant : float
        Å, of the hexagonal lattice; 0 where there is none to measure a sampling from.
    digest : str
        Stands for the structure: a training does not go on with another one's.
    """

    species: tuple[str, ...]
    make_specimen: MakeSpecimen
    conditions: Conditions
    lattice_constant: float
    digest: str = ""


def _random_graphene(extent: tuple[float, float], rng: np.random.Generator) -> Specimen:
    silicon = rng.choice([0.0, 0.01, 0.04, 0.12], p=[0.15, 0.3, 0.35, 0.2])
    vacancies = rng.choice([0.0, 0.005, 0.03], p=[0.5, 0.3, 0.2])
    specimen = graphene(
        extent, silicon, vacancies, rng.uniform(0, 360), rng.uniform(0, 0.15), int(rng.integers(2**31))
    )
    if rng.random() < 0.25:
        specimen = _with_boundary(specimen, rng, silicon, vacancies)
    return _with_hole(specimen, rng) if rng.random() < 0.3 else specimen


def _random_mos2(extent: tuple[float, float], rng: np.random.Generator) -> Specimen:
    single = rng.choice([0.03, 0.15, 0.35], p=[0.4, 0.4, 0.2])
    double = rng.choice([0.0, 0.03, 0.1], p=[0.3, 0.4, 0.3])
    specimen = mos2(extent, single, double, rng.uniform(0, 360), rng.uniform(0, 0.15), int(rng.integers(2**31)))
    return _with_hole(specimen, rng) if rng.random() < 0.3 else specimen


def _with_boundary(specimen: Specimen, rng: np.random.Generator, silicon: float, vacancies: float) -> Specimen:
    """Put a second grain beside the first: odd rings and strange bond lengths that a perfect lattice never shows."""
    other = graphene(specimen.extent, silicon, vacancies, rng.uniform(0, 360), 0.0, int(rng.integers(2**31)))
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-6, 6)
    normal = np.array([np.cos(angle), np.sin(angle)])
    centre = np.asarray(specimen.extent) / 2
    height = [(grain.positions[:, :2] - centre) @ normal - offset for grain in (specimen, other)]
    gap = rng.uniform(0.45, 0.7)  # Å on either side: nothing comes closer than a short bond
    keep = specimen[height[0] < -gap], other[height[1] > gap]
    return dataclasses.replace(
        specimen,
        positions=np.concatenate([grain.positions for grain in keep]),
        numbers=np.concatenate([grain.numbers for grain in keep]),
    )


def _with_hole(specimen: Specimen, rng: np.random.Generator) -> Specimen:
    """Cut a round hole or an edge: vacuum, dangling atoms."""
    extent = np.asarray(specimen.extent)
    centre, radius = rng.uniform(0, extent), rng.uniform(3.0, 0.6 * extent.min())
    return specimen[np.hypot(*(specimen.positions[:, :2] - centre).T) > radius]


MATERIALS: dict[str, Material] = {
    "graphene": Material(("C", "Si"), _random_graphene, Conditions(), HEXAGONAL_LATTICE["graphene"], "graphene"),
    "mos2": Material(
        ("Mo", "S2", "S1"), _random_mos2, Conditions(log_dose=(3e3, 1e7)), HEXAGONAL_LATTICE["mos2"], "mos2"
    ),
}


def crystal(atoms: ase.Atoms, zone: tuple[int, int, int], species: Sequence[str] = ()) -> Material:
    """Return a material to train on from a crystal's unit cell.

    Parameters
    ----------
    atoms : ase.Atoms
        The cell. Sites that are partly occupied (see :func:`stem_ae.occupancy.occupancy`) are drawn for each image.
    zone : (int, int, int)
        Zone axis along the beam.
    species : sequence of str
        Columns to look for; all of them if empty.

    Raises
    ------
    StemAeError
        If the cell cannot be used or lacks one of ``species``.
    """
    who = occupancy(atoms)
    present = _columns_of(who, zone)
    missing = [name for name in species if name not in present]
    if missing:
        known = ", ".join(present)
        raise StemAeError(f"Seen along {list(zone)} there is no column {missing[0]!r}: choose from {known}.")

    def make_specimen(extent: tuple[float, float], rng: np.random.Generator) -> Specimen:
        specimen = from_ase(who, extent, zone, rng.uniform(0, 360), rng)
        specimen = specimen[rng.random(len(specimen)) >= rng.choice([0.0, 0.01, 0.05])]
        return _with_hole(specimen, rng) if rng.random() < 0.3 else specimen

    chosen = tuple(species) or tuple(present)
    return Material(chosen, make_specimen, Conditions(), 0.0, _digest(who, zone, chosen))


def _digest(who: Occupancy, zone: Sequence[int], species: Sequence[str]) -> str:
    """Return what stands for a structure as it is seen: other atoms, another cell, another digest."""
    atoms = who.atoms
    facts = [
        atoms.numbers.tolist(), atoms.get_positions(wrap=True, pbc=True).round(3).tolist(),
        np.asarray(atoms.cell).round(3).tolist(), np.round([who.low, who.high], 4).tolist(), list(zone), list(species),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _columns_of(who: Occupancy, zone: tuple[int, int, int]) -> list[str]:
    """Return the names of all columns that a crystal can show, also where an atom is rarely there."""
    rare = np.flatnonzero(who.high - who.low < 1)
    names = set(from_ase(who, (30.0, 30.0), zone).columns()[1])
    for atom in rare:
        names |= set(from_ase(who.with_certainly(int(atom)), (30.0, 30.0), zone).columns()[1])
    return sorted(names)
