from __future__ import annotations

import dataclasses
import pathlib

import ase.io
import numpy as np
import pytest

from stem_ae import Atoms2D, StemAeError
from stem_ae.atoms import as_sampling


def some_atoms(n: int = 7, seed: int = 0) -> Atoms2D:
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n, 2, 2))
    probabilities = rng.dirichlet([1.0, 1.0, 1.0], n)
    return Atoms2D(
        rng.uniform(0, 20, (n, 2)), factor @ factor.transpose(0, 2, 1), probabilities.argmax(1), ("Mo", "S2", "S1"),
        probabilities, rng.uniform(1, 9, n), (200, 100), (0.1, 0.2),
    )


@pytest.mark.parametrize("suffix", ["csv", "xyz", "extxyz"])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_files_give_back_every_bit(tmp_path: pathlib.Path, suffix: str, n: int) -> None:
    atoms = some_atoms(n)
    again = Atoms2D.read(atoms.write(tmp_path / f"atoms.{suffix}"))
    assert again.species == atoms.species
    assert again.shape == atoms.shape
    assert again.sampling == atoms.sampling
    for name in ("positions", "covariance", "labels", "probabilities", "intensity"):
        np.testing.assert_array_equal(getattr(again, name), getattr(atoms, name))


def test_ase_reads_the_extended_xyz(tmp_path: pathlib.Path) -> None:
    atoms = some_atoms()
    read = ase.io.read(atoms.write(tmp_path / "atoms.extxyz"))
    assert isinstance(read, ase.Atoms)
    np.testing.assert_allclose(read.positions[:, :2], atoms.positions)
    assert read.get_chemical_symbols() == [name.rstrip("12") for name in atoms.symbols]
    np.testing.assert_allclose(read.arrays["probabilities"], atoms.probabilities)


def test_selection_and_counts_agree() -> None:
    atoms = some_atoms(50)
    mo = atoms[atoms.labels == 0]
    assert len(mo) == atoms.counts()["Mo"]
    assert set(mo.symbols) == {"Mo"}
    assert np.all(mo.confidence >= 1 / 3)


def test_pixels_follow_the_sampling_of_each_axis() -> None:
    atoms = some_atoms()
    np.testing.assert_allclose(atoms.positions_px * [0.2, 0.1], atoms.positions)


@pytest.mark.parametrize("sampling", [0, -1, np.nan, (1, 2, 3), (0.1, np.inf)])
def test_bad_sampling_is_refused(sampling: float) -> None:
    with pytest.raises(StemAeError, match="sampling"):
        as_sampling(sampling)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    atoms = some_atoms()
    with pytest.raises(StemAeError, match="intensity"):
        dataclasses.replace(atoms, intensity=np.ones(3))
    with pytest.raises(StemAeError, match="label"):
        dataclasses.replace(atoms, labels=np.full(7, 3))


@pytest.mark.parametrize("text", ["", "nonsense", "3\nProperties=pos:R:3\nC 0 0 0\n"])
def test_other_files_are_refused_in_one_sentence(tmp_path: pathlib.Path, text: str) -> None:
    for suffix in ("csv", "xyz"):
        path = tmp_path / f"other.{suffix}"
        path.write_text(text)
        with pytest.raises(StemAeError, match="does not hold atoms"):
            Atoms2D.read(path)
    with pytest.raises(StemAeError, match="suffix"):
        some_atoms().write(tmp_path / "atoms.pdf")
