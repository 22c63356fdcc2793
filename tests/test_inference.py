"""The networks at work: the same atoms in every precision and on every device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from benchmarks.frames import frame, score
from stem_ae import StemAeError, elit
from stem_ae.elit import inference

DOSES = {"graphene": 3e5, "mos2": 3e4}


@pytest.fixture(scope="module", params=list(DOSES))
def exact(request) -> elit.Ensemble:
    torch.set_num_threads(1)
    return elit.load(request.param, device="cpu")


@pytest.fixture(scope="module")
def truth(exact):
    return frame(exact.name, DOSES[exact.name], size=(300, 331), seed=21)


@pytest.mark.parametrize("device", [
    "cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
])
def test_bfloat16_sees_what_float32_sees(exact, truth, device):
    """The classes' probabilities change by less than the networks differ among themselves, and no atom changes."""
    rough = exact.replace(device=device, precision="bfloat16")
    assert rough.version == exact.version
    expected = exact.predict(truth.counts, truth.sampling)
    for _ in range(2):  # on a GPU the first is recorded and the second replayed
        got = rough.predict(truth.counts, truth.sampling)
        difference = np.abs(got.working_probability - expected.working_probability)
        assert 0 < difference.max() < 0.02  # it did compute with other numbers
        assert difference.mean() < 0.05 * expected.working_uncertainty.mean()
        assert got.atoms.counts() == expected.atoms.counts()
        away, nearest = cKDTree(got.atoms.positions).query(expected.atoms.positions)
        assert away.max() < 0.01  # Å
        assert len(set(nearest)) == len(expected.atoms)
        assert got.novelty == pytest.approx(expected.novelty, abs=0.05)
    for size in ((256, 256), (300, 331)):  # a recording serves one size
        other = frame(exact.name, DOSES[exact.name], size=size, seed=22)
        assert score(other, rough.predict(other.counts, other.sampling).atoms).recall > 0.99


def test_every_tensor_is_made_on_the_device_asked_for(exact, truth):
    """What is made without saying where would be on the default device, here one that holds no numbers."""
    expected = exact.predict(truth.counts, truth.sampling)
    with torch.device("meta"):
        got = exact.replace(device="cpu").predict(truth.counts, truth.sampling)
    np.testing.assert_array_equal(got.working_probability, expected.working_probability)
    assert got.novelty == expected.novelty


def test_a_large_frame_goes_through_in_bands_and_says_the_same(exact, monkeypatch):
    image = np.random.default_rng(1).normal(size=(300, 123)).astype(np.float32)
    networks = inference.Inference(exact.members, torch.device("cpu"))
    whole = networks.answer(image)
    monkeypatch.setattr(inference, "_WHOLE", 100)
    monkeypatch.setattr(inference, "_BAND", 88)
    bands = networks.answer(image)
    for name in ("mean", "spread", "deep"):
        np.testing.assert_allclose(getattr(bands, name), getattr(whole, name), atol=1e-5)
    monkeypatch.setattr(inference, "_HALO", 16)  # too few: the test would notice
    assert np.abs(networks.answer(image).mean - whole.mean).max() > 1e-3


def test_each_member_has_its_say(exact, truth):
    whole = exact.predict(truth.counts, truth.sampling)
    parts = [exact.subset([k]).predict(truth.counts, truth.sampling) for k in range(len(exact))]
    mean = np.mean([part.working_probability for part in parts], axis=0)
    np.testing.assert_allclose(whole.working_probability, mean, atol=1e-6)
    assert all(part.working_uncertainty.max() == 0 for part in parts)
    assert whole.working_uncertainty.max() > 0.05


def test_a_device_that_is_not_there_is_named(exact, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert exact.replace(device="auto").device.type == "cpu"
    for ask in (lambda: exact.replace(device="cuda"), lambda: elit.load(exact.name, device="cuda")):
        with pytest.raises(StemAeError, match="cannot compute on 'cuda' here: choose the device cpu or auto"):
            ask()
