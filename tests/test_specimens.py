"""Specimens: chemistry and geometry that must hold whatever the seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.spatial import Delaunay, cKDTree

from stem_ae.errors import StemAeError
from stem_ae.imaging import catalogue, defects, oxides
from stem_ae.imaging.specimens import GRAPHENE_LATTICE


def within(specimen, margin):
    xy = specimen.positions[:, :2]
    return np.all((xy > margin) & (xy < np.array(specimen.extent) - margin), axis=1)


def coordination(specimen, reach):
    tree = cKDTree(specimen.positions)
    return tree.query_ball_point(specimen.positions, reach, return_length=True) - 1


@pytest.mark.parametrize("name", catalogue.names())
def test_the_catalogue_makes_the_same_specimen_twice(name):
    first, second = catalogue.entry(name).make(), catalogue.entry(name).make()
    np.testing.assert_array_equal(first.positions, second.positions)
    np.testing.assert_array_equal(first.numbers, second.numbers)
    assert first.extent == catalogue.EXTENT
    assert np.all((first.positions[:, :2] > -1) & (first.positions[:, :2] < np.array(first.extent) + 1))
    nearest = cKDTree(first.positions).query(first.positions, 2)[0][:, 1]
    assert nearest.min() > 1.2  # Å: no two atoms in one place


def test_an_unknown_specimen_is_refused_with_the_choice():
    with pytest.raises(StemAeError, match="MoS2"):
        catalogue.entry("unobtainium")


@pytest.mark.parametrize(("misorientation", "seed"), [(22.0, 0), (13.0, 1), (30.0, 2)])
def test_every_atom_at_a_grain_boundary_has_three_bonds(misorientation, seed):
    sheet = defects.grain_boundary((80.0, 80.0), misorientation, seed=seed)
    inner = within(sheet, 4.0)
    assert set(coordination(sheet, 1.85)[inner].tolist()) == {3}
    pairs = cKDTree(sheet.positions).query_pairs(1.85, output_type="ndarray")
    bonds = np.linalg.norm(np.diff(sheet.positions[pairs], axis=1)[:, 0], axis=1)
    assert bonds.min() > 1.30
    assert bonds.max() < 1.70
    assert np.mean(bonds) == pytest.approx(defects.BOND, abs=0.005)
    density = inner.sum() / (80.0 - 8.0) ** 2
    assert density == pytest.approx(4 / np.sqrt(3) / GRAPHENE_LATTICE**2, rel=0.02)


def test_grain_boundary_turns_the_lattice_by_its_misorientation():
    sheet = defects.grain_boundary((80.0, 80.0), 22.0)
    xy = sheet.positions[:, :2]

    def lattice_angle(side):
        pairs = cKDTree(xy[side]).query_pairs(1.6, output_type="ndarray")
        bond = np.diff(xy[side][pairs], axis=1)[:, 0]
        return np.angle(np.exp(6j * np.arctan2(bond[:, 1], bond[:, 0])).mean()) / 6

    turn = np.rad2deg(lattice_angle(xy[:, 0] > 55) - lattice_angle(xy[:, 0] < 25)) % 60
    assert min(turn, 60 - turn) == pytest.approx(22.0, abs=1.0)


def test_a_hole_is_empty_and_leaves_nothing_dangling():
    sheet = defects.hole((80.0, 80.0), radius=16.0)
    radius = np.linalg.norm(sheet.positions[:, :2] - 40.0, axis=1)
    assert 8.0 < radius.min() < 16.0
    bonds = coordination(sheet, 1.7)
    at_edge = within(sheet, 4.0) & (radius < 30.0)
    assert set(bonds[at_edge].tolist()) == {2, 3}
    assert (bonds[at_edge] == 2).sum() > 20


def test_pillars_are_nickel_oxide_in_a_perovskite():
    film = oxides.nio_lsmo((160.0, 160.0))
    count = Counter(film.numbers.tolist())
    assert count[38] / (count[38] + count[57]) == pytest.approx(0.3, abs=0.02)
    assert count[25] / (count[38] + count[57]) == pytest.approx(1.0, abs=0.1)
    nickel, oxygen = (film.positions[film.numbers == z] for z in (28, 8))
    inner = nickel[cKDTree(nickel).query_ball_point(nickel, 3.1, return_length=True) == 13]  # itself and 12 Ni
    assert len(inner) > 100
    distance = cKDTree(oxygen).query(inner, 6)[0]
    np.testing.assert_allclose(distance, oxides.NIO_LATTICE / 2, atol=1e-6)


def test_walls_separate_two_directions_of_the_same_length():
    displacement = oxides.iron_displacement(np.random.default_rng(0).uniform(0, 160, (4000, 2)))
    np.testing.assert_allclose(displacement[:, 0], 0.35 / np.sqrt(2))
    in_domain = np.abs(displacement[:, 1]) > 0.95 * 0.35 / np.sqrt(2)
    assert in_domain.mean() > 0.55
    up, down = (displacement[in_domain, 1] > 0).mean(), (displacement[in_domain, 1] < 0).mean()
    assert min(up, down) > 0.25

    film = oxides.domain_walls((160.0, 160.0))
    columns, names = film.columns()
    iron, bismuth = (columns[[name == kind for name in names]] for kind in ("Fe", "Bi"))
    iron = iron[np.all((iron > 8) & (iron < 152), axis=1)]
    corners = bismuth[cKDTree(bismuth).query(iron, 4)[1]].mean(axis=1)
    np.testing.assert_allclose(iron - corners, oxides.iron_displacement(corners), atol=0.05)


def test_grain_boundary_rings_close_with_fives_and_sevens():
    """Rings of a planar network of threefold atoms: six on average (Euler), five and seven at the boundary only."""
    sheet = defects.grain_boundary((80.0, 80.0), 22.0)
    sizes, centres = ring_sizes(sheet.positions[:, :2])
    inner = np.all((centres > 6) & (centres < 74), axis=1)
    odd = inner & (sizes != 6)
    assert set(sizes[inner].tolist()) <= {5, 6, 7, 8}
    assert odd.sum() >= 6
    assert np.all(np.abs(centres[odd][:, 0] - 40) < 10)
    assert np.mean(sizes[inner]) == pytest.approx(6.0, abs=0.02)


def ring_sizes(xy):
    """Merge the triangles of the atoms across what is no bond; each patch is a ring."""
    triangles = Delaunay(xy)
    edges = triangles.simplices[:, [[1, 2], [2, 0], [0, 1]]]
    bonded = np.linalg.norm(np.diff(xy[edges], axis=2)[:, :, 0], axis=2) < 1.75
    label = np.full(len(triangles.simplices), -1)
    sizes, centres = [], []
    for seed in range(len(label)):
        if label[seed] >= 0:
            continue
        label[seed] = len(sizes)
        stack, members = [seed], set()
        while stack:
            t = stack.pop()
            members.update(triangles.simplices[t].tolist())
            for side in range(3):
                other = triangles.neighbors[t, side]
                if other >= 0 and not bonded[t, side] and label[other] < 0:
                    label[other] = label[seed]
                    stack.append(other)
        sizes.append(len(members))
        centres.append(xy[list(members)].mean(axis=0))
    return np.array(sizes), np.array(centres)
