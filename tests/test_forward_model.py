"""Probe and dose from a frame, against frames whose probe and dose are known."""

from __future__ import annotations

import numpy as np
import pytest

from stem_ae.atoms import Atoms2D
from stem_ae.elit import synthesis
from stem_ae.elit.forward_model import refit
from stem_ae.elit.materials import MATERIALS
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe, Probe

NO_ATOMS = Atoms2D(
    np.zeros((0, 2)), np.zeros((0, 2, 2)), np.zeros(0, np.int64), ("Mo", "S2", "S1"), np.zeros((0, 3)), np.zeros(0),
    (320, 320), (0.12, 0.12),
)  # fmt: skip


def frame(probe: Probe, dose: float) -> np.ndarray:
    """A frame of MoS2, 320 x 320 at 0.12 Å per pixel: counts with noise."""
    rng = np.random.default_rng(5)
    fraction = synthesis.expected(MATERIALS["mos2"].make_specimen, 320 * 0.12 + 0.01, 0.12, probe, rng)
    return rng.poisson(fraction * dose * 0.12**2).astype(np.float32)


@pytest.mark.slow
def test_aberrations_are_read_from_a_frame() -> None:
    """Nobody says what is in the frame; defocus and astigmatism together may have the other sign, which looks alike."""
    truth = np.array([60.0, 30.0, 50.0])
    today = frame(AberratedProbe(defocus=truth[0], astigmatism=(truth[1], truth[2])), 1e6)
    conditions = refit(today, NO_ATOMS, MATERIALS["mos2"], 0)
    best = conditions.probes[0]
    assert isinstance(best, AberratedProbe)
    found = np.array([best.defocus, *best.astigmatism])
    assert min(np.abs(found - truth).max(), np.abs(found + truth).max()) < 12.0
    assert conditions.log_dose[0] < 1e6 < conditions.log_dose[1]


@pytest.mark.slow
def test_an_elliptic_probe_is_read_from_a_frame() -> None:
    """Counting noise of 1e5 e/Å², no aberration."""
    conditions = refit(frame(GaussianProbe(0.5, 0.2, 0.4), 1e5), NO_ATOMS, MATERIALS["mos2"], 0)
    f = np.linspace(-0.8, 0.8, 21)
    fx, fy = np.meshgrid(f, f)
    best, truth = (probe.otf(fx, fy) for probe in (conditions.probes[0], GaussianProbe(0.5, 0.2, 0.4)))
    assert np.abs(best - truth).max() < 0.1
    assert conditions.log_dose[0] < 1e5 < conditions.log_dose[1]
