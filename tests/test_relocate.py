"""Finding a region of a crystal again: correct where its defects identify it, and no certainty where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from stem_ae import Atoms2D
from stem_ae.imaging import specimens
from stem_ae.manipulate.relocate import relocated

SPECIES = ("Mo", "S2", "S1")
FIELD, STEP = 40.0, 0.2


def seen(xy, names, origin, rng, missed=0.02, misread=0.02):
    """Return what networks find of columns in a field of 40 Å whose corner is at ``origin``."""
    here = xy - origin
    inside = np.all((here > 0) & (here < FIELD), axis=1) & (rng.random(len(xy)) > missed)
    labels = np.array([SPECIES.index(name) for name in names])[inside]
    sulphur = np.isin(labels, (1, 2)) & (rng.random(len(labels)) < misread)
    labels = np.where(sulphur, 3 - labels, labels)
    n = len(labels)
    return Atoms2D(
        here[inside] + rng.normal(0, 0.05, (n, 2)), np.tile(np.eye(2) * 2.5e-3, (n, 1, 1)), labels, SPECIES,
        np.eye(3)[labels], np.ones(n), (200, 200), STEP,
    )  # fmt: skip


def disulfide(vacancies, seed=0):
    xy, names = specimens.mos2((90.0, 90.0), vacancies, 0.0, rotation=7.0, seed=seed).columns()
    return xy - xy.min(axis=0), np.array(names)


def test_a_piece_with_vacancies_is_found_again_and_never_at_a_wrong_place():
    certain = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        xy, names = disulfide(0.1, seed)
        origin = np.array([24.0, 24.0])
        before = seen(xy, names, origin, rng)
        went = rng.uniform(-10, 10, 2)
        place = relocated(before, seen(xy, names, origin - went, rng), 8.0)
        assert place is not None
        if place.is_certain:
            certain += 1
            assert place.shift == pytest.approx(went, abs=0.15), seed
    assert certain > 30


def test_atoms_that_a_run_has_ejected_tell_where_a_perfect_crystal_went():
    rng = np.random.default_rng(1)
    xy, names = disulfide(0.0)
    origin = np.array([24.0, 24.0])
    chosen = [np.argmin(np.linalg.norm(xy - origin - place, axis=1) + 99.0 * (names != "S2"))
              for place in ((12, 12), (20, 14), (28, 25), (15, 30), (22, 22), (9, 20))]  # fmt: skip
    names[chosen] = "S1"
    before = seen(xy, names, origin, rng, misread=0.0)
    went = np.array([5.3, -3.1])
    place = relocated(before, seen(xy, names, origin - went, rng, misread=0.0), 8.0)
    assert place is not None
    assert place.is_certain
    assert place.shift == pytest.approx(went, abs=0.15)


def test_a_perfect_crystal_may_be_anywhere_and_it_says_so():
    rng = np.random.default_rng(2)
    xy, names = disulfide(0.0)
    origin = np.array([24.0, 24.0])
    before = seen(xy, names, origin, rng)
    went = np.array([0.3, -0.2])
    after = seen(xy, names, origin - went, rng)
    place = relocated(before, after, 8.0)
    assert place is not None
    assert not place.is_certain
    assert place.nearest == pytest.approx(went, abs=0.15)
    soon = relocated(before, after, 0.3)  # it cannot have gone far
    assert soon is not None
    assert soon.is_certain
    assert soon.shift == pytest.approx(went, abs=0.15)


def test_another_specimen_is_not_found():
    rng = np.random.default_rng(3)
    xy, names = disulfide(0.02)
    before = seen(xy, names, np.array([24.0, 24.0]), rng)
    turned, other = specimens.mos2((90.0, 90.0), 0.02, 0.0, rotation=21.0, seed=5).columns()
    elsewhere = seen(turned - turned.min(axis=0), np.array(other), np.array([24.0, 24.0]), rng)
    assert relocated(before, elsewhere, 8.0) is None
    chance = rng.uniform(0, 90, (len(xy), 2))
    assert relocated(before, seen(chance, names, np.array([24.0, 24.0]), rng), 8.0) is None
    assert relocated(before, before[:5], 8.0) is None
