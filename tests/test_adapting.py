"""Adapting in another process: the new model is there when it is done, and nothing is when it is not."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading

import numpy as np
import pytest

from stem_ae import elit
from stem_ae.atoms import Atoms2D
from stem_ae.elit.adapting import Adaptation, Comparison, implausible
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


def own(names: list[str]) -> list[str]:
    """Return those of the names that are not of bundled models."""
    return [name for name in names if name not in ("any", "graphene", "mos2")]


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
    assert own(models.names()) == [comparison.name]
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


@pytest.mark.slow
def test_no_model_of_pure_noise_is_kept_unless_somebody_says_so(store):
    noise = np.random.default_rng(5).poisson(100.0, (160, 160)).astype(np.float32)
    adaptation = Adaptation("graphene", [noise], (0.15, 0.15), Watcher(), BRIEF)
    adaptation.wait(240)
    assert adaptation.state == "done", adaptation.text
    assert adaptation.comparison is not None
    assert "may be noise" in adaptation.comparison.doubt
    assert own(models.names()) == []
    assert own(elit.available()) == []
    if adaptation.is_waiting:
        adaptation.discard()
    assert not list(store.glob("*"))


def test_a_waiting_model_is_kept_or_discarded(store):
    ended = Adaptation("no such model", [frame()], (0.15, 0.15), lambda _: None)
    ended.wait(60)
    seen = elit.Prediction(*np.zeros((2, 1, 8, 8), np.float32), 0.2, Atoms2D.empty(("C",), (16, 16), (0.1, 0.1)), 0.4)
    ended.comparison = Comparison("graphene-noise", "v", seen, seen, (0, 14), True, "That may be noise.")
    for keep in (False, True):
        ended._waiting = elit.load("graphene").save(models.new_path("graphene-noise").with_suffix(".waiting"))
        assert own(models.names()) == []
        (ended.keep if keep else ended.discard)()
        assert not ended.is_waiting
        assert own(models.names()) == ["graphene-noise"] * keep
        assert not list(store.glob("*.waiting"))
    assert elit.load("graphene-noise").version == elit.load("graphene").version


@pytest.mark.parametrize("sampling", [0.117, 0.25])
def test_what_is_found_in_noise_is_implausible(sampling):
    noise = np.random.default_rng(5).poisson(5, (256, 256)).astype(np.float32)
    graphene_model = elit.load("graphene")
    assert "may be noise" in implausible(graphene_model.predict(noise, sampling), graphene_model, noise)


def test_what_is_found_in_a_lattice_is_plausible_even_if_it_is_small_or_was_unfamiliar():
    graphene_model = elit.load("graphene")
    prediction = graphene_model.predict(frame(), 0.15)
    strange = dataclasses.replace(prediction, conditions=5.0)
    assert implausible(strange, graphene_model, frame()) == ""
    part = frame()[:110, :110]  # 16 Å: too little for its lattice to be seen clearly
    assert implausible(graphene_model.predict(part, 0.15), graphene_model, part) == ""
    wrong = graphene_model.predict(frame(), 0.18)
    assert implausible(wrong, graphene_model, frame()) != ""


@pytest.mark.parametrize(
    ("model", "image", "words"),
    [("graphene", np.ones((160, 160)), "everywhere"), ("no such model", np.eye(160), "choose one of")],
)
def test_what_cannot_be_adapted_is_a_sentence(model, image, words):
    adaptation = Adaptation(model, [image], (0.15, 0.15), lambda _: None)
    adaptation.wait(60)
    assert adaptation.state == "failed"
    assert words in adaptation.text
