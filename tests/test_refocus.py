"""The refocus: what an aberrated or wide probe shows becomes what the usual one would have shown."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from stem_ae import elit
from stem_ae.elit.refocus import REACH, USUAL, Refocus
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe
from stem_ae.imaging.specimens import graphene

PROBES = [
    AberratedProbe(defocus=100.0),
    AberratedProbe(defocus=60.0, astigmatism=(30.0, 50.0)),
    GaussianProbe(0.8, 0.2, 0.5),
]


def shown(probe, shape=(200, 240), sampling=(0.15, 0.12)):
    size = shape[1] * sampling[1] + 2 * REACH, shape[0] * sampling[0] + 2 * REACH
    xy = graphene(size, silicon=0.0, rotation=7.0, seed=2).positions[:, :2] - REACH
    return expected_fraction(xy, np.full(len(xy), 0.03), shape, sampling, probe)


@pytest.mark.parametrize(("probe", "before", "after"), zip(PROBES, (-0.99, 0.1, 0.85), (0.94, 0.75, 0.93), strict=True))
def test_the_usual_image_comes_back(probe, before, after):
    """But for what neither probe shows: without noise that is allowed for, frame edges would be amplified."""
    blurred, usual = shown(probe), shown(USUAL)
    sharp = Refocus(probe, 1e-4)(blurred, (0.15, 0.12))
    assert sharp.shape == blurred.shape
    inner = tuple(slice(round(REACH / d), -round(REACH / d)) for d in (0.15, 0.12))  # what is mirrored is not known
    alike = [np.corrcoef(image[inner].ravel(), usual[inner].ravel())[0, 1] for image in (blurred, sharp)]
    assert alike[0] < before
    assert alike[1] > after


def test_noise_is_amplified_no_further_than_it_is_allowed_to():
    noise = np.random.default_rng(0).normal(10.0, 1.0, (256, 256))
    spread = [Refocus(PROBES[0], allowed)(noise, (0.1, 0.1)).std() for allowed in (1e-1, 1e-3, 1e-5)]
    assert spread == sorted(spread)
    for allowed, found in zip((1e-1, 1e-3, 1e-5), spread, strict=True):
        assert found < 0.5 / np.sqrt(allowed)  # the most that t / (t^2 + n) can be


def test_the_mean_stays_and_frames_may_be_small():
    image = np.full((9, 70), 3.0)
    np.testing.assert_allclose(Refocus(PROBES[1], 1e-3)(image, (0.2, 0.2)), 3.0, rtol=2e-3)


@pytest.mark.parametrize("probe", PROBES)
def test_it_is_kept_with_the_model(probe, tmp_path):
    ensemble = elit.load("graphene")
    refocus = Refocus(probe, 0.01)
    focused = ensemble.replace(description=dataclasses.replace(ensemble.description, refocus=refocus))
    again = elit.Ensemble.read(focused.save(tmp_path / "model.safetensors"))
    assert again.description.refocus == refocus
    assert Refocus.from_dict(json.loads(json.dumps(dataclasses.asdict(refocus)))) == refocus
    assert again.version == focused.version != ensemble.version
    assert elit.Ensemble.read(ensemble.save(tmp_path / "as it was.safetensors")).description.refocus is None
