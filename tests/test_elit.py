from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.frames import Truth, frame, score
from stem_ae import StemAeError, elit
from stem_ae.elit import likelihood, synthesis, training
from stem_ae.elit.adaptation import Effort
from stem_ae.elit.calibrate import estimate_sampling
from stem_ae.elit.materials import MATERIALS
from stem_ae.elit.preprocess import repair
from stem_ae.elit.training import Recipe
from stem_ae.imaging.bound import joint_position_bound
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import graphene


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models() -> dict[str, elit.Ensemble]:
    return {name: elit.load(name) for name in ("graphene", "mos2")}


def test_the_contract_of_a_prediction(models: dict[str, elit.Ensemble]) -> None:
    assert models["graphene"].species == ("C", "Si")
    assert models["mos2"].species == ("Mo", "S2", "S1")
    truth = frame("graphene", 1e6, size=(200, 300))
    prediction = models["graphene"].predict(truth.counts, sampling=0.104)
    assert prediction.probability.shape == (2, 200, 300)
    assert prediction.uncertainty.shape == (200, 300)
    assert prediction.probability.min() >= 0
    assert prediction.probability.sum(0).max() <= 1 + 1e-5
    atoms = prediction.atoms
    assert atoms.shape == (200, 300)
    np.testing.assert_allclose(atoms.probabilities.sum(1), 1)
    # Where an atom is, its class is likely, and the maps lie on the image as the positions do.
    x, y = np.rint(atoms.positions_px).astype(int).T
    assert np.median(prediction.probability.sum(0)[y, x]) > 0.8
    assert np.all(np.linalg.eigvalsh(atoms.covariance) > 0)


@pytest.mark.parametrize("degraded", [False, True])
@pytest.mark.parametrize(("material", "dose", "minor"), [("graphene", 3e5, "Si"), ("mos2", 3e4, "S1")])
def test_atoms_are_found_and_named(
    models: dict[str, elit.Ensemble], material: str, dose: float, minor: str, degraded: bool
) -> None:
    truth = frame(material, dose, size=(384, 384), degraded=degraded, seed=11)
    atoms = models[material].predict(truth.counts, 0.104).atoms
    result = score(truth, atoms)
    assert result.recall >= 0.99
    assert result.precision >= 0.99
    assert result.of_class(minor)[2] >= 0.9


@pytest.mark.parametrize("sampling", [0.05, 0.16, 0.21])
@pytest.mark.parametrize("material", ["graphene", "mos2"])
def test_one_model_serves_every_field_of_view(
    models: dict[str, elit.Ensemble], material: str, sampling: float
) -> None:
    truth = frame(material, 1e6, sampling=sampling, size=(256, 256), seed=3)
    result = score(truth, models[material].predict(truth.counts, sampling).atoms)
    assert result.recall >= 0.98
    assert result.precision >= 0.98


def test_a_hot_pixel_a_dead_line_and_an_odd_shape_lose_nothing(models: dict[str, elit.Ensemble]) -> None:
    truth = frame("graphene", 1e6, size=(211, 317), seed=4)
    bad = truth.counts.copy()
    bad[100, 100] = 1000 * bad.max()
    bad[150] = 0
    result = score(truth, models["graphene"].predict(bad, 0.104).atoms)
    assert result.recall >= 0.98
    assert result.precision >= 0.98


def test_atoms_at_the_border_are_found(models: dict[str, elit.Ensemble]) -> None:
    truth = frame("graphene", 1e6, size=(384, 384), seed=5)
    atoms = models["graphene"].predict(truth.counts, 0.104).atoms
    everything = score(truth, atoms, edge=0.2)
    assert everything.recall >= 0.98
    assert everything.precision >= 0.97
    assert len(atoms) == pytest.approx(len(truth.xy), rel=0.03)  # and few by their tails alone


def test_errors_are_what_the_covariance_says(models: dict[str, elit.Ensemble]) -> None:
    inside = []
    for seed, dose in ((0, 3e5), (1, 1e6), (2, 3e6)):
        truth = frame("graphene", dose, size=(384, 384), seed=seed)
        atoms = models["graphene"].predict(truth.counts, 0.104).atoms
        result = score(truth, atoms)
        precision = np.linalg.inv(atoms.covariance[result.found])
        inside.append(np.einsum("ni,nij,nj->n", result.errors, precision, result.errors) < 5.991)
    assert 0.90 <= np.concatenate(inside).mean() <= 0.99


def test_noise_of_another_material_is_novel(models: dict[str, elit.Ensemble]) -> None:
    known = [models["mos2"].predict(frame("mos2", 1e5, seed=s, size=(256, 256)).counts, 0.104).novelty for s in (0, 1)]
    other = [
        models["mos2"].predict(frame("graphene", 1e6, seed=s, size=(256, 256)).counts, 0.104).novelty for s in (0, 1)
    ]
    assert max(known) < 1 < min(other)


def test_a_model_survives_its_file(models: dict[str, elit.Ensemble], tmp_path: pathlib.Path) -> None:
    first = models["graphene"]
    second = elit.load(first.save(tmp_path / "copy.safetensors"))
    assert second.version == first.version
    assert second.description == first.description
    counts = frame("graphene", 1e6, size=(128, 128)).counts
    a, b = first.predict(counts, 0.104), second.predict(counts, 0.104)
    np.testing.assert_array_equal(a.atoms.positions, b.atoms.positions)
    assert a.novelty == b.novelty
    whole = (tmp_path / "copy.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for path, words in (("cut.safetensors", "not a stem_ae model"), ("none.safetensors", "There is no file")):
        with pytest.raises(StemAeError, match=words):
            elit.load(tmp_path / path)
    with pytest.raises(StemAeError, match="graphene"):
        elit.load("graphite")


def test_the_likelihood_sits_at_the_bound() -> None:
    """Interior atoms, no prior: within 15 % of the Cramér-Rao bound, and no bias."""
    dose, size = 1e6, 300
    truth = frame("graphene", dose, size=(size, size), probe=GaussianProbe(0.5), silicon=0.0, seed=8)
    rng = np.random.default_rng(0)
    fitted = likelihood.fit(
        repair(truth.counts), (0.104, 0.104), truth.xy + rng.normal(0, 0.03, truth.xy.shape), iterations=6
    )
    inner = np.all((truth.xy > 2) & (truth.xy < size * 0.104 - 2), axis=1) & fitted.converged
    errors = (fitted.positions - truth.xy)[inner]
    robust = 1.4826 * np.median(np.abs(errors))
    lattice = graphene((9.98, 9.98), silicon=0.0)
    xy = lattice.positions[:, :2]
    covariance = joint_position_bound(
        xy, np.full(len(xy), float(cross_section(6))), 1e-5, (96, 96), 0.104, 0.5, electrons_for_dose(dose, 0.104)
    )
    bound = np.sqrt(covariance[np.argmin(((xy - 4.99) ** 2).sum(1)), 0, 0])
    assert 0.85 * bound < robust < 1.2 * bound
    assert np.abs(errors.mean(0)).max() < 4 * bound / np.sqrt(len(errors))
    assert fitted.sigma == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("material", "sampling"), [("graphene", 0.104), ("graphene", 0.2), ("mos2", 0.16)])
def test_the_lattice_gives_the_sampling(material: str, sampling: float) -> None:
    truth = frame(material, 1e6, sampling=sampling, size=(256, 256), seed=2)
    estimate, confidence = estimate_sampling(truth.counts, material)
    assert estimate == pytest.approx(sampling, rel=0.04)
    assert confidence > 0.5


def test_noise_has_no_lattice() -> None:
    assert estimate_sampling(np.random.default_rng(0).poisson(5, (256, 256)), "graphene")[1] < 0.5
    with pytest.raises(StemAeError, match="lattice"):
        estimate_sampling(np.random.default_rng(0).random((64, 64)), "cheese")


def test_training_goes_on_where_it_was_killed(tmp_path: pathlib.Path) -> None:
    material = MATERIALS["graphene"]
    data = synthesis.data_set(material.make_specimen, material.species, 12, 48, 0.2, material.conditions, seed=1)
    recipe = Recipe(steps=420, batch=2, width=4)
    whole = training.train_member(*data, recipe, seed=5)
    path = tmp_path / "member.checkpoint"

    class KilledError(Exception):
        pass

    def kill(done: int, total: int, loss: float) -> None:
        if done == 300:
            raise KilledError

    with pytest.raises(KilledError):
        training.train_member(*data, recipe, seed=5, checkpoint=path, progress=kill)
    assert path.exists()
    resumed = training.train_member(*data, recipe, seed=5, checkpoint=path)
    assert not path.exists()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


def test_training_learns(tmp_path: pathlib.Path) -> None:
    material = MATERIALS["graphene"]
    easy = dataclasses.replace(material.conditions, log_dose=(1e7, 3e7), log_sampling=(0.15, 0.2)).clean
    data = synthesis.data_set(material.make_specimen, material.species, 24, 48, 0.2, easy, seed=1)
    losses: list[float] = []
    recipe = Recipe(steps=120, batch=4, width=8)
    training.train_member(*data, recipe, 0, progress=lambda done, total, loss: losses.append(loss))
    assert losses[-1] < 0.6 * losses[0]


def test_members_differ(models: dict[str, elit.Ensemble]) -> None:
    counts = frame("graphene", 1e5, size=(200, 200)).counts
    prediction = models["graphene"].predict(counts, 0.104)
    assert len(models["graphene"].members) == 5
    assert prediction.uncertainty.max() > 0.02


@pytest.mark.slow
def test_the_command_line_trains_for_any_crystal(tmp_path: pathlib.Path) -> None:
    import ase.build
    import ase.io

    ase.io.write(tmp_path / "silicon.cif", ase.build.bulk("Si", cubic=True))
    model = tmp_path / "si110.safetensors"
    command = [
        sys.executable, "-m", "stem_ae", "train", str(tmp_path / "silicon.cif"), "--zone", "1", "1", "0", "--members",
        "2", "--steps", "60", "--patches", "20", "--output", str(model), "--threads", "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    ensemble = elit.load(model)
    assert ensemble.species == ("Si",)
    assert len(ensemble.members) == 2
    assert model.stat().st_size < 5e6


def test_importing_elit_does_not_import_torch() -> None:
    code = "import sys; from stem_ae import elit; elit.available(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_adapting_learns_todays_defocus_and_forgets_nothing(models: dict[str, elit.Ensemble]) -> None:
    """Nobody says what is in the frame or what the defocus is."""

    def f1(ensemble: elit.Ensemble, truth: Truth) -> float:
        return score(truth, ensemble.predict(truth.counts, 0.104).atoms).f1

    before = models["mos2"]
    today = AberratedProbe(defocus=100.0)
    first, second = (frame("mos2", 1e6, size=(384, 384), probe=today, seed=s) for s in (1, 2))
    usual = frame("mos2", 1e6, size=(256, 256), seed=3)
    said: list[float] = []
    brief = Effort(rounds=1, steps=30, patches=64)
    told = lambda fraction, text: said.append(fraction)  # noqa: E731
    after = elit.adapt(before, first.counts, 0.104, progress=told, effort=brief)
    assert f1(before, second) < 0.7
    assert f1(after, second) >= 0.97
    assert f1(after, usual) >= 0.99
    assert said == sorted(said)
    assert after.version != before.version
    assert after.description.provenance["adapted_from"]["version"] == before.version


def test_adapting_says_what_it_cannot(models: dict[str, elit.Ensemble]) -> None:
    graphene_model = models["graphene"]
    nameless = elit.Ensemble(graphene_model.members, dataclasses.replace(graphene_model.description, material=""))
    with pytest.raises(StemAeError, match="material"):
        elit.adapt(nameless, np.zeros((64, 64)), 0.1)
