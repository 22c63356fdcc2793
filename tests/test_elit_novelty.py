"""What is unlike anything known: conditions, and unknown elements, which are pointed out one by one."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.spatial import cKDTree

from benchmarks.frames import USUAL_PROBE, Truth, frame
from stem_ae import elit
from stem_ae.atoms import Atoms2D
from stem_ae.defects import find_defects
from stem_ae.elit import foreign
from stem_ae.elit.ensemble import Ensemble
from stem_ae.elit.novelty import Familiar, Signs
from stem_ae.elit.wire import packed, unpacked
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.store import models

SIZE = (256, 256)
DOSE = {"graphene": 1e6, "mos2": 1e5}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def doped(material: str, column: str, there: int, instead: int, seed: int) -> tuple[Truth, np.ndarray]:
    """Return a frame in which an atom of four columns is another element, which adds its scattering; and where."""
    truth = frame(material, DOSE[material], size=SIZE, seed=seed)
    limit = (np.array(SIZE) - 1) * truth.sampling
    inner = ((truth.xy > 3) & (truth.xy < limit - 3)).all(1) & (np.array(truth.names) == column)
    chosen = truth.xy[np.random.default_rng(seed).choice(np.flatnonzero(inner), 4, replace=False)]
    more = np.full(4, float(cross_section(instead) - cross_section(there)))
    fraction = expected_fraction(chosen, more, SIZE, truth.sampling, USUAL_PROBE)
    extra = np.random.default_rng(seed).poisson(electrons_for_dose(DOSE[material], truth.sampling) * fraction)
    return dataclasses.replace(truth, counts=(truth.counts + extra).astype(np.float32)), chosen


@pytest.mark.parametrize(
    ("material", "column", "there", "instead"),
    [("mos2", "S2", 16, 34), ("mos2", "Mo", 42, 74), ("graphene", "C", 6, 78)],
)
def test_an_unknown_element_is_announced_and_pointed_out(material: str, column: str, there: int, instead: int) -> None:
    ensemble = elit.load(material)
    truth, chosen = doped(material, column, there, instead, seed=42)
    prediction = ensemble.predict(truth.counts, truth.sampling)
    assert prediction.novelty > max(1, prediction.conditions)  # adapting to the conditions would not help
    assert (prediction.foreign[:, 2] > 1).all()
    nearest = cKDTree(chosen).query(prediction.foreign[:, :2])[0]
    assert (nearest < 0.3).sum() >= 3
    assert (nearest > 0.3).sum() <= 1
    listed = [defect for defect in find_defects(prediction) if defect.kind == "unknown" and defect.atoms]
    assert len(listed) == len(prediction.foreign)
    taken = {k for defect in listed for k in defect.atoms}
    others = [defect for defect in find_defects(prediction) if defect.kind in prediction.atoms.species]
    assert not taken & {k for defect in others for k in defect.atoms}
    assert all(0.5 <= defect.confidence < 1 for defect in listed)
    again = unpacked(*packed(prediction))
    np.testing.assert_array_equal(again.foreign, prediction.foreign)
    assert again.conditions == prediction.conditions


@pytest.mark.parametrize("material", ["graphene", "mos2"])
def test_an_offset_across_the_frame_is_no_novelty(material: str) -> None:
    counts = frame(material, DOSE[material], size=SIZE, seed=42).counts
    slanted = counts + 2.5 * counts.max() * np.linspace(0, 1, SIZE[0], dtype=np.float32)[:, None]  # within 27 Å
    prediction = elit.load(material).predict(slanted, 0.104)
    assert prediction.novelty < 1
    assert not len(prediction.foreign)


@pytest.mark.parametrize("material", ["graphene", "mos2"])
def test_conditions_that_cannot_be_read_are_no_foreign_atoms(material: str) -> None:
    truth = frame(material, DOSE[material], size=SIZE, probe=AberratedProbe(defocus=100.0), seed=42)
    prediction = elit.load(material).predict(truth.counts, truth.sampling)
    assert prediction.conditions > 1
    assert not len(prediction.foreign)


def shown(reading: np.ndarray, rng: np.random.Generator) -> Signs:
    """Return the signs of a frame that is usual but for its reading."""
    labels = np.add(*np.indices((6, 6))).ravel() % 2
    height = np.where(labels == 0, 1.0, 0.4) * rng.normal(1, 0.05, 36)
    return Signs(rng.normal(size=(2, 3, 4)), rng.normal(size=5), reading, sheet(height, labels))


def test_few_known_frames_are_above_the_limit_and_misread_ones_are() -> None:
    """Known readings spread widely along the first axis, and those that are read wrongly lie just beyond its end."""
    rng = np.random.default_rng(6)

    def readings(count: int, first: float) -> np.ndarray:
        values = rng.normal(size=(count, 12))
        values[:, 0] = first + 3 * rng.uniform(-1, 1, count)
        return values

    known = [shown(reading, rng) for reading in readings(250, 0.0)]
    misread = [shown(reading, rng) for reading in readings(60, 6.5)]
    familiar = Familiar.learn(known, misread)
    again = Familiar.from_tensors(familiar.tensors())
    assert again is not None
    others = [again.novelty(shown(reading, rng))[0] for reading in readings(300, 0.0)]
    assert 0.003 < np.mean(np.array(others) > 1) < 0.06
    beyond = [shown(reading, rng) for reading in readings(100, 6.5)]
    assert np.mean([again.novelty(signs)[0] > 1 for signs in beyond]) > 0.9
    assert np.mean([Familiar.learn(known).novelty(signs)[0] > 1 for signs in beyond]) < 0.7  # a distance alone
    adapted = again.learn_also(known[:20], beyond[:20])
    assert max(adapted.novelty(signs)[0] for signs in beyond[:20]) < 1.3


def sheet(brightness: np.ndarray, labels: np.ndarray) -> foreign.Seen:
    """Return a square lattice of two classes, certain of them, with heights."""
    n = round(len(brightness) ** 0.5)
    xy = np.stack(np.meshgrid(*2 * [2.0 * np.arange(n) + 2]), -1).reshape(-1, 2)
    shape = (20 * n + 20, 20 * n + 20)
    atoms = Atoms2D(
        xy, np.zeros((n * n, 2, 2)), labels, ("A", "B"), np.eye(2)[labels], np.ones(n * n), shape, (0.1, 0.1)
    )
    return foreign.Seen(atoms, brightness, foreign.surroundings(xy))


def test_brightness_is_compared_with_the_class_and_the_surroundings() -> None:
    rng = np.random.default_rng(3)
    labels = np.add(*np.indices((20, 20))).ravel() % 2
    column = np.indices((20, 20))[1].ravel()
    height = np.where(labels == 0, 1.0, 0.4) * rng.normal(1, 0.05, 400) * np.linspace(1, 4, 20)[column]
    odd = np.array([105, 208, 331])
    changed = height.copy()
    changed[odd] *= 2.0
    usual = np.log([1.0, 0.4])
    assert np.abs(foreign.deviations(sheet(height, labels), usual)).max() < 5
    away = foreign.deviations(sheet(changed, labels), usual)
    assert (away[odd] > 5).all()
    assert np.abs(np.delete(away, odd)).max() < 5
    noisy = np.where(column < 8, height * rng.lognormal(0, 0.5, 400), height)  # hydrocarbon over a part of the frame
    away = np.abs(foreign.deviations(sheet(noisy, labels), usual))
    assert away[column < 8].max() < 6


def test_a_rare_class_is_known_by_its_usual_brightness() -> None:
    labels = np.zeros(400, int)
    rare = np.array([45, 130, 222, 307])
    labels[rare] = 1
    height = np.random.default_rng(4).normal(1, 0.05, 400)
    height[rare] *= 4 * 2.4  # all of them another element
    assert np.abs(foreign.deviations(sheet(height, labels), np.array([0.0, np.nan]))[rare]).max() < 2
    assert foreign.deviations(sheet(height, labels), np.log([1.0, 4.0]))[rare].min() > 4


@pytest.mark.parametrize("parts", [("doubt",), ("brightness", "doubt"), ("brightness", "doubt", "spectrum", "reading")])
def test_a_model_of_an_earlier_version_knows_its_features(tmp_path: pathlib.Path, parts: tuple[str, ...]) -> None:
    path = models.find("graphene")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    dropped = tuple(f"familiar.{part}" for part in parts)
    kept = {k: v for k, v in load_file(path).items() if not k.startswith(dropped)}
    save_file(kept, tmp_path / "old.safetensors", metadata=metadata)
    old = Ensemble.read(tmp_path / "old.safetensors")
    assert 0 < old.predict(frame("graphene", 1e6, size=(200, 200)).counts, 0.104).novelty < 1


def test_a_few_atoms_are_not_judged() -> None:
    atoms = Atoms2D.empty(("A", "B"), (100, 100), (0.1, 0.1))
    none = foreign.Seen(atoms, np.zeros(0), foreign.surroundings(atoms.positions))
    assert foreign.deviations(none, np.zeros(2)).shape == (0,)
