"""Classes and defects against the truth of simulated specimens, on what the bundled networks find."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stem_ae import classify, defects, elit
from stem_ae.atoms import Atoms2D
from stem_ae.elit.prediction import Prediction
from stem_ae.errors import StemAeError
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import Specimen, graphene, mos2

SAMPLING = 0.12
SHAPE = (330, 360)
MARGIN = 6.0


def shoot(specimen: Specimen, dose: float) -> np.ndarray:
    xy = specimen.positions[:, :2] - MARGIN
    fraction = expected_fraction(xy, cross_section(specimen.numbers), SHAPE, SAMPLING, GaussianProbe(0.5))
    return detect(fraction, electrons_for_dose(dose, SAMPLING), np.random.default_rng(1), 1e-5, 0.2).astype(np.float32)


def inside(xy: np.ndarray, edge: float) -> np.ndarray:
    limit = (np.array(SHAPE[::-1]) - 1) * SAMPLING
    return np.all((xy > edge) & (xy < limit - edge), axis=1)


EXTENT = (SHAPE[1] * SAMPLING + 2 * MARGIN, SHAPE[0] * SAMPLING + 2 * MARGIN)


@pytest.fixture(scope="module")
def sheet():
    """Graphene with silicon and vacancies: image, prediction, and where silicon and vacancies are."""
    whole = graphene(EXTENT, 0.012, 0.0, 11.0, 0.02, seed=4)
    rng = np.random.default_rng(5)
    xy = whole.positions[:, :2] - MARGIN
    candidates = np.flatnonzero((whole.numbers == 6) & inside(xy, 5.0))
    removed: list[int] = []
    silicon = xy[whole.numbers == 14]
    for k in rng.permutation(candidates):
        others = np.vstack([xy[removed].reshape(-1, 2), silicon])
        if np.linalg.norm(others - xy[k], axis=1).min() > 5.0:
            removed.append(int(k))
        if len(removed) == 4:
            break
    kept = np.setdiff1d(np.arange(len(xy)), removed)
    specimen = dataclasses.replace(whole, positions=whole.positions[kept], numbers=whole.numbers[kept])
    image = shoot(specimen, 2e6)
    return image, elit.load("graphene").predict(image, SAMPLING), silicon, xy[removed]


def test_bonds_are_those_of_the_truth_also_beside_a_vacancy(sheet):
    """Noise of the positions shortens the distance to the nearest atom, and hardly the mean of all bonds."""
    _, prediction, _, removed = sheet
    atoms = prediction.atoms
    lengths = classify.mean_bonds(atoms)
    count, border = classify.coordination(atoms)
    nearest = cKDTree(atoms.positions).query(atoms.positions, k=2)[0][:, 1]
    beside = cKDTree(removed).query(atoms.positions)[0] < 1.7
    assert (count[beside] == 2).all()
    for those in (~border & ~beside, beside):
        assert lengths[those].mean() == pytest.approx(1.42, abs=0.015)
        assert nearest[those].mean() < lengths[those].mean() - 0.01


def names_at(atoms: Atoms2D, xy: np.ndarray) -> list[str]:
    distance, index = cKDTree(atoms.positions).query(xy)
    assert (distance < 0.4).all()
    return [atoms.symbols[k] for k in index]


def test_intensity_confirms_right_classes_and_no_wrong_ones(sheet):
    """Where silicon is called carbon, and carbon silicon, intensities speak against it."""
    _, prediction, silicon, _ = sheet
    atoms = prediction.atoms
    assert classify.confirmed(atoms).mean() > 0.99
    labels = atoms.labels.copy()
    is_silicon = cKDTree(silicon).query(atoms.positions)[0] < 0.5
    assert is_silicon.sum() >= 8
    wrong = np.concatenate([np.flatnonzero(is_silicon)[:2], np.flatnonzero(~is_silicon)[::100]])
    labels[wrong] = 1 - labels[wrong]
    confirmed = classify.confirmed(dataclasses.replace(atoms, labels=labels))
    assert not confirmed[wrong].any()
    assert np.delete(confirmed, wrong).mean() > 0.99


def test_intensity_tells_silicon_from_carbon_without_a_network(sheet):
    _, prediction, silicon, _ = sheet
    grouped = classify.by_intensity(prediction.atoms)
    assert grouped.species == ("I1", "I2")
    assert set(names_at(grouped, silicon[inside(silicon, 1.0)])) == {"I2"}
    assert grouped.counts()["I2"] <= inside(silicon, -0.5).sum()
    np.testing.assert_allclose(grouped.probabilities.sum(1), 1)
    np.testing.assert_array_equal(grouped.positions, prediction.atoms.positions)


def test_atoms_of_one_kind_stay_one_group():
    rng = np.random.default_rng(0)
    n = 400
    atoms = Atoms2D(
        rng.uniform(0, 50, (n, 2)), np.zeros((n, 2, 2)), np.zeros(n), ("C",), np.ones((n, 1)),
        rng.normal(10, 1, n), (500, 500), 0.1,
    )  # fmt: skip
    assert classify.by_intensity(atoms).species == ("I1",)
    assert classify.by_intensity(atoms, groups=3).species == ("I1", "I2", "I3")
    with pytest.raises(StemAeError, match="too few"):
        classify.by_intensity(atoms[:3])


def test_neighbours_of_a_vacancy_have_two(sheet):
    _, prediction, _, vacancies = sheet
    by = classify.by_neighbours(prediction.atoms)
    for vacancy in vacancies:
        around = np.linalg.norm(by.positions - vacancy, axis=1) < 1.8
        assert [by.symbols[k] for k in np.flatnonzero(around)] == ["2 neighbours"] * 3
    limit = (np.array(SHAPE[::-1]) - 1) * SAMPLING
    deep = np.all((by.positions > 3) & (by.positions < limit - 3), axis=1)
    count = by[deep].counts()
    assert count["3 neighbours"] == deep.sum() - 3 * len(vacancies)
    assert count["border"] == 0


def test_one_click_on_each_class_is_enough_for_sulphur_vacancies():
    specimen = mos2(EXTENT, 0.12, 0.0, 8.0, 0.02, seed=2)
    image = shoot(specimen, 3e5)
    atoms = elit.load("mos2").predict(image, SAMPLING).atoms
    xy, names = specimen.columns()
    xy = xy - MARGIN
    truth = np.array(names)
    middle = np.argsort(np.linalg.norm(xy - np.array(SHAPE[::-1]) * SAMPLING / 2, axis=1))
    clicks = {name: [xy[k] for k in middle if truth[k] == name][:2] for name in ("Mo", "S2", "S1")}
    learnt = classify.by_examples(atoms, image, clicks)
    assert learnt.species == ("Mo", "S2", "S1")
    there = inside(xy, 3.0)
    found = np.array(names_at(learnt, xy[there]))
    assert np.mean(found == truth[there]) > 0.97
    assert np.mean(found[truth[there] == "S1"] == "S1") > 0.9
    with pytest.raises(StemAeError, match="two classes"):
        classify.by_examples(atoms, image, {"Mo": clicks["Mo"]})
    with pytest.raises(StemAeError, match="on no atom"):
        classify.by_examples(atoms, image, {"a": [[-9.0, -9.0]], "b": clicks["Mo"]})


def test_defects_are_where_they_were_made(sheet):
    _, prediction, silicon, vacancies = sheet
    found = defects.find_defects(prediction)
    places = {kind: np.array([d.position for d in found if d.kind == kind]) for kind in {d.kind for d in found}}
    assert set(places) == {"vacancy", "Si"}
    assert len(places["vacancy"]) == len(vacancies)
    assert cKDTree(places["vacancy"]).query(vacancies)[0].max() < 0.5
    assert cKDTree(places["Si"]).query(silicon[inside(silicon, 1.0)])[0].max() < 0.3
    assert len(places["Si"]) <= inside(silicon, -0.5).sum()
    assert all(0.8 < d.confidence <= 1 for d in found)
    members = next(d for d in found if d.kind == "vacancy").atoms
    assert len(members) == 12  # the ring around one missing atom


def test_a_rotated_bond_is_a_stone_wales_defect():
    whole = graphene(EXTENT, 0.0, 0.0, 11.0, 0.0, seed=4)
    xy = whole.positions[:, :2] - MARGIN
    middle = np.array(SHAPE[::-1]) * SAMPLING / 2
    first = int(np.linalg.norm(xy - middle, axis=1).argmin())
    second = int(np.argsort(np.linalg.norm(xy - xy[first], axis=1))[1])
    centre = (xy[first] + xy[second]) / 2
    bonds = {tuple(pair) for pair in cKDTree(xy).query_pairs(1.6)}
    outer = sorted({k for pair in bonds for k in pair if {first, second} & set(pair)} - {first, second})
    for k in (first, second):
        x, y = xy[k] - centre
        xy[k] = centre + np.array([-y, x])
    bonds = {pair for pair in bonds if not {first, second} & set(pair)} | {(first, second)}
    bonds |= {(min((first, second), key=lambda k, o=o: np.linalg.norm(xy[k] - xy[o])), o) for o in outer}
    for _ in range(80):  # the ideal rotated pair has bonds far from 1.42 Å: they pull their surroundings
        for i, j in sorted(bonds):
            d = xy[j] - xy[i]
            push = 0.2 * (np.linalg.norm(d) - 1.42) * d / np.linalg.norm(d)
            xy[i] += push
            xy[j] -= push
    shown = xy[inside(xy, 0.2)]
    n = len(shown)
    atoms = Atoms2D(shown, np.zeros((n, 2, 2)), np.zeros(n), ("C",), np.ones((n, 1)), np.ones(n), SHAPE, SAMPLING)
    maps = np.zeros((1, int(SHAPE[0] * 0.6) + 1, int(SHAPE[1] * 0.6) + 1), np.float32)
    maps[0, np.rint(shown[:, 1] / 0.2).astype(int), np.rint(shown[:, 0] / 0.2).astype(int)] = 0.9
    (found,) = defects.find_defects(Prediction(maps, 0 * maps[0], 0.2, atoms, 0.0))
    assert found.kind == "Stone-Wales"
    assert np.linalg.norm(np.array(found.position) - centre) < 0.3


def test_where_the_members_disagree_it_is_unknown(sheet):
    _, prediction, _, _ = sheet
    doubt = np.array(prediction.working_uncertainty)
    step = prediction.working_sampling
    y, x = np.indices(doubt.shape) * step
    doubt[(x - 20) ** 2 + (y - 15) ** 2 < 4**2] = 0.3
    found = defects.find_defects(dataclasses.replace(prediction, working_uncertainty=doubt))
    (unknown,) = (d for d in found if d.kind == "unknown")
    assert unknown.position == pytest.approx((20, 15), abs=0.5)
    assert unknown.radius == pytest.approx(4, abs=0.6)
