"""Trainings and their files: another structure or plan never overwrites a model, and nothing is lost at the end."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from filelock import FileLock

from stem_ae import StemAeError, cli, elit
from stem_ae.elit import build as building
from stem_ae.elit import training
from stem_ae.elit.build import Plan, build, familiar_to, weighing
from stem_ae.elit.ensemble import Description, Ensemble
from stem_ae.elit.materials import MATERIALS, Material, crystal
from stem_ae.elit.network import UNet
from stem_ae.elit.synthesis import Conditions
from stem_ae.imaging.specimens import Specimen, graphene

HOME = pathlib.Path(__file__).parents[1]
BRIEF = ["--members", "1", "--steps", "2", "--patches", "2", "--threads", "1", "--device", "cpu"]
LATTICE = {"Cu": 3.61, "Au": 4.08}


@pytest.fixture(autouse=True)
def store(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("STEM_AE_MODELS", str(tmp_path / "models"))
    torch.set_num_threads(1)
    return tmp_path / "models"


def structure(folder: pathlib.Path, symbol: str) -> pathlib.Path:
    path = folder / "x.cif"
    ase.io.write(path, ase.build.bulk(symbol, "fcc", a=LATTICE[symbol], cubic=True))
    return path


def train(path: pathlib.Path | str, *more: str) -> int:
    return int(cli.main(["train", str(path), "--name", "mine", *BRIEF, *more]))


def test_the_same_file_with_another_crystal_is_another_model(
    tmp_path: pathlib.Path, store: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(structure(tmp_path, "Cu")) == 0
    version = elit.load("mine").version
    assert elit.load("mine").species == ("Cu",)
    assert train(tmp_path / "x.cif") == 0  # the same again: nothing to do
    assert elit.load("mine").version == version
    capsys.readouterr()
    structure(tmp_path, "Au")
    assert train(tmp_path / "x.cif") == 2
    said = capsys.readouterr().err
    assert "another structure" in said
    assert "models remove mine" in said
    assert elit.load("mine").version == version
    structure(tmp_path, "Cu")
    for other in (["--steps", "3"], ["--seed", "1"], ["--zone", "1", "1", "0"], ["--members", "2"], ["--patches", "3"]):
        assert train(tmp_path / "x.cif", *other) == 2
        assert "There is already a model" in capsys.readouterr().err
        assert elit.load("mine").version == version
    assert cli.main(["models", "remove", "mine"]) == 0
    structure(tmp_path, "Au")
    assert train(tmp_path / "x.cif") == 0
    assert elit.load("mine").species == ("Au",)


def test_another_file_named_as_the_output_is_not_overwritten(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in (b"my thesis", elit_bytes("graphene")):
        path = tmp_path / "out.safetensors"
        path.write_bytes(content)
        assert train(structure(tmp_path, "Cu"), "--output", str(path)) == 2
        assert "out.safetensors" in capsys.readouterr().err
        assert path.read_bytes() == content


def elit_bytes(name: str) -> bytes:
    from stem_ae.store import models

    return models.find(name).read_bytes()


class Stop(Exception):  # noqa: N818
    """Ends a training in the middle."""


def interrupted(material: Material, plan: Plan, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until a checkpoint is there, as a kill would leave it."""
    save = training._Run.save

    def save_and_end(self: training._Run, *arguments: Any) -> None:
        save(self, *arguments)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "save", save_and_end)
        with pytest.raises(Stop):
            build("mine", material, plan, path)


COPPER = crystal(ase.build.bulk("Cu", "fcc", a=3.61, cubic=True), (0, 0, 1), ())
GOLD = crystal(ase.build.bulk("Au", "fcc", a=4.08, cubic=True), (0, 0, 1), ())


def test_an_interrupted_training_goes_on_with_its_own_crystal_only(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(1, 4, 48, training.Recipe(steps=230, batch=1, width=2, norm_batches=2))
    whole = build("mine", COPPER, plan, tmp_path / "whole.safetensors")
    path = tmp_path / "mine.safetensors"
    interrupted(COPPER, plan, path, monkeypatch)
    (checkpoint,) = tmp_path.glob("mine.member0.checkpoint")
    kept = checkpoint.read_bytes()
    for material, other in ((GOLD, plan), (COPPER, Plan(1, 4, 48, plan.recipe, seed=3))):
        with pytest.raises(StemAeError, match="another structure or plan"):
            build("mine", material, other, path)
        assert checkpoint.read_bytes() == kept
    seen: list[int] = []
    resumed = build("mine", COPPER, plan, path, report=lambda what, done, total, loss: seen.append(done)
                    if "network" in what else None)  # fmt: skip
    assert min(seen) > 200
    assert not checkpoint.exists()
    for name, value in whole.members[0].state_dict().items():
        torch.testing.assert_close(resumed.members[0].state_dict()[name], value, msg=name)


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_a_damaged_checkpoint_is_set_aside(
    tmp_path: pathlib.Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    plan = Plan(1, 2, 48, training.Recipe(steps=2, batch=1, width=2, norm_batches=1))
    expected = build("mine", COPPER, plan, tmp_path / "expected.safetensors")
    (tmp_path / "mine.member0.checkpoint").write_bytes(content)
    built = build("mine", COPPER, plan, tmp_path / "mine.safetensors")
    assert "damaged" in caplog.text
    assert (tmp_path / "mine.member0.damaged").read_bytes() == content
    for name, value in expected.members[0].state_dict().items():
        torch.testing.assert_close(built.members[0].state_dict()[name], value, msg=name)


def mostly_empty(extent: tuple[float, float], rng: np.random.Generator) -> Specimen:
    """Return graphene, or now and then nothing but a hole."""
    sheet = graphene(extent, 0.0, rotation=float(rng.uniform(0, 60)))
    return sheet[:0] if rng.random() < 0.6 else sheet


def test_frames_without_a_count_are_drawn_again() -> None:
    """A training of hours ended in its last step when one of its frames was all hole, at no background."""
    dark = Conditions(log_dose=(3e4, 3.1e4), coverage=0.0, smoothed=0.0)
    holes = Material(("C",), mostly_empty, dark, 2.46)
    ensemble = Ensemble([UNet(1, 2)], Description("holes", ("C",), 0.2, 2.46, 2))
    assert familiar_to(ensemble, holes, [dark], 2, 16).unit > 0
    assert weighing(ensemble, holes, 2, 3).floor


def test_frames_that_hold_something_are_those_they_were() -> None:
    """The statistics of trained models can be learnt again."""
    from stem_ae.elit import synthesis

    material = MATERIALS["graphene"]
    shot = building._scene(material, lambda rng: 12.0, material.conditions, [0, 1, 5])
    rng = np.random.default_rng([0, 1, 5])
    again = synthesis.scene(material.make_specimen, 12.0, material.conditions, rng)
    np.testing.assert_array_equal(shot.counts, again.counts)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--members", "0"], "--members"), (["--steps", "0"], "--steps"), (["--patches", "-3"], "--patches"),
        (["--seed", "-1"], "--seed"), (["--threads", "0"], "--threads"), (["--threads", "-4"], "--threads"),
        (["--device", "tpu"], "tpu"), (["--output", "FOLDER"], "safetensors"),
        (["--output", "FOLDER/x.txt"], "ends in"), (["--output", "FOLDER/file/x.safetensors"], "Cannot write"),
        (["--output", "FOLDER/d.safetensors"], "folder"), (["--name", "../x"], "cannot name"),
        (["--name", ""], "cannot name"), (["--name", "graphene"], "already a model"),
        (["--members", "1000"], "--members"),
    ],
)  # fmt: skip
def test_what_is_asked_for_is_checked_before_anything_is_computed(
    tmp_path: pathlib.Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "d.safetensors").mkdir()

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(building, "build", never)
    options = [option.replace("FOLDER", str(tmp_path)) for option in options]
    assert train("graphene", *options) == 2
    assert words in capsys.readouterr().err


def test_two_trainings_of_one_name_do_not_meet(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.safetensors"
    with FileLock(tmp_path / ".mine.lock"), pytest.raises(StemAeError, match="Another training writes to"):
        build("mine", COPPER, Plan(1, 2), path)
    assert not path.exists()


@pytest.mark.slow
def test_a_second_training_waits_for_nobody_and_a_killed_one_leaves_the_name_free(
    tmp_path: pathlib.Path, store: pathlib.Path
) -> None:
    structure(tmp_path, "Cu")
    words = ["train", str(tmp_path / "x.cif"), "--name", "mine", *BRIEF, "--steps", "100000"]
    environment = os.environ | {"PYTHONPATH": str(HOME)}

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "stem_ae", *words], env=environment, stderr=subprocess.PIPE, text=True
        )

    first = started()
    try:
        until = time.monotonic() + 120
        while not (store / ".mine.lock").exists() and time.monotonic() < until:
            time.sleep(0.1)
        assert (store / ".mine.lock").exists()
        second = started()
        _, said = second.communicate(timeout=120)
        assert second.returncode == 2
        assert "Another training writes to" in said
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert train(tmp_path / "x.cif", "--name", "mine") == 0
