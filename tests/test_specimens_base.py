"""Crystals: lattice constants, densities, columns, and handedness against ASE."""

from __future__ import annotations

import ase
import numpy as np
import pytest
from ase.build import bulk
from scipy.spatial import cKDTree

from stem_ae.errors import StemAeError
from stem_ae.imaging.specimens import from_ase, graphene, mos2, smooth_displacement


def interior(xy, extent, margin=4.0):
    return np.all((xy > margin) & (xy < np.array(extent) - margin), axis=1)


@pytest.mark.parametrize("rotation", [0.0, 17.0, 45.0])
def test_graphene_has_its_bonds_and_its_density(rotation):
    sheet = graphene((100.0, 80.0), silicon=0.0, rotation=rotation)
    xy = sheet.positions[:, :2]
    nearest = cKDTree(xy).query(xy, 4)[0][interior(xy, sheet.extent), 1:]
    np.testing.assert_allclose(nearest, 2.46 / np.sqrt(3), atol=1e-9)
    assert len(sheet) / (100 * 80) == pytest.approx(2 / (2.46**2 * np.sqrt(3) / 2), rel=0.01)


def test_rotation_turns_x_towards_y():
    straight, turned = (graphene((60.0, 60.0), silicon=0.0, rotation=angle).positions[:, :2] for angle in (0.0, 10.0))
    angle = np.deg2rad(10.0)
    expected = (straight - 30) @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + 30
    inner = interior(expected, (60.0, 60.0))
    assert cKDTree(turned).query(expected[inner])[0].max() < 1e-9


def test_dopants_and_vacancies_come_in_the_asked_share():
    sheet = graphene((300.0, 300.0), silicon=0.03, vacancies=0.05)
    sites = 300 * 300 * 2 / (2.46**2 * np.sqrt(3) / 2)
    assert len(sheet) == pytest.approx(0.95 * sites, rel=0.01)
    assert (sheet.numbers == 14).mean() == pytest.approx(0.03, abs=4 * np.sqrt(0.03 / len(sheet)))


def test_columns_of_mos2_are_counted():
    layer = mos2((250.0, 250.0), single_vacancies=0.1, double_vacancies=0.03, seed=2)
    xy, names = layer.columns()
    names = np.array(names)
    assert set(names) == {"Mo", "S2", "S1"}
    cells = 250 * 250 / (3.16**2 * np.sqrt(3) / 2)
    share = {name: (names == name).sum() / cells for name in ("Mo", "S2", "S1")}
    assert share["Mo"] == pytest.approx(1.0, abs=0.01)
    assert share["S1"] == pytest.approx(0.10, abs=0.012)
    assert share["S2"] == pytest.approx(0.87, abs=0.02)
    assert (layer.numbers == 16).sum() == 2 * (names == "S2").sum() + (names == "S1").sum()
    molybdenum = xy[(names == "Mo") & interior(xy, layer.extent)]
    to_sulphur = cKDTree(xy[names != "Mo"]).query(molybdenum)[0]
    assert np.median(to_sulphur) == pytest.approx(3.16 / np.sqrt(3), abs=1e-6)
    heights = np.unique(np.round(layer.positions[layer.numbers == 16, 2], 3))
    np.testing.assert_allclose(heights, [-1.56, 1.56])


def test_a_selection_without_atoms_has_no_columns():
    sheet = graphene((20.0, 20.0))
    xy, names = sheet[np.zeros(len(sheet), bool)].columns()
    assert xy.shape == (0, 2)
    assert names == []


def test_ripples_have_the_stated_size():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 2000, (4000, 2))
    moves = np.concatenate([smooth_displacement(xy, 0.2, rng) for _ in range(5)])
    assert moves.std() == pytest.approx(0.2, rel=0.05)


def chiral_cell():
    """Return a triclinic crystal of one small chiral molecule."""
    cell = [[6.0, 0.0, 0.0], [1.5, 6.5, 0.0], [-0.8, 1.1, 7.0]]
    return ase.Atoms("CNOF", positions=[[2, 2, 2], [3.1, 2, 2], [2, 3.3, 2], [2, 2.2, 3.5]], cell=cell, pbc=True)


@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 0, 0), (1, 1, 0), (1, -2, 1)])
@pytest.mark.parametrize("rotation", [0.0, 33.0])
def test_a_crystal_keeps_its_distances_its_hand_and_its_density(zone, rotation):
    crystal = chiral_cell()
    period = float(np.linalg.norm(np.array(zone) @ crystal.cell.array))
    extent = (70.0, 60.0)
    specimen = from_ase(crystal, extent, zone, rotation)
    assert specimen.positions[:, 2].min() > -1e-3
    assert specimen.positions[:, 2].max() < period
    assert len(specimen) == pytest.approx(4 * extent[0] * extent[1] * period / crystal.get_volume(), rel=0.08)

    molecule = crystal.positions[1:] - crystal.positions[0]
    size = np.linalg.norm(molecule, axis=1)
    of = {number: specimen.positions[specimen.numbers == number] for number in (6, 7, 8, 9)}
    whole = 0
    for carbon in of[6]:
        arms = [of[number][np.argmin(np.linalg.norm(of[number] - carbon, axis=1))] - carbon for number in (7, 8, 9)]
        if np.allclose(np.linalg.norm(arms, axis=1), size, atol=1e-6):  # not cut by the border
            np.testing.assert_allclose(np.linalg.det(arms), np.linalg.det(molecule), rtol=1e-6)
            whole += 1
    assert whole > 10


def test_the_zone_axis_is_the_beam():
    # Along [1 1 0] of rock salt every column holds one element; rows of Na and of Cl alternate.
    a = 5.64
    salt = bulk("NaCl", "rocksalt", a, cubic=True)
    xy, names = from_ase(salt, (40.0, 40.0), (1, 1, 0)).columns()
    sodium, chlorine = (xy[np.array(names) == name] for name in ("Na", "Cl"))
    inner = sodium[interior(sodium, (40.0, 40.0))]
    np.testing.assert_allclose(cKDTree(chlorine).query(inner)[0], a / np.sqrt(8), atol=1e-6)
    np.testing.assert_allclose(cKDTree(sodium).query(inner, 2)[0][:, 1], a * np.sqrt(3 / 8), atol=1e-6)


def test_what_is_no_crystal_is_refused():
    with pytest.raises(StemAeError, match="cell"):
        from_ase(ase.Atoms("C"), (10.0, 10.0))
    with pytest.raises(StemAeError, match="zone axis"):
        from_ase(chiral_cell(), (10.0, 10.0), (0, 0, 0))
