"""The reconstruction is nearer to the truth than any smoothing, and says how near."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import griddata

from stem_ae.errors import StemAeError
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import mos2
from stem_ae.reconstruct import reconstruct

SAMPLING, SHAPE = 0.125, (160, 176)
WIDTHS = np.arange(0.5, 6, 0.25)


def scene(electrons: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the noisy counts and what they would be on average."""
    specimen = mos2((30.0, 30.0), 0.1, 0.02, 10.0, 0.05, seed=2)
    xy, weights = specimen.positions[:, :2] - 3.0, cross_section(specimen.numbers)
    mean = electrons * (expected_fraction(xy, weights, SHAPE, (SAMPLING, SAMPLING), GaussianProbe(0.5)) + 1e-4)
    counts = np.random.default_rng(seed).poisson(mean) + np.random.default_rng(seed + 1).normal(0, 0.2, SHAPE)
    return counts, mean


def error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((image - truth) ** 2)))


@pytest.mark.parametrize("electrons", [150.0, 1500.0])
def test_a_noisy_frame_is_nearer_to_the_truth_than_by_the_best_smoothing(electrons):
    counts, truth = scene(electrons)
    answer = reconstruct(counts)
    best = min(error(ndimage.gaussian_filter(counts, width), truth) for width in WIDTHS)  # chosen with the truth
    assert error(answer.mean, truth) < 0.97 * best
    assert answer.noise == pytest.approx(float(np.std(counts - truth)), rel=0.1)
    assert 0.9 < np.mean(np.abs(answer.mean - truth) < 1.96 * answer.std) < 0.999


def test_a_sparse_frame_is_filled_in_better_than_by_interpolation():
    counts, truth = scene(1500.0)
    measured = np.random.default_rng(3).random(SHAPE) < 0.3
    sparse = np.where(measured, counts, np.nan)
    answer = reconstruct(sparse)
    nearest = griddata(np.argwhere(measured), counts[measured], tuple(np.indices(SHAPE)), method="nearest")
    best = min(error(ndimage.gaussian_filter(nearest, width), truth) for width in WIDTHS)
    assert error(answer.mean, truth) < 0.8 * best
    assert 0.9 < np.mean(np.abs(answer.mean - truth) < 1.96 * answer.std) < 0.999
    assert error(reconstruct(counts).mean, truth) < error(answer.mean, truth)


def test_it_is_less_sure_where_nothing_was_measured():
    counts, _ = scene(1500.0)
    measured = np.ones(SHAPE, bool)
    measured[60:100, 70:110] = False
    answer = reconstruct(counts, measured)
    assert answer.std[72:88, 82:98].min() > 1.5 * answer.std[10:50].mean()


def test_nothing_but_noise_stays_flat():
    counts = np.random.default_rng(0).normal(5.0, 2.0, (128, 128))
    answer = reconstruct(counts)
    assert answer.mean.std() < 0.1 * 2.0
    assert answer.mean.mean() == pytest.approx(counts.mean(), abs=0.01)


@pytest.mark.parametrize(
    ("image", "measured", "words"),
    [
        (np.ones((4, 4)), None, "2-D frame"),
        (np.ones((64, 64, 2)), None, "2-D frame"),
        (np.full((64, 64), np.nan), None, "were measured"),
        (np.ones((64, 64)), np.ones((32, 32), bool), "image's shape"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(image, measured, words):
    with pytest.raises(StemAeError, match=words):
        reconstruct(image, measured)
