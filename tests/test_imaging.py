"""Image formation against closed formulas, direct sums and statistics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, special

from stem_ae.errors import StemAeError
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.bound import joint_position_bound
from stem_ae.imaging.contamination import hydrocarbon
from stem_ae.imaging.distortion import drifted, line_jitter
from stem_ae.imaging.dose import dose_per_area, electrons_for_dose, electrons_per_pixel
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe, wavelength
from stem_ae.imaging.scattering import cross_section

SHARP = {"energy_ev": 60e3, "semiangle_mrad": 32.0, "source_sigma": 0.0}


def pixel_centres(shape, sampling):
    dy, dx = np.broadcast_to(sampling, 2)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.stack([x * dx, y * dy], -1)


def centroid(image, sampling):
    weights = image / image.sum()
    return np.einsum("hw,hwk->k", weights, pixel_centres(image.shape, sampling))


# --- expected_fraction ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [0.04, 0.104, 0.21, (0.09, 0.15)])
def test_gaussian_atoms_wherever_they_lie_between_the_pixels(sampling):
    rng = np.random.default_rng(0)
    shape, sigma, ellipticity, angle = (90, 70), 0.45, 0.2, 0.7
    far = (np.array(shape[::-1]) - 1) * np.broadcast_to(sampling, 2)[::-1]
    xy = rng.uniform(-1.5, far + 1.5, (25, 2))  # some outside, whose tails shine in
    weights = rng.uniform(1, 40, 25)
    image = expected_fraction(xy, weights, shape, sampling, GaussianProbe(sigma, ellipticity, angle))

    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    widths = sigma * np.array([1 + ellipticity, 1 / (1 + ellipticity)])
    away = (pixel_centres(shape, sampling)[:, :, None] - xy) @ axes.T / widths
    expected = (weights * np.exp(-0.5 * (away**2).sum(-1)) / (2 * np.pi * sigma**2)).sum(-1)
    np.testing.assert_allclose(image, expected, atol=1e-4 * expected.max())


def test_thermal_motion_widens_a_gaussian_in_quadrature():
    xy, weights = np.array([[3.1, 2.7]]), np.ones(1)
    moving = expected_fraction(xy, weights, (60, 60), 0.1, GaussianProbe(0.3), blur=0.4)
    wide = expected_fraction(xy, weights, (60, 60), 0.1, GaussianProbe(0.5))
    np.testing.assert_allclose(moving, wide, atol=1e-6)


@pytest.mark.parametrize("probe", [GaussianProbe(0.5), AberratedProbe(defocus=30.0)])
def test_nothing_of_the_cross_section_is_lost(probe):
    xy, weights = np.array([[15.03, 14.98], [16.4, 15.2]]), np.array([2.0, 5.0])
    image = expected_fraction(xy, weights, (300, 300), 0.1, probe)
    # The tails of a focused disk's Fourier transform end slowly; a Gaussian's do not.
    tolerance = 1e-6 if isinstance(probe, GaussianProbe) else 0.03
    assert image.sum() * 0.1**2 == pytest.approx(7.0, rel=tolerance)
    assert image.min() >= 0


# --- probes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("energy", "textbook"), [(60e3, 0.04866), (100e3, 0.03701), (200e3, 0.02508)])
def test_wavelength(energy, textbook):
    assert wavelength(energy) == pytest.approx(textbook, abs=1e-5)


def test_the_focused_probe_is_an_airy_pattern():
    sampling, centre = 0.02, 4.0
    image = expected_fraction(np.array([[centre, centre]]), np.ones(1), (401, 401), sampling, AberratedProbe(**SHARP))
    profile = image[200, 200:]
    r = np.arange(len(profile)) * sampling
    v = 2 * np.pi * 0.032 / wavelength(60e3) * r
    airy = np.ones_like(v)
    airy[1:] = (2 * special.j1(v[1:]) / v[1:]) ** 2
    near = r < 2.5
    np.testing.assert_allclose(profile[near] / profile[0], airy[near], atol=3e-3)
    first_zero = r[np.argmin(np.where(r < 1.3, profile, np.inf))]
    assert first_zero == pytest.approx(0.61 * wavelength(60e3) / 0.032, abs=0.02)


@pytest.mark.parametrize(("defocus", "cs"), [(60.0, 0.0), (-40.0, 0.0), (-30.0, 1e5)])
def test_round_aberrations_against_the_radial_integral(defocus, cs):
    lam, cutoff = wavelength(60e3), 0.032 / wavelength(60e3)
    k = np.linspace(0, cutoff, 4001)
    chi = np.pi * lam * defocus * k**2 + 0.5 * np.pi * cs * lam**3 * k**4
    r = np.arange(0, 3.0, 0.1)
    amplitude = integrate.simpson(np.exp(-1j * chi) * special.j0(2 * np.pi * k * r[:, None]) * k, x=k)
    # Parseval: the whole intensity is that of the aperture.
    expected = (2 * np.pi) ** 2 * np.abs(amplitude) ** 2 / (np.pi * cutoff**2)
    probe = AberratedProbe(defocus=defocus, cs=cs, **SHARP)
    image = expected_fraction(np.array([[6.0, 6.0]]), np.ones(1), (121, 121), 0.1, probe)
    np.testing.assert_allclose(image[60, 60:90], expected, atol=0.02 * expected.max())


def test_astigmatism_against_a_sum_of_plane_waves():
    defocus, (ax, ay), lam = 20.0, (35.0, -25.0), wavelength(60e3)
    k = np.arange(-0.66, 0.66, 0.012)
    kx, ky = (component.ravel() for component in np.meshgrid(k, k))
    inside = np.hypot(kx, ky) < 0.032 / lam
    kx, ky = kx[inside], ky[inside]
    chi = np.pi * lam * (defocus * (kx**2 + ky**2) + ax * (kx**2 - ky**2) + 2 * ay * kx * ky)
    grid = pixel_centres((21, 21), 0.2).reshape(-1, 2) - 2.0
    waves = np.exp(-1j * chi + 2j * np.pi * (grid[:, :1] * kx + grid[:, 1:] * ky))
    expected = (np.abs(waves.sum(1)) ** 2 * 0.012**2 / len(kx)).reshape(21, 21)

    probe = AberratedProbe(defocus=defocus, astigmatism=(ax, ay), **SHARP)
    image = expected_fraction(np.array([[2.0, 2.0]]), np.ones(1), (21, 21), 0.2, probe)
    np.testing.assert_allclose(image, expected, atol=0.02 * expected.max())


def test_defocus_broadens_the_probe_either_way():
    over = [AberratedProbe(defocus=c10).sigma for c10 in (0.0, 20.0, 40.0, 60.0)]
    under = [AberratedProbe(defocus=-c10).sigma for c10 in (0.0, 20.0, 40.0, 60.0)]
    assert np.all(np.diff(over) > 0)
    np.testing.assert_allclose(over, under, rtol=1e-6)


def test_sigma_is_the_half_width_of_the_image_of_an_atom():
    probe = AberratedProbe(defocus=30.0, source_sigma=0.3)
    sampling = 0.02
    image = expected_fraction(np.array([[4.0, 4.0]]), np.ones(1), (401, 401), sampling, probe)
    profile = image[200, 200:]
    half = np.interp(-profile[0] / 2, -profile[:100], np.arange(100) * sampling)
    assert 2 * half / 2.3548 == pytest.approx(probe.sigma, abs=0.005)


# --- scattering, dose, noise ----------------------------------------------------------------------------------------


def test_detectors_tell_elements_apart_as_stated():
    z = np.array([6, 14, 16, 42])
    for detector, exponent in (("HAADF", 1.64), ("MAADF", 1.50)):
        ratios = cross_section(z, detector) / cross_section(6, detector)
        np.testing.assert_allclose(np.log(ratios), exponent * np.log(z / 6))
    assert np.all(cross_section(z, "MAADF") > cross_section(z, "HAADF"))


def test_dose_and_back():
    assert electrons_per_pixel(1.0, 1.0) == pytest.approx(6.2415, abs=1e-4)  # 1 pA for 1 us
    assert dose_per_area(electrons_for_dose(3e5, (0.1, 0.2)), (0.1, 0.2)) == pytest.approx(3e5)
    assert electrons_for_dose(1e4, 0.1) == pytest.approx(100.0)


@pytest.mark.parametrize(("mean", "readout"), [(0.3, 0.0), (5.0, 0.0), (5.0, 2.0)])
def test_counts_have_poissons_mean_and_variance(mean, readout):
    fraction, background, electrons, n = 0.6 * mean / 100, 0.4 * mean / 100, 100.0, 400
    counts = detect(np.full((n, n), fraction), electrons, np.random.default_rng(3), background, readout)
    variance = mean + readout**2
    assert counts.mean() == pytest.approx(mean, abs=4 * np.sqrt(variance) / n)
    fourth = mean + 3 * mean**2 + 6 * mean * readout**2 + 3 * readout**4  # fourth central moment
    assert counts.var() == pytest.approx(variance, abs=4 * np.sqrt(fourth - variance**2) / n)


def test_contamination_covers_what_it_says_and_scatters_like_carbon():
    rng = lambda: np.random.default_rng(5)  # noqa: E731
    assert not hydrocarbon((50, 50), 0.2, 0.0, rng()).any()
    layer = hydrocarbon((400, 400), 0.2, 0.4, rng())
    assert (layer > 0).mean() == pytest.approx(0.4, abs=0.02)
    assert layer.min() >= 0
    thicker = hydrocarbon((400, 400), 0.2, 0.4, rng(), thickness=3.0, detector="MAADF")
    ratio = 3 * cross_section(6, "MAADF") / cross_section(6, "HAADF")
    np.testing.assert_allclose(thicker, ratio * layer, rtol=1e-9)


# --- the bound ------------------------------------------------------------------------------------------------------


def isolated(background=1e-12, electrons=2e4, sigma=0.5, weight=2e-3):
    xy = np.array([[4.03, 3.96]])
    bound = joint_position_bound(xy, np.array([weight]), background, (80, 80), 0.1, sigma, electrons)[0]
    return bound, electrons * weight / 0.1**2


def test_an_isolated_atom_is_known_to_sigma_over_root_n():
    bound, counts = isolated()
    np.testing.assert_allclose(bound, np.eye(2) * 0.5**2 / counts, atol=1e-3 * 0.5**2 / counts)


def test_the_centroid_of_simulated_counts_reaches_the_bound():
    bound, _ = isolated()
    xy, rng = np.array([[4.03, 3.96]]), np.random.default_rng(0)
    fraction = expected_fraction(xy, np.array([2e-3]), (80, 80), 0.1, GaussianProbe(0.5))
    found = np.array([centroid(detect(fraction, 2e4, rng), 0.1) for _ in range(400)])
    np.testing.assert_allclose(found.mean(0), xy[0], atol=4 * np.sqrt(bound[0, 0] / 400))
    assert found.var(0).mean() == pytest.approx(bound[0, 0], rel=4 * np.sqrt(2 / 800))


def test_background_and_neighbours_only_take_knowledge_away():
    alone = np.trace(isolated()[0])
    assert np.trace(isolated(background=1e-3)[0]) > alone
    xy = np.array([[4.03, 3.96], [5.0, 3.96], [40.0, 3.96]])
    bound = joint_position_bound(xy, np.full(3, 2e-3), 1e-12, (80, 80), 0.1, 0.5, 2e4)
    assert bound[0, 0, 0] > 1.5 * bound[0, 1, 1] > 0.75 * alone  # worse along the line to the neighbour
    assert np.isinf(bound[2]).all()  # outside the frame


# --- distortion -----------------------------------------------------------------------------------------------------


def test_each_line_is_shifted_by_its_jitter():
    shifts = np.random.default_rng(0).normal(0, 0.3, 60)
    xy = np.array([[4.02, 3.0]])
    image = expected_fraction(xy, np.ones(1), (60, 80), 0.1, GaussianProbe(0.5), line_shifts=shifts)
    x = np.arange(80) * 0.1
    rows = slice(15, 45)  # where there is signal
    apparent = (image @ x / image.sum(1))[rows]
    # A line that starts further right shows the atom further left.
    np.testing.assert_allclose(apparent, 4.02 - shifts[rows], atol=1e-3)


def test_jitter_has_the_stated_spread_and_memory():
    shifts = line_jitter(40_000, 0.2, np.random.default_rng(1), correlation=0.7)
    assert shifts.std() == pytest.approx(0.2, rel=0.05)
    assert np.corrcoef(shifts[:-1], shifts[1:])[0, 1] == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("velocity", [(2.0, 0.0), (0.0, 1.5), (-1.0, -2.0)])
def test_drift_is_where_a_scan_line_by_line_sees_the_atom(velocity):
    xy, line_time, sampling, shape = np.array([[4.0, 5.0]]), 0.01, 0.1, (100, 80)
    lines = [
        expected_fraction(
            xy + np.array(velocity) * k * line_time, np.ones(1), shape, sampling, GaussianProbe(0.4)
        )[k]
        for k in range(shape[0])
    ]
    np.testing.assert_allclose(
        centroid(np.array(lines), sampling), drifted(xy, velocity, line_time, sampling)[0], atol=2e-3
    )


@pytest.mark.parametrize("sampling", [0.0, -0.1, float("nan"), (0.1, 0.1, 0.1)])
def test_an_impossible_sampling_is_refused(sampling):
    with pytest.raises(StemAeError, match="Å per pixel"):
        expected_fraction(np.zeros((1, 2)), np.ones(1), (20, 20), sampling, GaussianProbe(0.5))
