from __future__ import annotations

import numpy as np
import pytest

from stem_ae import StemAeError
from stem_ae.elit.preprocess import as_image, repair, resample, to_working_grid
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import GaussianProbe

WORKING = 0.2


def spot(xy: tuple[float, float], shape: tuple[int, int], sampling: tuple[float, float]) -> np.ndarray:
    image = expected_fraction(np.array([xy]), np.ones(1), shape, sampling, GaussianProbe(0.5))
    return image.astype(np.float32)


@pytest.mark.parametrize("sampling", [(0.05, 0.05), (0.104, 0.104), (0.2, 0.2), (0.25, 0.25), (0.1, 0.15)])
def test_resampling_leaves_atoms_where_they_are(sampling: tuple[float, float]) -> None:
    xy = (7.3, 11.1)
    shape = (round(20 / sampling[0]), round(16 / sampling[1]))
    image = spot(xy, shape, sampling)
    small = resample(image, sampling, (100, 80), (WORKING, WORKING))
    y, x = np.indices(small.shape) * WORKING
    centre = np.array([(small * x).sum(), (small * y).sum()]) / small.sum()
    assert np.abs(centre - xy).max() < 0.01


def test_a_hot_pixel_and_dead_lines_change_nothing_else() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 20, (60, 2))
    clean = rng.poisson(2000 * expected_fraction(xy, np.full(60, 0.01), (200, 200), 0.104, GaussianProbe(0.5)) + 1)
    clean = clean.astype(np.float32)
    bad = clean.copy()
    bad[50, 60] = 100 * clean.max()
    bad[120] = 0
    bad[:, 33] = 7
    mended = repair(bad)
    touched = np.zeros(bad.shape, bool)
    touched[50, 60] = touched[120] = touched[:, 33] = True
    around = repair(clean)
    assert mended.max() <= clean.max()
    assert np.mean(mended[~touched] != around[~touched]) < 0.001
    noise = np.sqrt(clean.mean())
    assert np.abs(mended - clean)[touched].mean() < 2.5 * noise


def test_gain_and_offset_do_not_matter() -> None:
    image = spot((8, 8), (160, 160), (0.1, 0.1)) + np.random.default_rng(1).normal(0, 0.02, (160, 160))
    first = to_working_grid(as_image(image), 0.1, WORKING)
    second = to_working_grid(as_image(1e4 * image - 3e3), 0.1, WORKING)
    np.testing.assert_allclose(first, second, atol=2e-3)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 4)), "3 dimensions"),
        (np.zeros((0, 5)), "empty"),
        (np.full((9, 9), np.nan), "81 pixels"),
        (np.ones((9, 9)), "everywhere"),
        (np.ones((9, 9), complex), "complex"),
        (np.array([["a", "b"]]), "real numbers"),
    ],
)
def test_bad_images_get_one_clear_sentence(image: np.ndarray, words: str) -> None:
    with pytest.raises(StemAeError, match=words) as error:
        as_image(image)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sampling", [0.001, 50.0])
def test_absurd_samplings_are_refused(sampling: float) -> None:
    image = as_image(np.random.default_rng(0).random((256, 256)))
    with pytest.raises(StemAeError, match="check the sampling"):
        to_working_grid(image, sampling, WORKING)
