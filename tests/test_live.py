"""The live worker: newest frame only, never blocking, one sentence for whatever goes wrong."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from stem_ae.atoms import Atoms2D
from stem_ae.elit import Prediction, live
from stem_ae.elit.calibrate import estimate_sampling
from stem_ae.errors import StemAeError
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.specimens import graphene

WORKING = 0.2


class Brightest:
    """An ensemble of one rule: the atom is at the brightest pixel. Waits for its gate."""

    name, version, species, lattice_constant = "brightest", "1", ("X",), 2.46
    needs_sampling = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.working = threading.Event()
        self.estimates = 0

    def __len__(self) -> int:
        return 1

    def estimate_sampling(self, image):
        self.estimates += 1
        return estimate_sampling(image, "graphene")

    def predict(self, image, sampling, threshold=0.5, classes="network"):
        self.working.set()
        assert self.gate.wait(30)
        row, column = np.unravel_index(image.argmax(), image.shape)
        dy, dx = sampling or (1.0, 1.0)
        xy = np.array([[column * dx, row * dy]])
        atoms = Atoms2D(xy, np.eye(2)[None] * 1e-4, [0], self.species, [[1.0]], [1.0], image.shape, sampling)
        maps = np.zeros((1, 256, 256), np.float32)
        maps[0, min(round(xy[0, 1] / WORKING), 255), min(round(xy[0, 0] / WORKING), 255)] = 1.0
        return Prediction(maps, maps[0], WORKING, atoms, 0.0)


def spot(column: int) -> np.ndarray:
    image = np.zeros((32, 32))
    image[3, column] = 1.0
    return image


def frame(image, calibration=(0.1, 0.1), **values) -> live.Frame:
    return live.Frame(image, calibration, **values)


class Listener:
    """Remembers what the worker said, and can wait for it."""

    def __init__(self) -> None:
        self.results: list[live.Result] = []
        self.errors: list[str] = []
        self.times: list[float] = []
        self.calls = 0

    def __call__(self, worker: live.LiveWorker) -> None:
        if worker.result and (not self.results or worker.result is not self.results[-1]):
            self.results.append(worker.result)
            self.times.append(time.perf_counter())
        if worker.error:
            self.errors.append(worker.error)
        self.calls += 1

    def wait(self, condition, timeout=30.0) -> None:
        end = time.monotonic() + timeout
        while not condition(self) and time.monotonic() < end:
            time.sleep(0.002)
        assert condition(self)


@pytest.fixture
def ensemble():
    return Brightest()


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def worker(ensemble, listener):
    worker = live.LiveWorker(lambda: ensemble, listener)
    listener.wait(lambda _: worker.state == "running")
    yield worker
    ensemble.gate.set()
    worker.close(timeout_s=5)
    assert not worker._thread.is_alive()


def found_columns(listener) -> list[int]:
    return [round(result.prediction.atoms.positions_px[0, 0]) for result in listener.results]


def test_only_the_newest_frame_is_looked_at(worker, ensemble, listener):
    ensemble.gate.clear()
    worker.submit(frame(spot(1)))
    assert ensemble.working.wait(5)
    start = time.perf_counter()
    for column in range(2, 12):
        worker.submit(frame(spot(column)))
    assert time.perf_counter() - start < 0.5  # the sender does not wait for the net, which waits for the gate
    ensemble.gate.set()
    listener.wait(lambda seen: len(seen.results) == 2)
    time.sleep(0.05)
    assert found_columns(listener) == [1, 11]
    statistics = worker.statistics
    assert (statistics.seen, statistics.skipped, statistics.predicted, statistics.failed) == (11, 9, 2, 0)


def test_what_is_wrong_with_a_frame_is_one_sentence_and_the_next_one_is_fine(worker, listener):
    broken = spot(5)
    broken[0, 0] = np.nan
    bad = [broken, np.zeros(40), np.ones((32, 32)), np.zeros((0, 0)), spot(3) + 1j, np.zeros((3, 32, 32))]
    for k, image in enumerate(bad):
        worker.submit(frame(image))
        listener.wait(lambda seen, k=k: len(seen.errors) == k + 1)
    for sentence in listener.errors:
        assert sentence.endswith((".", "?"))
        assert "Traceback" not in sentence
    assert len(set(listener.errors)) == len(bad)  # each says what is wrong with this one
    worker.submit(frame(spot(7)))
    listener.wait(lambda seen: seen.results)
    assert worker.error == ""
    assert found_columns(listener) == [7]
    assert worker.statistics.failed == len(bad)


def test_a_failing_net_is_reported_and_survived(worker, ensemble, listener, caplog):
    def fail(image, sampling, threshold=0.5, classes="network"):
        raise RuntimeError("out of memory")

    whole = ensemble.predict
    ensemble.predict = fail
    worker.submit(frame(spot(1)))
    listener.wait(lambda seen: seen.errors)
    assert "out of memory" in listener.errors[0]
    assert any(record.exc_info for record in caplog.records)  # whoever repairs it needs the traceback
    ensemble.predict = whole
    worker.submit(frame(spot(2)))
    listener.wait(lambda seen: seen.results)


@pytest.mark.parametrize("error", [StemAeError("There is no model 'x': train one."), ImportError("No module 'torch'")])
def test_a_model_that_does_not_load(error, listener):
    def load():
        raise error

    worker = live.LiveWorker(load, listener)
    listener.wait(lambda seen: seen.errors)
    assert worker.state == "failed"
    assert str(error) in worker.error
    worker.submit(frame(spot(1)))  # nobody listens any more, and nothing breaks
    worker.close(timeout_s=5)


def test_nothing_is_said_after_closing(ensemble, listener):
    worker = live.LiveWorker(lambda: ensemble, listener)
    listener.wait(lambda _: worker.state == "running")
    ensemble.gate.clear()
    worker.submit(frame(spot(1)))
    assert ensemble.working.wait(5)
    start = time.perf_counter()
    worker.close()
    assert time.perf_counter() - start < 0.5  # the caller does not wait for the net, which waits for the gate
    calls = listener.calls
    ensemble.gate.set()
    worker.close(timeout_s=5)
    assert not worker._thread.is_alive()
    assert listener.calls == calls
    worker.submit(frame(spot(2)))
    assert worker.statistics.seen == 1


def test_latency_is_measured_to_the_first_time_a_result_is_shown(worker, listener):
    worker.submit(frame(spot(1), ready=time.perf_counter() - 0.5))
    listener.wait(lambda seen: seen.results)
    assert worker.statistics.latency_s == 0.0
    worker.shown(worker.result)
    first = worker.statistics.latency_s
    assert 0.5 <= first < 1.5
    time.sleep(0.05)
    worker.shown(worker.result)  # drawn again because somebody zoomed
    assert worker.statistics.latency_s == first


def test_the_rate_counts_predictions_of_the_last_seconds(worker, listener):
    for column in range(5):
        worker.submit(frame(spot(column)))
        listener.wait(lambda seen, n=column + 1: len(seen.results) == n)
        time.sleep(0.05)
    assert worker.statistics.rate == pytest.approx(4 / (listener.times[-1] - listener.times[0]), rel=0.1)


# --- sampling -------------------------------------------------------------------------------------------------------


def test_sampling_of_the_calibration_or_as_typed(worker, listener):
    worker.submit(frame(spot(1), calibration=(0.1, 0.12)))
    listener.wait(lambda seen: len(seen.results) == 1)
    assert listener.results[0].sampling.angstrom_per_px == (0.1, 0.12)
    assert listener.results[0].prediction.atoms.positions[0] == pytest.approx([0.12, 0.3])
    worker.submit(frame(spot(1), calibration=None))
    listener.wait(lambda seen: seen.errors)
    assert "type its sampling" in listener.errors[0]
    worker.submit(frame(spot(1), calibration=None, choice=live.SamplingChoice("typed", 0.05)))
    listener.wait(lambda seen: len(seen.results) == 2)
    assert listener.results[1].sampling.angstrom_per_px == (0.05, 0.05)
    assert "typed" in str(listener.results[1].sampling)


def test_a_model_that_reads_the_scale_needs_no_sampling(worker, ensemble, listener):
    ensemble.needs_sampling = False
    worker.submit(frame(spot(7), calibration=None))
    listener.wait(lambda seen: len(seen.results) == 1)
    (result,) = listener.results
    assert result.sampling.angstrom_per_px is None
    assert "pixels" in str(result.sampling)
    assert result.prediction.atoms.sampling is None
    assert result.prediction.atoms.positions[0] == pytest.approx([7, 3])
    worker.submit(frame(spot(7)))  # what is known is used
    listener.wait(lambda seen: len(seen.results) == 2)
    assert listener.results[1].prediction.atoms.positions[0] == pytest.approx([0.7, 0.3])


def lattice_image(sampling: float) -> np.ndarray:
    specimen = graphene((60.0, 60.0), silicon=0.0, rotation=12.0, seed=3)
    xy = specimen.positions[:, :2]
    image = expected_fraction(xy, np.ones(len(xy)), (256, 256), (sampling, sampling), GaussianProbe(0.4))
    return image + np.random.default_rng(0).normal(0, 0.2 * image.std(), image.shape)


def test_sampling_from_the_lattice_is_estimated_once_for_each_choice(worker, ensemble, listener):
    image = lattice_image(0.16)
    choice = live.SamplingChoice("lattice")
    for k in range(3):
        worker.submit(frame(image, calibration=None, choice=choice))
        listener.wait(lambda seen, k=k: len(seen.results) == k + 1)
    assert ensemble.estimates == 1
    assert listener.results[-1].sampling.angstrom_per_px[0] == pytest.approx(0.16, rel=0.02)
    assert "lattice" in str(listener.results[-1].sampling)
    worker.submit(frame(image, calibration=None, choice=live.SamplingChoice("lattice")))
    listener.wait(lambda seen: len(seen.results) == 4)
    assert ensemble.estimates == 2


def test_a_wrong_sampling_is_noticed(worker, listener):
    typed = {"calibration": None, "choice": live.SamplingChoice("typed", 0.12)}
    for stated in ({"calibration": (0.16, 0.16)}, {"calibration": (0.12, 0.12)}, typed):
        count = len(listener.results)
        worker.submit(frame(lattice_image(0.16), **stated))
        listener.wait(lambda seen, count=count: len(seen.results) > count)
    assert listener.results[0].trust.believed
    for wrong in listener.results[1:]:
        assert "0.120" in wrong.trust.sentence
        assert wrong.sampling.angstrom_per_px == (0.12, 0.12)  # it is noticed, not overruled
    worker.submit(frame(np.random.default_rng(1).normal(size=(256, 256))))
    listener.wait(lambda seen: len(seen.results) == 4)
    assert listener.results[-1].sampling.lattice is None


def test_no_lattice_no_sampling(worker, listener):
    noise = np.random.default_rng(1).normal(size=(256, 256))
    worker.submit(frame(noise, calibration=None, choice=live.SamplingChoice("lattice")))
    listener.wait(lambda seen: seen.errors)
    assert "No clear lattice" in listener.errors[0]


# --- presence -------------------------------------------------------------------------------------------------------


def test_the_threshold_picks_atoms_by_the_height_of_their_peak():
    heights = np.array([0.9, 0.55, 0.3])
    maps = np.zeros((2, 40, 50), np.float32)
    pixels = np.array([[10, 5], [49, 39], [0, 0]])  # x, y: one inside, two in the corners
    for height, (x, y), share in zip(heights, pixels, (1.0, 0.4, 0.5), strict=True):
        maps[:, y, x] = height * share, height * (1 - share)
    xy = pixels * WORKING + [[0.7 * WORKING, -0.4 * WORKING], [-0.6 * WORKING, 0.0], [0.0, 0.0]]  # refined positions
    n = len(xy)
    atoms = Atoms2D(xy, np.zeros((n, 2, 2)), np.zeros(n), ("A", "B"), np.full((n, 2), 0.5), np.ones(n), (80, 100), 0.1)
    prediction = Prediction(maps, maps[0], WORKING, atoms, 0.0)
    np.testing.assert_allclose(prediction.presence, heights, rtol=1e-6)
    image = np.zeros((80, 100), np.float32)
    result = live.Result(frame(image), image, live.Sampling((0.1, 0.1), "typed"), prediction, 0.0)
    assert [len(result.atoms(t)) for t in (0.2, 0.3, 0.5, 0.6, 0.95)] == [3, 3, 2, 1, 0]
    empty = dataclasses.replace(prediction, atoms=atoms[:0])
    assert empty.presence.shape == (0,)


def test_the_module_does_not_import_torch():
    code = "import sys, stem_ae.elit.live; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


SLOW = """
import threading, time
import numpy as np
from stem_ae.elit import live

working = threading.Event()

class Slow:
    name, version, species, lattice_constant, needs_sampling = "slow", "1", ("X",), 0.0, True

    def __len__(self):
        return 1

    def estimate_sampling(self, image):
        return (0.1, 0.1), 0.0

    def predict(self, image, sampling, threshold=0.5, classes="network"):
        working.set()
        time.sleep(0.5)
        print("left", flush=True)
        raise ValueError

worker = live.LiveWorker(Slow, lambda worker: None)
worker.submit(live.Frame(np.eye(32), (0.1, 0.1)))
assert working.wait(30)
"""


def test_the_end_of_python_waits_for_the_frame_in_work():
    """Torch brings a process down whose end catches one of its threads at work."""
    ended = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True)
    assert ended.stdout.split() == ["left"], ended.stderr
    assert ended.returncode == 0
