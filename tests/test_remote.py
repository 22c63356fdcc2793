"""Prediction in another process: the same answer, and no way of dying that anybody has to wait for."""

from __future__ import annotations

import io
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from stem_ae import elit, processes
from stem_ae.elit import remote
from stem_ae.errors import StemAeError
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.specimens import graphene

ROOT = pathlib.Path(__file__).parents[1]


def frame(pixels: int, sampling: float = 0.1, seed: int = 0) -> np.ndarray:
    xy = graphene((60.0, 60.0), silicon=0.02, rotation=12.0, seed=3).positions[:, :2]
    shape = (pixels, pixels + 16)
    image = expected_fraction(xy, np.full(len(xy), 0.03), shape, (sampling, sampling), GaussianProbe(0.5))
    return np.random.default_rng(seed).poisson(1e4 * sampling**2 * image).astype(np.float32)


@pytest.fixture(scope="module")
def shared():
    """A process that several tests may use."""
    process = remote.PredictionProcess()
    yield process
    process.close()


def pid_of(process: remote.PredictionProcess) -> int:
    assert process._process.pid is not None
    return process._process.pid


def has_ended(pid: int, within: float = 10.0) -> bool:
    """Return whether the process is gone, or is a zombie that only its parent could bury."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_the_answer_is_that_of_the_ensemble_itself(shared):
    here, there = elit.load("graphene"), shared.load("graphene")
    facts = ("name", "version", "species")
    assert [getattr(there, name) for name in facts] == [getattr(here, name) for name in facts]
    assert len(there) == len(here) == 5
    for pixels in (96, 250):
        image = frame(pixels)
        expected, answer = here.predict(image, (0.1, 0.1), 0.3), there.predict(image, (0.1, 0.1), 0.3)
        assert len(answer.atoms) > 20
        assert (answer.atoms.shape, answer.atoms.sampling) == (image.shape, (0.1, 0.1))
        for name in ("positions", "covariance", "probabilities", "intensity"):
            np.testing.assert_allclose(getattr(answer.atoms, name), getattr(expected.atoms, name), rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(answer.atoms.labels, expected.atoms.labels)
        for name in ("working_probability", "working_uncertainty", "uncertainty", "presence"):
            np.testing.assert_allclose(getattr(answer, name), getattr(expected, name), atol=1e-4)
        assert answer.novelty == pytest.approx(expected.novelty, rel=1e-3)
    assert there.estimate_sampling(image) == pytest.approx(here.estimate_sampling(image))


@pytest.mark.parametrize("sampling", [None, (0.1, 0.1)])
def test_a_model_that_reads_the_scale_says_the_same_of_it(shared, sampling):
    here, there = elit.load("any"), shared.load("any")
    assert not there.needs_sampling
    image = frame(200)
    expected, answer = here.predict(image, sampling), there.predict(image, sampling)
    assert len(answer.atoms) == len(expected.atoms) > 20
    assert answer.atoms.sampling == sampling
    assert answer.width == pytest.approx(expected.width, rel=1e-3)
    assert answer.scale.candidates == pytest.approx(expected.scale.candidates, rel=1e-3)
    for name in ("presence", "uncertainty", "working_probability"):
        np.testing.assert_allclose(getattr(answer, name), getattr(expected, name), atol=1e-3)


def test_a_refusal_is_the_same_sentence(shared):
    ensemble = shared.load("graphene")
    with pytest.raises(StemAeError, match="everywhere"):
        ensemble.predict(np.ones((64, 64), np.float32), (0.1, 0.1))
    with pytest.raises(StemAeError, match="choose one of"):
        shared.load("no such model")
    assert len(ensemble.predict(frame(96), (0.1, 0.1)).atoms) > 20  # the model before is still there


def test_an_unforeseen_error_comes_with_its_traceback(shared):
    ensemble = shared.load("graphene")
    with pytest.raises(processes.RemoteError, match="do") as caught:
        shared.request(ensemble, {}, {})
    assert any("serve.py" in note for note in caught.value.__notes__)


def test_two_models_take_turns_in_one_process(shared):
    graphene_there, mos2_there = shared.load("graphene"), shared.load("mos2")
    pid = pid_of(shared)
    assert graphene_there.predict(frame(96), (0.1, 0.1)).atoms.species == ("C", "Si")
    assert mos2_there.predict(frame(96), (0.1, 0.1)).atoms.species == mos2_there.species != ("C", "Si")
    assert pid_of(shared) == pid


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_it_says_so_and_the_next_frame_starts_it_again():
    process = remote.PredictionProcess()
    ensemble = process.load("graphene")
    first = pid_of(process)
    os.kill(first, signal.SIGSTOP)  # so that the request is under way when it dies
    threading.Timer(0.3, os.kill, (first, signal.SIGKILL)).start()
    with pytest.raises(StemAeError, match="ended unexpectedly"):
        ensemble.predict(frame(96), (0.1, 0.1))
    assert len(ensemble.predict(frame(96), (0.1, 0.1)).atoms) > 20
    assert pid_of(process) != first
    process.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_closing_ends_a_request_under_way_at_once():
    process = remote.PredictionProcess()
    ensemble = process.load("graphene")
    pid = pid_of(process)
    os.kill(pid, signal.SIGSTOP)
    errors = []

    def ask() -> None:
        try:
            ensemble.predict(frame(96), (0.1, 0.1))
        except StemAeError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.2)
    start = time.monotonic()
    process.close()
    process.close()
    asking.join(5)
    assert time.monotonic() - start < 2
    assert len(errors) == 1
    assert has_ended(pid)
    with pytest.raises(StemAeError, match="was closed"):
        ensemble.predict(frame(96), (0.1, 0.1))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_ends_when_its_parent_is_killed():
    code = (
        "import time; from stem_ae.elit.remote import PredictionProcess; p = PredictionProcess(); p.load('graphene');"
        "print(p._process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert not has_ended(child, within=0.3)
    parent.kill()
    parent.wait()
    assert has_ended(child)


# --- processes ------------------------------------------------------------------------------------------------------


def test_messages_come_out_as_they_went_in():
    pipe = io.BytesIO()
    arrays = {"empty": np.zeros((0, 2)), "labels": np.arange(6).reshape(2, 3), "map": np.full((4, 4), np.nan, "f4")}
    processes.send(pipe, {"text": "Å", "pair": (1, 2.5)}, {**arrays, "turned": arrays["labels"].T})
    processes.send(pipe, {}, None)
    pipe.seek(0)
    values, received = processes.receive(pipe)
    assert values == {"text": "Å", "pair": [1, 2.5]}
    for name, array in {**arrays, "turned": arrays["labels"].T}.items():
        np.testing.assert_array_equal(received[name], array)
        assert received[name].dtype == array.dtype
    assert processes.receive(pipe) == ({}, {})
    with pytest.raises(EOFError):
        processes.receive(pipe)
    with pytest.raises(EOFError):
        processes.receive(io.BytesIO(pipe.getvalue()[:60]))  # cut off in the middle


def test_inside_swift_the_interpreter_is_not_its_launcher(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "NionSwiftLauncher"))
    found = subprocess.run([processes.python(), "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    assert pathlib.Path(found.stdout.strip()) == pathlib.Path(sys.prefix)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(StemAeError, match="no Python interpreter"):
        processes.python()
