"""Adapting in another process: the new model is there when it is done, and nothing is when it is not."""

from __future__ import annotations

import os
import signal
import sys
import threading

import numpy as np
import pytest

from stem_ae import elit
from stem_ae.elit.adapting import Adaptation
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe
from stem_ae.imaging.specimens import graphene
from stem_ae.scoring import score
from stem_ae.store import models

BRIEF = {"rounds": 1, "steps": 2, "patches": 8}
USUAL = GaussianProbe(0.5)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("STEM_AE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def frame(probe=USUAL, dose=2e4) -> np.ndarray:
    xy = graphene((40.0, 40.0), silicon=0.0, rotation=7.0, seed=2).positions[:, :2]
    image = expected_fraction(xy, np.full(len(xy), 0.03), (160, 160), (0.15, 0.15), probe)
    return np.random.default_rng(0).poisson(dose * 0.15**2 * image)


class Watcher:
    """Notes what an adaptation says, and can wait for the first progress."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.under_way = threading.Event()

    def __call__(self, adaptation: Adaptation) -> None:
        self.fractions.append(adaptation.fraction)
        self.under_way.set()


@pytest.mark.slow
def test_the_new_model_is_in_the_store_and_compared(store):
    image, watcher = frame(AberratedProbe(defocus=100.0), 2e6), Watcher()
    adaptation = Adaptation("graphene", [image], (0.15, 0.15), watcher, BRIEF)
    adaptation.wait(240)
    assert adaptation.state == "done", adaptation.text
    assert watcher.fractions == sorted(watcher.fractions)
    comparison = adaptation.comparison
    assert comparison is not None
    assert comparison.gained
    assert models.names()[2:] == [comparison.name]
    adapted = elit.load(comparison.name)
    assert adapted.version == comparison.version != elit.load("graphene").version
    assert adapted.description.provenance["adapted_from"]["name"] == "graphene"
    for model, prediction in (("graphene", comparison.before), (comparison.name, comparison.after)):
        np.testing.assert_allclose(
            elit.load(model).predict(image, 0.15).atoms.positions, prediction.atoms.positions, atol=1e-3
        )
    assert 0 < comparison.matched <= min(len(comparison.before.atoms), len(comparison.after.atoms))
    assert comparison.name in adaptation.text
    assert adaptation.text.endswith(".")
    # Graphene's atoms are dark at 10 nm of defocus, and its hexagons bright. What was known is known as before.
    true = graphene((40.0, 40.0), silicon=0.0, rotation=7.0, seed=2).positions[:, :2]
    names = ["C"] * len(true)
    assert score(comparison.before.atoms, true, names, edge=0.8).f1 < 0.6
    assert comparison.after.conditions <= 1 < comparison.before.conditions
    for seen in (image, frame()):
        assert score(adapted.predict(seen, 0.15).atoms, true, names, edge=0.8).f1 > 0.95


def test_cancelled_it_ends_at_once_and_leaves_nothing(store):
    watcher = Watcher()
    adaptation = Adaptation("graphene", [frame()], (0.15, 0.15), watcher)
    assert watcher.under_way.wait(60)
    adaptation.cancel()
    adaptation.wait(5)
    assert not adaptation._thread.is_alive()
    assert adaptation._process.pid is None
    assert adaptation.state == "cancelled"
    assert not list(store.glob("*"))
    adaptation.cancel()  # once more does no harm


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_it_is_a_sentence(store):
    watcher = Watcher()
    adaptation = Adaptation("graphene", [frame()], (0.15, 0.15), watcher)
    assert watcher.under_way.wait(60)
    os.kill(adaptation._process.pid, signal.SIGKILL)
    adaptation.wait(5)
    assert adaptation.state == "failed"
    assert "ended unexpectedly" in adaptation.text
    assert not list(store.glob("*"))


@pytest.mark.parametrize(
    ("model", "image", "words"),
    [("graphene", np.ones((160, 160)), "everywhere"), ("no such model", np.eye(160), "choose one of")],
)
def test_what_cannot_be_adapted_is_a_sentence(model, image, words):
    adaptation = Adaptation(model, [image], (0.15, 0.15), lambda _: None)
    adaptation.wait(60)
    assert adaptation.state == "failed"
    assert words in adaptation.text
