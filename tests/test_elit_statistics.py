"""What ELIT says about itself: novelty, class probabilities, ellipses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.frames import frame, score
from stem_ae import elit
from stem_ae.elit.posterior import Posterior, learn
from stem_ae.elit.scan_lines import estimate
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe
from stem_ae.imaging.specimens import graphene
from stem_ae.scoring import calibration_error


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("material", "dose"), [("graphene", 1e6), ("mos2", 1e5)])
def test_what_cannot_be_read_is_announced(material: str, dose: float) -> None:
    ensemble, size = elit.load(material), (256, 256)
    known = frame(material, dose, size=size, seed=31).counts
    strange = {
        "noise": np.random.default_rng(0).poisson(known.mean(), size),
        "inverted": known.max() - known,
        "far out of focus": frame(material, dose, size=size, probe=GaussianProbe(1.3)).counts,
        "defocus": frame(material, dose, size=size, probe=AberratedProbe(defocus=200.0)).counts,
    }
    for name, counts in strange.items():
        assert ensemble.predict(counts, 0.104, refine=False).novelty > 1, name
    assert ensemble.predict(known, 0.104, refine=False).novelty < 1
    assert ensemble.predict(known, 0.052, refine=False).novelty > 1  # told half the sampling


def test_known_frames_raise_no_alarm() -> None:
    for material, doses in (("graphene", (1e5, 1e7)), ("mos2", (1e4, 1e6))):
        for dose in doses:
            for degraded in (False, True):
                counts = frame(material, dose, size=(256, 256), degraded=degraded, seed=32).counts
                assert elit.load(material).predict(counts, 0.104, refine=False).novelty < 1, (material, dose, degraded)


def test_class_probabilities_are_true() -> None:
    truth = frame("mos2", 1e4, seed=33)
    atoms = elit.load("mos2").predict(truth.counts, truth.sampling, refine=False).atoms
    result = score(truth, atoms)
    stated = atoms.probabilities[result.found].max(1)
    assert calibration_error(stated, result.true_names == result.found_names) <= 0.02


def test_the_calibration_error_sees_overconfidence() -> None:
    stated = np.full(1000, 0.95)
    assert calibration_error(stated, np.arange(1000) < 950) == pytest.approx(0, abs=1e-9)
    assert calibration_error(stated, np.arange(1000) < 700) == pytest.approx(0.25, abs=1e-9)


def opinions(
    rng: np.random.Generator, n: int, floor: float, noise: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return errors of networks and likelihood that share part of their noise, the stated variance, and one class."""
    shared, own = rng.normal(0, noise, (2, n, 2))
    likelihood = 0.8 * shared + 0.6 * own
    network = 0.6 * shared + rng.normal(0, floor, (n, 2))
    return network, likelihood, np.full(n, noise**2), np.zeros(n, np.int64)


@pytest.fixture(scope="module")
def learnt() -> Posterior:
    rng = np.random.default_rng(1)
    return learn([opinions(rng, 500, 0.02, noise) for noise in np.geomspace(0.005, 0.08, 40)])


@pytest.mark.parametrize("floor", [0.01, 0.02, 0.04])
def test_each_frame_shows_its_own_floor(learnt: Posterior, floor: float) -> None:
    rng = np.random.default_rng(2)
    network, likelihood, variance, _ = opinions(rng, 1000, floor, 0.01)
    covariance = variance[:, None, None] * np.eye(2)
    error, stated = learnt.combine(network, likelihood, covariance, np.ones(1000, bool))
    assert learnt.floor_of(network - likelihood, covariance) == pytest.approx(floor, rel=0.25)
    inside = np.einsum("ni,nij,nj->n", error, np.linalg.inv(stated), error) < 5.991
    assert 0.92 < inside.mean() < 0.98
    assert error.std() < 1.02 * min(network.std(), likelihood.std())


def test_few_atoms_keep_the_learnt_floor() -> None:
    posterior = Posterior(floor=0.03)
    assert posterior.floor_of(np.full((10, 2), 0.2), np.tile(1e-4 * np.eye(2), (10, 1, 1))) == 0.03


def test_jitter_is_told_from_a_lattice_that_bends_and_has_holes() -> None:
    rng = np.random.default_rng(2)
    xy = graphene((50, 50), silicon=0.0, vacancies=0.02, rotation=17.0, ripple=0.05, seed=3).positions[:, :2]
    heights = np.arange(0, 51, 0.25)
    line = np.convolve(rng.normal(0, 0.08, len(heights)), np.ones(3) / np.sqrt(3), mode="same")
    shift = np.interp(xy[:, 1], heights, line)
    apparent = xy + rng.normal(0, 0.02, xy.shape) + np.column_stack([shift, np.zeros(len(xy))])
    jitter = estimate(apparent, np.tile(np.eye(2) * 0.02**2, (len(xy), 1, 1)))
    assert jitter is not None
    found, variance = jitter.at(xy[:, 1])
    assert np.std(found - shift) < 0.4 * np.std(shift)
    assert 0.9 < (np.abs(found - shift) < 2 * np.sqrt(variance)).mean() <= 1.0
