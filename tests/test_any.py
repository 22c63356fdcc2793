"""The model "any" without a sampling, on crystals that are not in its training."""

from __future__ import annotations

import json

import ase.build
import ase.spacegroup
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stem_ae import Atoms2D, StemAeError, elit, structure
from stem_ae.cli import main
from stem_ae.elit.scale import Scale
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import from_ase, graphene
from stem_ae.scoring import score

FloatArray = NDArray[np.float64]
WIDTH = 0.45  # Å: standard deviation of the probe

CRYSTALS = {
    "Pt 110": (ase.build.bulk("Pt", "fcc", 3.92, cubic=True), (1, 1, 0)),
    "W 100": (ase.build.bulk("W", "bcc", 3.16, cubic=True), (1, 0, 0)),
    "InAs 110": (ase.build.bulk("InAs", "zincblende", 6.06, cubic=True), (1, 1, 0)),
    "BaTiO3 100": (
        ase.spacegroup.crystal(
            ["Ba", "Ti"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=221, cellpar=[4.0, 4.0, 4.0, 90, 90, 90]
        ),
        (1, 0, 0),
    ),
}


@pytest.fixture(scope="module")
def ensemble() -> elit.Ensemble:
    torch.set_num_threads(1)
    return elit.load("any")


def shot(name: str, sampling: float, dose: float = 3e5, pixels: int = 256) -> tuple[FloatArray, FloatArray]:
    """Return a frame's counts and where its columns are, ``(N, 2)`` in Å."""
    crystal, zone = CRYSTALS[name]
    extent = pixels * sampling
    specimen = from_ase(crystal, (extent, extent), zone, 17.0)
    fraction = expected_fraction(
        specimen.positions[:, :2], cross_section(specimen.numbers), (pixels, pixels), sampling, GaussianProbe(WIDTH)
    )
    electrons = electrons_for_dose(dose, sampling)
    counts = detect(fraction / fraction.max() * 0.05, electrons, np.random.default_rng(4), 0.005)
    return counts, specimen.columns()[0]


def found(atoms: Atoms2D, truth: FloatArray, unit: float) -> tuple[float, float]:
    """Return recall and precision, whatever the classes are called."""
    one_class = Atoms2D(
        atoms.positions * unit, atoms.covariance * unit**2, np.zeros(len(atoms)), ("X",), np.ones((len(atoms), 1)),
        atoms.intensity, atoms.shape, unit,
    )  # fmt: skip
    result = score(one_class, truth, ["X"] * len(truth), edge=1.5)
    return result.recall, result.precision


@pytest.mark.parametrize("sampling", [0.07, 0.16])
@pytest.mark.parametrize("name", sorted(CRYSTALS))
def test_columns_are_found_without_material_and_sampling(ensemble: elit.Ensemble, name: str, sampling: float) -> None:
    counts, truth = shot(name, sampling)
    prediction = ensemble.predict(counts)
    assert prediction.atoms.sampling is None
    recall, precision = found(prediction.atoms, truth, sampling)
    assert recall > 0.98
    assert precision > 0.98
    assert prediction.width == pytest.approx(WIDTH / sampling, rel=0.15)


def test_a_sheet_of_light_atoms(ensemble: elit.Ensemble) -> None:
    specimen = graphene((30.0, 30.0), rotation=7.0)
    fraction = expected_fraction(
        specimen.positions[:, :2], cross_section(specimen.numbers), (300, 300), 0.1, GaussianProbe(WIDTH)
    )
    counts = detect(fraction, electrons_for_dose(1e6, 0.1), np.random.default_rng(2))
    recall, precision = found(ensemble.predict(counts).atoms, specimen.columns()[0], 0.1)
    assert recall > 0.98
    assert precision > 0.98


def test_the_scale_follows_the_magnification(ensemble: elit.Ensemble) -> None:
    coarse, fine = (ensemble.read_scale(shot("W 100", sampling)[0]).width for sampling in (0.15, 0.05))
    assert fine / coarse == pytest.approx(3.0, rel=0.3)


def test_noise_has_no_columns(ensemble: elit.Ensemble) -> None:
    noise = np.random.default_rng(0).poisson(5.0, (256, 256))
    atoms = ensemble.predict(noise).atoms
    assert len(atoms) < 10


def test_a_known_sampling_gives_angstrom_at_the_same_places(ensemble: elit.Ensemble) -> None:
    counts, _ = shot("Pt 110", 0.12)
    in_pixels, in_angstrom = ensemble.predict(counts).atoms, ensemble.predict(counts, sampling=0.12).atoms
    assert in_angstrom.sampling == (0.12, 0.12)
    np.testing.assert_allclose(in_angstrom.positions_px, in_pixels.positions, atol=0.02)
    np.testing.assert_allclose(in_angstrom.covariance, in_pixels.covariance * 0.12**2, rtol=0.05)


def test_the_maps_lie_on_the_image(ensemble: elit.Ensemble) -> None:
    counts, _ = shot("W 100", 0.1, pixels=200)
    prediction = ensemble.predict(counts)
    assert prediction.probability.shape == (1, 200, 200)
    x, y = np.rint(prediction.atoms.positions_px).astype(int).T
    assert np.median(prediction.probability[0, y, x]) > 2 * np.median(prediction.probability)


def test_positions_in_pixels_make_no_cell(ensemble: elit.Ensemble) -> None:
    atoms = ensemble.predict(shot("W 100", 0.1)[0]).atoms
    with pytest.raises(StemAeError, match="sampling is not known"):
        structure.build(atoms)


@pytest.mark.parametrize("suffix", ["csv", "extxyz"])
def test_positions_in_pixels_survive_a_file(ensemble: elit.Ensemble, tmp_path, suffix: str) -> None:
    atoms = ensemble.predict(shot("W 100", 0.1)[0]).atoms
    again = Atoms2D.read(atoms.write(tmp_path / f"atoms.{suffix}"))
    assert again.sampling is None
    np.testing.assert_array_equal(again.positions, atoms.positions)


def test_find_needs_neither_model_nor_sampling(tmp_path, capsys) -> None:
    counts, truth = shot("W 100", 0.1)
    np.save(tmp_path / "frame.npy", counts)
    assert main(["find", str(tmp_path / "frame.npy"), "--output", str(tmp_path / "out"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["model"]["name"] == "any"
    assert answer["sampling"]["angstrom_per_px"] is None
    recall, precision = found(Atoms2D.read(answer["frames"][0]["files"]["csv"]), truth, 0.1)
    assert min(recall, precision) > 0.98


@pytest.mark.parametrize(("sampling", "words"), [(1e6, "narrower than a pixel"), (1e-9, "field of view is 2.56e-07")])
def test_a_sampling_at_which_no_atoms_show_is_refused(ensemble: elit.Ensemble, sampling: float, words: str) -> None:
    with pytest.raises(StemAeError, match=words):
        ensemble.predict(shot("W 100", 0.16)[0], sampling)


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_sampling_in_the_wrong_unit_is_doubted(ensemble: elit.Ensemble, name: str) -> None:
    image, _ = shot(name, 0.16)
    assert ensemble.doubt_of_sampling(image, 0.16) == ""
    assert ensemble.doubt_of_sampling(image, 0.2) == ""
    assert "calibration" in ensemble.doubt_of_sampling(image, 1.6)


def test_more_columns_than_fit_into_memory_are_refused(ensemble: elit.Ensemble) -> None:
    frame = np.tile(shot("W 100", 0.45)[0], (10, 10))  # columns of one pixel
    with pytest.raises(StemAeError, match="take a smaller region"):
        ensemble.predict(frame)


def test_models_of_one_material_say_that_they_need_the_sampling() -> None:
    with pytest.raises(StemAeError, match="needs the sampling"):
        elit.load("graphene").predict(np.random.default_rng(0).poisson(5.0, (128, 128)))


def test_rival_widths_are_told() -> None:
    widths = np.geomspace(1.0, 8.0, 25)
    probability = np.full(25, 1e-3)
    probability[[4, 5, 6]] = 0.2, 0.4, 0.2
    probability[[18, 19]] = 0.1, 0.12
    scale = Scale(widths, probability / probability.sum())
    best, rival = scale.candidates
    assert best == pytest.approx(widths[5], rel=0.05)
    assert rival == pytest.approx(widths[19], rel=0.08)
    assert scale.within(0.5, 3.0).candidates == [pytest.approx(best, rel=0.05)]
