"""Plasmons that depend on geometry, disks that follow strain: each against its own truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from stem_ae.explore.scalarize import BandIntegral, CentreOfMass, DiskStrain, Reciprocal
from stem_ae.imaging import diffraction, eels
from stem_ae.imaging.nanoparticles import modes, nanoparticles
from stem_ae.imaging.probe import wavelength
from stem_ae.imaging.specimens import GRAPHENE_LATTICE, Particles, Specimen, graphene
from stem_ae.imaging.virtual_microscope import Beam, Conditions, VirtualMicroscope

LOSSES = np.arange(-4.0, 40.0, 0.2)


def pair(gap):
    return Particles(np.array([[40.0, 40.0], [40.0 + 40.0 + gap, 40.0]]), np.array([20.0, 20.0]), 15.0)


def test_particles_do_not_touch_and_are_as_dense_as_aluminium():
    for seed in range(4):
        specimen = nanoparticles(seed=seed)
        found = specimen.particles
        apart = np.linalg.norm(found.centres[:, None] - found.centres, axis=-1) - found.radii - found.radii[:, None]
        assert apart[~np.eye(len(found.radii), dtype=bool)].min() >= 2.0
        volume = 4 / 3 * np.pi * (found.radii**3).sum()
        assert len(specimen) / volume == pytest.approx(4 / 4.05**3, rel=0.03)


def test_modes_are_where_their_geometry_is():
    points = np.stack(np.meshgrid(np.arange(0.0, 121.0), np.arange(0.0, 81.0)), axis=-1)
    edge, gap = modes(pair(3.0), points)
    row, column = np.unravel_index(gap.chance.argmax(), gap.chance.shape)
    assert points[row, column] == pytest.approx([61.5, 40.0], abs=1.5)
    radius = np.linalg.norm(points - np.array([40.0, 40.0]), axis=-1)
    on_edge = np.abs(radius - 20.0) < 0.5
    assert edge.chance[on_edge].mean() > 5 * edge.chance[radius < 8.0].mean()
    assert edge.energy_ev == pytest.approx(15.0 / np.sqrt(2))


def test_a_gap_that_closes_is_redder_and_stronger():
    energies, chances = [], []
    for width in (2.0, 6.0, 12.0, 60.0):
        _, gap = modes(pair(width), np.array([60.0 + width / 2, 40.0]))
        energies.append(gap.energy_ev)
        chances.append(float(gap.chance))
    assert np.all(np.diff(energies) > 0)
    assert energies[-1] == pytest.approx(15.0 / np.sqrt(3), rel=0.01)  # far apart: one sphere's
    assert energies[0] == pytest.approx(15.0 / np.sqrt(3) / (1 + 0.18 * np.exp(-0.05 / 0.23)))
    assert np.all(np.diff(chances) < 0)


def test_spectra_tell_bulk_edge_and_gap_apart():
    specimen = nanoparticles(seed=0)
    found = specimen.particles
    middle = found.centres[0]
    direction = (found.centres[1] - middle) / np.linalg.norm(found.centres[1] - middle)
    gap_width = np.linalg.norm(found.centres[1] - middle) - found.radii[:2].sum()
    between = middle + direction * (found.radii[0] + gap_width / 2)
    places = {"bulk": middle, "gap": between, "away": np.array([5.0, 150.0])}
    spectra = {name: eels.spectrum(specimen, place, LOSSES, 60e3, 0.5) for name, place in places.items()}
    bulk, low = ({name: float(BandIntegral(band)(one, LOSSES)) for name, one in spectra.items()}
                 for band in ((14.0, 16.0), (7.0, 8.0)))  # fmt: skip
    assert bulk["bulk"] > 1.5 * bulk["gap"]  # plasmons of the bulk are seen from 10 Å away
    assert low["gap"] > 3 * low["bulk"]
    assert bulk["away"] < 0.05 * bulk["bulk"]
    wide = np.arange(-20.0, 4000.0, 0.5)
    assert eels.spectrum(specimen, places["gap"], wide, 60e3, 0.5).sum() == pytest.approx(1.0, abs=0.01)


def stretched(factor):
    sheet = graphene((120.0, 120.0), silicon=0.0)
    positions = sheet.positions.copy()
    positions[:, :2] = 60.0 + (positions[:, :2] - 60.0) @ np.asarray(factor).T
    return dataclasses.replace(sheet, positions=positions)


@pytest.mark.parametrize("strain", [(0.0, 0.0, 0.0), (0.03, 0.0, 0.0), (-0.02, 0.02, 0.0), (0.01, 0.01, 0.02)])
def test_disks_follow_the_strain(strain):
    xx, yy, xy = strain
    gradient = np.array([[1 + xx, xy], [xy, 1 + yy]])
    spacing, step, shape = 1e3 * wavelength(60e3) * 2 / np.sqrt(3) / GRAPHENE_LATTICE, 0.5, (160, 160)
    disks = [(0.0, 0.0)] + [
        (spacing * np.sin(angle), spacing * np.cos(angle)) for angle in np.deg2rad(30 + 60 * np.arange(6))
    ]

    def measured(gradient, component):
        spots = diffraction.bragg_spots(stretched(gradient), (60.0, 60.0), shape, step, 60e3)
        pattern = diffraction.pattern(shape, step, 4.0, (0.0, 0.0), 0.5, spots)
        return float(DiskStrain(tuple(disks), 4.0, component)(pattern, Reciprocal(step)))

    for component, expected in (("xx", xx), ("yy", yy), ("xy", xy)):
        found = measured(gradient, component)
        assert found == pytest.approx(expected, abs=0.012), component  # the halo under the disks pulls them inwards
        assert found - measured(np.eye(2), component) == pytest.approx(expected, abs=0.002), component


def test_disks_leave_the_centre_of_mass_to_the_field_and_need_a_lattice():
    sheet, step, shape = graphene((60.0, 60.0), silicon=0.02, seed=1), 1.0, (256, 256)
    spots = diffraction.bragg_spots(sheet, (29.3, 30.1), shape, step, 60e3)
    assert spots.sum() == pytest.approx(1.0)
    for shift in ((0.0, 0.0), (0.9, -0.4)):
        x, y = (float(CentreOfMass(part)(diffraction.pattern(shape, step, 20.0, shift, 0.2, spots), Reciprocal(step)))
                for part in ("x", "y"))  # fmt: skip
        assert (x, y) == pytest.approx(shift, abs=0.05)
    nothing = Specimen(np.zeros((0, 3)), np.zeros(0, np.int64), "", (), (60.0, 60.0))
    assert diffraction.bragg_spots(nothing, (30.0, 30.0), shape, step, 60e3).sum() == 0


def test_the_microscope_shows_both():
    microscope = VirtualMicroscope(nanoparticles(), Conditions(damage=False), seed=0)
    beam, middle = Beam(), microscope.specimen.particles.centres[0]
    spectrum = microscope.spectrum(middle, LOSSES, beam)
    assert LOSSES[30:][spectrum[30:].argmax()] == pytest.approx(15.0, abs=1.0)
    pattern = microscope.pattern(middle, (128, 128), 1.0, beam)
    assert 0.5 < pattern.sum() <= 1.01
