"""Model files from strangers: impossible ones are refused with a sentence; no file is deleted."""

from __future__ import annotations

import copy
import json
import pathlib
import re
import resource
import struct
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.frames import frame
from stem_ae import StemAeError, cli, elit
from stem_ae.elit.build import familiar_to
from stem_ae.elit.ensemble import Description, Ensemble
from stem_ae.elit.materials import MATERIALS
from stem_ae.elit.network import UNet
from stem_ae.elit.posterior import Posterior
from stem_ae.elit.refocus import Refocus
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.store import models

BAD = [
    None, True, False, "", "x", "\x1b[31mred", "é" * 500, -1, 0, 1, 7, 1.5, 1e5, 1e308, -1e308, float("nan"),
    float("inf"), [], [[]], [1], [1, 2, 3], ["C", "C"], ["C", 1], ["C"] * 1000, {}, {"a": 1}, {"floor": "x"}, 10**30,
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model with everything in it, too small to be any good."""
    torch.manual_seed(0)
    probe = AberratedProbe(defocus=40.0, astigmatism=(5.0, 0.0))
    description = Description(
        "small", ("C", "Si"), 0.2, 2.46, 2, "graphene", Posterior((0.02, 0.03), (0.4,), (0.5,), (1.2,), (0.06,)),
        Refocus(probe, 0.01), {"losses": [0.1]},
    )  # fmt: skip
    ensemble = Ensemble([UNet(2, 2), UNet(2, 2)], description)
    material = MATERIALS["graphene"]
    familiar = familiar_to(ensemble, material, [material.conditions], 0, 14)
    return ensemble.replace(familiar=familiar).save(tmp_path_factory.mktemp("models") / "small.safetensors")


def facts_of(path: pathlib.Path) -> dict[str, object]:
    with safe_open(path, "pt") as file:
        facts: dict[str, object] = json.loads(file.metadata()["stem_ae"])
    return facts


def written(path: pathlib.Path, tensors: dict[str, torch.Tensor], facts: object) -> pathlib.Path:
    text = facts if isinstance(facts, str) else json.dumps(facts)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"stem_ae": text})
    return path


def read_or_refused(path: pathlib.Path) -> str:
    """Return the sentence with which a file is refused; one that is read has to work, and nothing else may happen."""
    said, ensemble = "", None
    try:
        ensemble = Ensemble.read(path)
    except StemAeError as error:
        said = str(error)
    assert said.isprintable()
    if ensemble is None:
        return said
    prediction = ensemble.predict(IMAGE, 0.15)
    assert np.isfinite(prediction.conditions)
    assert ensemble.version
    return ""


IMAGE = frame("graphene", 1e6, 0.15, (64, 64)).counts


def test_the_whole_model_is_read_and_says_what_it_said(small: pathlib.Path) -> None:
    ensemble = Ensemble.read(small)
    assert ensemble.familiar is not None
    assert ensemble.description.refocus == Refocus(AberratedProbe(defocus=40.0, astigmatism=(5.0, 0.0)), 0.01)
    assert ensemble.description.posterior.floor == (0.02, 0.03)
    assert read_or_refused(small) == ""


@pytest.mark.parametrize("name", ["graphene", "mos2"])
def test_bundled_models_are_read(name: str) -> None:
    assert len(elit.load(name)) == 5


@pytest.mark.parametrize(
    "field",
    ["format", "name", "species", "members", "width", "sampling", "lattice_constant", "material", "posterior",
     "refocus", "provenance"],
)  # fmt: skip
def test_a_description_that_cannot_be_is_refused(small: pathlib.Path, tmp_path: pathlib.Path, field: str) -> None:
    tensors, facts = load_file(small), facts_of(small)
    for value in BAD:
        read_or_refused(written(tmp_path / "bad.safetensors", tensors, facts | {field: value}))
    without = {key: value for key, value in facts.items() if key != field}
    said = read_or_refused(written(tmp_path / "bad.safetensors", tensors, without))
    assert bool(said) == (field in ("format", "name", "species", "members", "width", "sampling"))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ({"posterior": {"floor": [0.02, 0.03, 0.04]}}, "floor"), ({"posterior": {"floor": [float("nan")]}}, "floor"),
        ({"posterior": {"scale": [-1.0]}}, "scale"), ({"posterior": [1]}, "posterior"),
        ({"refocus": {"probe": {"sigma": 0.5}, "noise": 0.0}}, "noise"),
        ({"refocus": {"probe": {"sigma": 0.0}, "noise": 1}}, "sigma"),
        ({"refocus": {"probe": {"sigma": 0.5, "odd": 1}, "noise": 0.1}}, "odd"), ({"refocus": {"noise": 0.1}}, "probe"),
        ({"refocus": {"probe": {"energy_ev": 6e4}, "noise": 0.1}}, "probe"),
        ({"refocus": {"probe": {"defocus": 1e7, "astigmatism": [0, 0]}, "noise": 0.1}}, "defocus"),
        ({"species": ["C", "Si", "N"], "posterior": {}}, "head"), ({"species": ["C"]}, "floor"),
        ({"width": 3}, "shape"), ({"members": 3}, "missing"),
        ({"width": 1e5}, "width"), ({"width": 100000}, "width"), ({"width": 256}, "shape"),
        ({"sampling": 1e-9}, "sampling"), ({"lattice_constant": float("nan")}, "lattice"), ({"name": "a\nb"}, "name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    small: pathlib.Path, tmp_path: pathlib.Path, part: dict[str, object], value: str
) -> None:
    said = read_or_refused(written(tmp_path / "bad.safetensors", load_file(small), facts_of(small) | part))
    assert value in said
    assert "bad.safetensors" in said


def test_no_memory_is_asked_for_before_it_is_known_to_be_needed(small: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "wide.safetensors", load_file(small), facts_of(small) | {"width": 256, "members": 50})
    if sys.platform == "linux":
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "shape" in read_or_refused(path)
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_tensors_that_are_missing_misshapen_or_no_numbers_are_refused(
    small: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    tensors, facts = load_file(small), facts_of(small)
    path = tmp_path / "bad.safetensors"
    for name, tensor in tensors.items():
        rest = {key: value for key, value in tensors.items() if key != name}
        changed = {"missing": rest, "cut": rest | {name: tensor.flatten()[:-1]}}
        if tensor.is_floating_point():
            for value in (float("nan"), float("inf")):
                spoiled = tensor.clone()
                spoiled.flatten()[0] = value
                changed[str(value)] = rest | {name: spoiled.reshape(tensor.shape)}
        for what, other in changed.items():
            said = read_or_refused(written(path, other, facts))
            optional = name.startswith("familiar.") and what == "missing"  # earlier versions kept less
            assert said or optional or name == "familiar.brightness.usual", (name, what)
    foreign = tensors | {"odd": torch.ones(3)}
    assert read_or_refused(written(path, foreign, facts)) == ""


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(start=st.integers(0, 400), junk=st.binary(max_size=60), cut=st.floats(0.0, 1.0))
def test_bytes_that_are_changed_or_cut_are_refused_or_harmless(
    small: pathlib.Path, tmp_path: pathlib.Path, start: int, junk: bytes, cut: float
) -> None:
    whole = small.read_bytes()
    changed = bytearray(whole[: max(1, int(cut * len(whole)))] if cut < 0.5 else whole)
    changed[start : start + len(junk)] = junk
    path = tmp_path / "junk.safetensors"
    path.write_bytes(bytes(changed))
    read_or_refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 8, b"not a model", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"{}"]
)
def test_files_that_are_none_are_refused(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "none.safetensors"
    path.write_bytes(content)
    assert "is not a stem_ae model" in read_or_refused(path)
    nested = written(tmp_path / "nested.safetensors", {"x": torch.ones(1)}, "[" * 5000 + "]" * 5000)
    assert "is not a stem_ae model" in read_or_refused(nested)
    with pytest.raises(StemAeError, match="folder"):
        Ensemble.read(tmp_path)


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    folder = tmp_path / "store"
    folder.mkdir()
    monkeypatch.setenv("STEM_AE_MODELS", str(folder))
    return folder


def test_a_broken_file_does_not_hide_the_list(
    store: pathlib.Path, small: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Ensemble.read(small).save(store / "good.safetensors")
    (store / "broken.safetensors").write_bytes(b"half a model")
    (store / "folder.safetensors").mkdir()
    (store / "lost.safetensors").symlink_to(store / "nowhere")
    assert cli.main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"any", "graphene", "mos2", "good", "broken"}
    assert rows["good"]["members"] == 2
    assert "not a stem_ae model" in rows["broken"]["error"]
    assert cli.main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert re.search(r"^broken +broken.safetensors is not a stem_ae model", "\n".join(lines), re.MULTILINE)
    assert "2 networks" in next(line for line in lines if line.startswith("good"))
    assert cli.main(["models", "show", "broken"]) == 2
    assert models.material("broken") == ""
    assert models.material("good") == "graphene"


def test_only_models_of_the_users_own_store_are_removed(
    store: pathlib.Path, small: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = pathlib.Path(models.find("graphene"))
    kept = copy.copy(bundled.read_bytes())
    elsewhere = tmp_path / "elsewhere.safetensors"
    elsewhere.write_bytes(small.read_bytes())
    monkeypatch.chdir(store)
    (store / "link.safetensors").symlink_to(elsewhere)
    refused = [
        "graphene", str(bundled), str(elsewhere), "../elsewhere.safetensors", "../elsewhere", "nothing", "", ".", "..",
        str(store), "a/b", str(store / ".." / "elsewhere.safetensors"), "graphene.safetensors",
    ]  # fmt: skip
    for name in refused:
        with pytest.raises(StemAeError):
            models.remove(name)
    assert bundled.read_bytes() == kept
    assert elsewhere.exists()
    models.remove("link")  # the name in the store, not what it points to
    assert elsewhere.exists()
    assert not (store / "link.safetensors").is_symlink()
    for name in ("mine", str(store / "other.safetensors")):
        path = store / f"{pathlib.Path(name).stem}.safetensors"
        path.write_bytes(small.read_bytes())
        (store / f"{path.stem}.member1.checkpoint").write_bytes(b"left by a training")
        neighbour = store / f"{path.stem}2.member0.checkpoint"
        neighbour.write_bytes(b"of another one")
        assert models.remove(name) == [path, store / f"{path.stem}.member1.checkpoint"]
        assert not path.exists()
        assert neighbour.exists()
