"""Useless data of detectors never count as a measurement: the run waits, says why, and continues or ends as failed."""

from __future__ import annotations

import dataclasses
import math
import threading
import time

import numpy as np
import pytest

pytest.importorskip("bluesky")
pytest.importorskip("nion.instrumentation")

from nion.swift.test import TestContext

from stem_ae.errors import StemAeError
from stem_ae.explore.remote import DecisionProcess
from stem_ae.microscope import usable
from stem_ae.microscope.devices import Microscope
from stem_ae.microscope.frame import CameraFrame, Frame, Image, Reading
from stem_ae.plans import Run, Runner, acquire, stubs
from stem_ae.plans.explore import Exploration, Settings, explorer_of
from stem_ae.plans.tune import tune
from tests.test_plans import FRAME, Swift, grid, named_places

PLACES = FRAME.to_plane(np.random.default_rng(8).uniform(4, 36, (12, 2)))


class Faulty:
    """An instrument that passes everything on to another one, except what it was told to do otherwise.

    ``faults[name]`` is called with the number of the call, the real method and its arguments.
    """

    def __init__(self, real) -> None:
        self.real, self.faults, self.calls = real, {}, {}
        self.name = real.name
        self.identity = real.identity

    def __getattr__(self, name):
        found = getattr(self.real, name)
        if not callable(found):
            return found

        def call(*arguments, **named):
            self.calls[name] = self.calls.get(name, 0) + 1
            fault = self.faults.get(name)
            return fault(self.calls[name], found, *arguments, **named) if fault else found(*arguments, **named)

        return call


def spoilt(how, first=1, last=math.inf):
    """Return a fault that makes something else of the data of the calls from ``first`` to ``last``."""

    def fault(number, real, *arguments):
        got = real(*arguments)
        return dataclasses.replace(got, data=how(got.data)) if first <= number <= last else got

    return fault


def some(data, share, value=np.nan):
    """Return data of which a share has another value."""
    flat = data.copy().ravel()
    flat[np.random.default_rng(0).permutation(flat.size)[: round(share * flat.size)]] = value
    return flat.reshape(data.shape)


USELESS = {
    "all NaN": lambda d: np.full_like(d, np.nan),
    "infinite": lambda d: np.full_like(d, np.inf),
    "zero": np.zeros_like,
    "constant": lambda d: np.full_like(d, 7.0),
    "empty": lambda d: d[..., :0],
    "of another size": lambda d: d[..., : d.shape[-1] // 2],
    "without an axis": lambda d: d.reshape(-1)[0],
    "dark noise": lambda d: np.random.default_rng(1).normal(0, 2, d.shape).astype(np.float32),
    "a fifth NaN": lambda d: some(d, 0.2),
    "all masked": lambda d: np.ma.masked_all_like(d),
    "a fifth masked": lambda d: np.ma.masked_invalid(some(d, 0.2)),
    "complex": lambda d: d * (1 + 1j),
    "nothing": lambda d: None,
}


@pytest.fixture
def swift(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setup = TestContext.TestSetup()
    result = Swift(tmp_path, is_both_cameras=True)
    with result.context:
        result.instrument = Faulty(result.microscope.instrument)
        result.microscope = Microscope(result.instrument)
        result.said = []
        tell = lambda: result.said.append(result.runner.suspended)  # noqa: E731
        result.runner = Runner(result.microscope, tmp_path / "runs", tell)
        result.name_places()
        yield result
        result.runner.close()
    del setup


@pytest.fixture(scope="module")
def decisions():
    process = DecisionProcess()
    yield process
    process.close()


# --- what is usable ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", USELESS)
@pytest.mark.parametrize("shape", [(512,), (64, 64)])
def test_what_is_useless_is_told_from_what_is_faint(how, shape):
    rng = np.random.default_rng(3)
    faint = rng.poisson(0.3, shape).astype(np.float32)
    spectrum = rng.normal(0, 2, shape).astype(np.float32)
    spectrum.ravel()[100:104] += 40  # a peak in a noisy camera
    for frame in (faint, spectrum, some(faint, 0.05), -5 + spectrum, 1e6 + faint):
        assert usable.problem_of(frame, "The camera", shape, len(shape)) == ""
        problem = usable.problem_of(USELESS[how](frame), "The camera", shape, len(shape))
        assert problem.startswith("The camera gives")
        assert problem.endswith(".")


def test_dark_noise_is_seldom_taken_for_signal_and_vacuum_never_for_dark():
    rng = np.random.default_rng(0)
    dark = [usable.problem_of(rng.normal(0, 0.05, 512), "It") for _ in range(2000)]
    assert np.mean([bool(problem) for problem in dark]) > 0.999
    vacuum = [usable.problem_of(rng.poisson(0.02, (64, 64)) + rng.normal(0, 0.05, (64, 64)), "It") for _ in range(200)]
    assert not any(vacuum)


def test_what_a_driver_gives_becomes_a_plain_array():
    values = np.random.default_rng(3).poisson(50, 32)
    masked = np.ma.masked_array(values, mask=np.arange(32) == 4)
    for given, missing in ((values.tolist(), 0), (values, 0), (masked, 1)):
        frame = CameraFrame(given, 0.1, 0.0, 1.0, "eV", 60.0, 1)
        assert type(frame.data) is np.ndarray
        assert usable.missing(frame.data) == missing
        assert usable.problem_of_camera(frame, "eels") == ""
        assert type(Image(FRAME, given, 0.0).data) is np.ndarray
    for calibration in ({"scale": None}, {"scale": "1"}, {"offset": math.nan}, {"scale": 0.0}):
        assert "no calibration" in usable.problem_of_camera(dataclasses.replace(frame, **calibration), "eels")
    for seconds in (math.nan, 0.0, None):
        assert "exposures of" in usable.problem_of_camera(dataclasses.replace(frame, exposure_s=seconds), "eels")


def test_missing_pixels_take_the_nearest_value():
    data = np.arange(12, dtype=np.float32).reshape(3, 4)
    spoiled = data.copy()
    spoiled[1, 2] = np.nan
    spoiled[0, 0] = -np.inf
    filled = usable.filled(spoiled)
    assert usable.missing(spoiled) == 2
    assert filled[1, 2] in (data[0, 2], data[2, 2], data[1, 1], data[1, 3])
    assert filled[0, 0] in (1.0, 4.0)
    np.testing.assert_array_equal(filled[2], data[2])
    assert usable.filled(data) is not None
    assert np.isnan(usable.filled(np.full(3, np.nan))).all()


@pytest.mark.parametrize(("counts", "word"), [
    ([math.nan], "nan"), ([math.inf], "inf"), (["7"], "7 counts"), ([None], "None"), ([1j], "1j"),
    ([0.0] * 3, "nothing"),
    (np.random.default_rng(0).normal(0, 1, 50), "nothing"),
])  # fmt: skip
def test_readings_that_are_none(counts, word):
    readings = [Reading(value, 1e-3) for value in counts]
    problem = usable.problem_of_reading(readings[-1]) or usable.problem_of_readings(readings)
    assert word in problem
    assert usable.problem_of_readings([Reading(40.0 + k % 3, 1e-3) for k in range(50)]) == ""
    assert "readings of 0" in usable.problem_of_reading(Reading(1.0, 0.0))


# --- runs that wait and go on -----------------------------------------------------------------------------------------


def plan_of(kind, swift, decisions):
    microscope = swift.microscope
    if kind == "points":
        return acquire.points(microscope, FRAME, PLACES, exposure_s=0.005)
    if kind == "rows":
        return acquire.raster(microscope, FRAME, (4, 4), exposure_s=0.125)  # two rows at a time
    if kind == "patterns":
        return acquire.points(microscope, FRAME, PLACES, camera="diffraction", exposure_s=0.002)
    settings = Settings(
        FRAME, exposure_s=0.003, points=14, first=5, batch=3, candidates=grid(),
        explorer={"surrogate": "gp", "seed": 1},
    )  # fmt: skip
    swift.exploration = Exploration(
        microscope, decisions, settings, lambda frame: float(named_places(frame.data[None])[0, 0])
    )
    return swift.exploration.plan()


FAULTY_METHOD = {"points": "expose", "rows": "expose_scan", "patterns": "expose", "explore": "expose"}


@pytest.mark.parametrize(("kind", "how"), [
    *(("points", how) for how in USELESS), ("rows", "all NaN"), ("rows", "of another size"), ("rows", "dark noise"),
    ("patterns", "zero"), ("patterns", "empty"), ("explore", "all NaN"), ("explore", "dark noise"),
])  # fmt: skip
def test_a_run_waits_until_the_camera_is_right_again(swift, decisions, monkeypatch, kind, how):
    """The useless frames come while it runs; what was to be measured is there in the end, each place once."""
    monkeypatch.setattr(stubs, "_FIRST_WAIT_S", 0.05)
    first = 2 if kind == "rows" else 4
    swift.instrument.faults[FAULTY_METHOD[kind]] = spoilt(USELESS[how], first, first + 1)
    swift.microscope.suspension.patience_s = 20.0
    run = swift.run(plan_of(kind, swift, decisions))
    assert swift.runner.outcome == "completed", swift.runner.error
    camera = "diffraction" if kind == "patterns" else "eels"
    data = run.column(camera)
    assert np.isfinite(data).all()
    (event,) = run.events("suspended")
    assert f"{camera} camera gives" in event["suspended_by"]
    assert event["suspended_s"] >= 0.1  # two tries
    assert any("camera gives" in said for said in swift.said)  # as a panel is told
    assert swift.said[-1] == ""
    if camera == "eels":
        places = np.stack([run.column("probe_x"), run.column("probe_y")], axis=-1).reshape(-1, 2)
        np.testing.assert_allclose(named_places(data.reshape(len(places), -1)), places, atol=0.6)
        assert len(places) == {"points": 12, "rows": 16, "explore": 14}[kind]
    assert swift.is_safe


@pytest.mark.parametrize(("kind", "how"), [
    ("points", "all NaN"), ("points", "infinite"), ("points", "empty"), ("rows", "zero"), ("patterns", "constant"),
    ("explore", "dark noise"),
])  # fmt: skip
def test_a_camera_that_stays_useless_ends_the_run_as_failed_with_a_sentence(swift, decisions, monkeypatch, kind, how):
    monkeypatch.setattr(stubs, "_FIRST_WAIT_S", 0.02)
    swift.microscope.suspension.patience_s = 0.3
    parked = []
    swift.runner._changed = lambda: parked.append((swift.stem.GetVal("C_Blank"), swift.scan.probe_position)) if (
        swift.runner.suspended) else None  # fmt: skip
    first = 2 if kind == "rows" else 4
    swift.instrument.faults[FAULTY_METHOD[kind]] = spoilt(USELESS[how], first)
    run = swift.run(plan_of(kind, swift, decisions))
    assert swift.runner.outcome == "failed"
    assert "camera gives" in swift.runner.error
    assert "fix it and start again" in swift.runner.error
    assert len(run.events()) == 3 or kind == "rows"
    assert parked
    assert set(parked) == {(1.0, None)}  # blanked and parked while it waits
    assert swift.runner.suspended == ""
    assert swift.is_safe
    swift.instrument.faults.clear()
    swift.run(acquire.survey(swift.microscope, FRAME))  # and the next run is not hindered
    assert swift.runner.outcome == "completed"


def test_a_suspended_run_can_be_stopped_at_once(swift):
    swift.instrument.faults["expose"] = spoilt(USELESS["zero"], 3)
    swift.runner.start(acquire.points(swift.microscope, FRAME, PLACES, exposure_s=0.005))
    end = time.monotonic() + 20
    while not swift.runner.suspended:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert "every pixel reads 0" in swift.runner.suspended
    swift.runner.stop()
    assert swift.runner.wait(10)
    assert swift.runner.outcome == "stopped"
    assert swift.runner.error == swift.runner.suspended == ""
    assert len(Run(swift.runner.run_folder).events()) == 2
    assert swift.is_safe


def test_a_beam_that_does_not_come_on_is_seen_in_the_data(swift, monkeypatch):
    """The blanker says that the beam is on, and it is not: the frames are dark."""
    monkeypatch.setattr(stubs, "_FIRST_WAIT_S", 0.02)
    swift.microscope.suspension.patience_s = 0.3
    dark = []

    def unblank_nothing(number, real, blanked):
        dark.append(not blanked)
        real(True)

    swift.instrument.faults["blank"] = unblank_nothing
    monkeypatch.setattr(Faulty, "is_blanked", property(lambda self: not (dark and dark[-1])), raising=False)
    run = swift.run(acquire.points(swift.microscope, FRAME, PLACES, exposure_s=0.005))
    assert swift.runner.outcome == "failed"
    assert "gives no counts" in swift.runner.error
    assert not run.streams or "primary" not in run.streams


def test_a_place_from_which_the_beam_was_taken_is_measured_again(swift, monkeypatch):
    monkeypatch.setattr(stubs, "_FIRST_WAIT_S", 0.02)

    def taken(number, real, *arguments):
        if number == 4:  # as the watchdog does if it has not heard of a program that is well
            swift.microscope.interlock._was_taken("The watchdog has blanked the beam.")
        return real(*arguments)

    swift.instrument.faults["expose"] = taken
    run = swift.run(acquire.points(swift.microscope, FRAME, PLACES, exposure_s=0.01))
    assert swift.runner.outcome == "completed", swift.runner.error
    (event,) = run.events("suspended")
    assert event["suspended_by"] == "The watchdog has blanked the beam."
    np.testing.assert_allclose(named_places(run.column("eels")), PLACES, atol=0.4)


def test_a_scan_of_nothing_suspends_the_survey_and_the_re_scans(swift, monkeypatch):
    monkeypatch.setattr(stubs, "_FIRST_WAIT_S", 0.02)
    for how in ("all NaN", "zero", "a fifth NaN"):
        swift.instrument.calls.clear()
        swift.instrument.faults["scan"] = spoilt(USELESS[how], 1, 2)
        run = swift.run(acquire.points(swift.microscope, FRAME, PLACES, exposure_s=0.003, drift_every=5))
        assert swift.runner.outcome == "completed", swift.runner.error
        assert len(run.events("survey")) == 1
        assert np.isfinite(run.events("survey")[0]["scan"]).all()
        assert "The scan gives" in run.events("suspended")[0]["suspended_by"]
        swift.instrument.calls.clear()
        swift.instrument.faults["scan"] = spoilt(USELESS[how], 3, 4)  # not the survey
        run = swift.run(acquire.points(swift.microscope, FRAME, PLACES, exposure_s=0.003, drift_every=5))
        assert swift.runner.outcome == "completed", swift.runner.error
        places = np.column_stack([run.column("probe_x"), run.column("probe_y")])
        assert np.linalg.norm(places - PLACES, axis=1).max() < 0.5  # the specimen stands still


@pytest.mark.parametrize("spoil", [
    lambda d: some(d, 1.5 / d.size), lambda d: some(d, 0.05), lambda d: some(d, 1.5 / d.size, np.inf),
    lambda d: some(d, 1.5 / d.size, 1e30),
], ids=["one NaN", "5 % NaN", "one inf", "one spike"])  # fmt: skip
def test_missing_pixels_of_a_scan_send_no_place_away(swift, decisions, spoil):
    swift.instrument.faults["scan"] = spoilt(spoil)
    run = swift.run(acquire.points(swift.microscope, FRAME, PLACES, exposure_s=0.003, drift_every=4))
    assert swift.runner.outcome == "completed", swift.runner.error
    places = np.column_stack([run.column("probe_x"), run.column("probe_y")])
    assert np.linalg.norm(places - PLACES, axis=1).max() < 0.5
    expected = usable.missing(spoil(np.zeros(FRAME.shape, np.float32)))
    assert set(run.column("scan_missing", "drift_scan")) == {expected}  # said, and kept as it came
    assert usable.missing(run.events("survey")[0]["scan"]) == expected
    swift.run(plan_of("explore", swift, decisions))
    assert swift.runner.outcome == "completed", swift.runner.error


def test_missing_channels_are_filled_counted_and_kept(swift, decisions):
    swift.instrument.faults["expose"] = spoilt(lambda d: np.where(np.arange(d.size) == 5, np.nan, d))
    run = swift.run(plan_of("explore", swift, decisions))
    assert swift.runner.outcome == "completed", swift.runner.error
    assert swift.exploration.missing == 14
    assert np.isfinite(swift.exploration.values).all()
    assert set(run.column("eels_missing")) == {1}
    assert np.isnan(run.column("eels")[:, 5]).all()
    again = explorer_of(run, lambda frame: float(named_places(frame.data[None])[0, 0]))
    np.testing.assert_allclose(again.values, swift.exploration.values)


# --- properties, tuning, exposures ------------------------------------------------------------------------------------


def test_a_property_that_is_nan_throughout_is_no_success(swift, decisions):
    swift.microscope.suspension.patience_s = 0.2
    plan_of("explore", swift, decisions)
    exploration = Exploration(
        swift.microscope, decisions, dataclasses.replace(swift.exploration.settings, points=40), lambda frame: math.nan
    )
    run = swift.run(exploration.plan())
    assert swift.runner.outcome == "failed"
    assert "not a number at any of the 1" in swift.runner.error
    assert 10 <= len(run.events()) < 20  # they are kept, and it did not go on
    assert swift.is_safe


def test_another_property_lets_a_waiting_exploration_go_on(swift, decisions):
    plan_of("explore", swift, decisions)
    exploration = Exploration(swift.microscope, decisions, swift.exploration.settings, lambda frame: math.nan)

    def choose() -> None:
        if "another property" in swift.runner.suspended:
            exploration.look_for(lambda frame: float(named_places(frame.data[None])[0, 0]))

    swift.runner._changed = choose
    run = swift.run(exploration.plan())
    assert swift.runner.outcome == "completed", swift.runner.error
    assert len(run.events()) == 14
    assert np.isfinite(exploration.values).all()
    assert len(run.events("suspended")) == 1


def test_tuning_does_not_learn_from_useless_images(swift, decisions, monkeypatch):
    monkeypatch.setattr(stubs, "_FIRST_WAIT_S", 0.02)
    swift.instrument.faults["scan"] = spoilt(USELESS["all NaN"], 3, 4)
    run = swift.run(tune(swift.microscope, decisions, Frame(12.0, (64, 64), 1.0), trials=4))
    assert swift.runner.outcome == "completed", swift.runner.error
    assert np.isfinite(run.column("sharpness", "tuning")).all()
    swift.instrument.calls.clear()
    swift.instrument.faults["scan"] = spoilt(USELESS["all NaN"], 3)
    swift.microscope.suspension.patience_s = 0.2
    swift.instrument.real.set("defocus", 33.0)
    swift.run(tune(swift.microscope, decisions, Frame(12.0, (64, 64), 1.0), trials=4))
    assert swift.runner.outcome == "failed"
    assert "The scan gives" in swift.runner.error
    assert swift.instrument.real.get("defocus") == pytest.approx(33.0)


@pytest.mark.parametrize(
    ("counts", "words"), [(math.nan, "nan counts"), (0.0, "counts nothing"), (-1.0, "counts nothing")]
)
def test_an_exposure_whose_detector_fails_is_no_success(swift, counts, words):
    swift.instrument.faults["read_dark_field"] = lambda number, real, *a: dataclasses.replace(real(*a), counts=counts)
    exposure = swift.microscope.exposure
    exposure.timeout_s = 0.1

    def plan():
        yield from stubs.scan(swift.microscope, FRAME)
        yield from stubs.expose(swift.microscope, (3.0, 1.0))

    run = swift.run(stubs.as_run(swift.microscope, "expose", plan()))
    assert swift.runner.outcome == "failed"
    assert words in swift.runner.error
    assert run.events("exposure")[0]["exposure_ended_by"] == "unusable"
    assert swift.is_safe


# --- drift ------------------------------------------------------------------------------------------------------------


def test_pure_noise_stops_a_run_that_follows_the_drift(swift):
    rng = np.random.default_rng(5)
    swift.instrument.faults["scan"] = spoilt(lambda d: rng.poisson(0.9, d.shape).astype(np.float32))
    run = swift.run(acquire.points(swift.microscope, FRAME, PLACES, exposure_s=0.003, drift_every=4))
    assert swift.runner.outcome == "failed"
    assert swift.runner.error.startswith("The drift cannot be read from these scans: 6 of them together")
    assert "primary" not in run.streams
    assert swift.is_safe
    swift.run(acquire.points(swift.microscope, FRAME, PLACES, exposure_s=0.003))  # who does not follow is not stopped
    assert swift.runner.outcome == "completed"


def test_faint_scans_are_added_up(swift):
    """At 0.04 counts in a pixel of the re-scans one is not enough, a few are."""
    rng = np.random.default_rng(6)
    swift.instrument.faults["scan"] = spoilt(lambda d: rng.binomial(d.astype(int), 0.08).astype(np.float32), 2)
    run = swift.run(acquire.points(swift.microscope, FRAME, PLACES, exposure_s=0.003, drift_every=6))
    assert swift.runner.outcome == "completed", swift.runner.error
    places = np.column_stack([run.column("probe_x"), run.column("probe_y")])
    assert np.linalg.norm(places - PLACES, axis=1).max() < 1.0
    assert len(run.events("drift_scan")) > len(run.events("drift"))


def test_a_clock_that_is_nan_or_set_leads_nowhere(swift):
    image = swift.instrument.real.scan(FRAME, threading.Event())
    swift.microscope.blanker.set(False)
    image = swift.instrument.real.scan(FRAME, threading.Event())
    swift.microscope.blanker.set(True)
    drift = swift.microscope.drift
    drift.reset()
    with pytest.raises(StemAeError, match="time of an image"):
        drift.add(dataclasses.replace(image, clock_s=math.nan))
    for clock_s in (1000.0, 1010.0):
        drift.add(dataclasses.replace(image, clock_s=clock_s))
    drift._track[-1] = (drift._track[-1][0], 0.5, 0.0)
    drift._moving = None
    there = np.array(drift.at(drift._track[-1][0]))
    np.testing.assert_allclose(there, [0.5, 0.0], atol=0.02)
    for earlier in (951.0, -1e9):
        np.testing.assert_allclose(drift.at(earlier), there, atol=1e-9)
    assert np.linalg.norm(drift.at(1e9)) < 1.6  # twice as far as the finds reach back
    for wrong in (math.nan, math.inf):
        with pytest.raises(StemAeError, match="time"):
            drift.at(wrong)


def test_frames_of_other_cameras_have_their_own_shape(swift):
    frame = CameraFrame(np.arange(8.0, dtype=np.float32), 0.1, 0.0, math.nan, "eV", 8.0, 1)
    assert "no calibration" in usable.problem_of_camera(frame, "eels")
    good = dataclasses.replace(frame, scale=1.0)
    assert usable.problem_of_camera(good, "eels") == ""
    assert "axes" in usable.problem_of_camera(good, "diffraction")
    assert "instead of 9" in usable.problem_of_camera(good, "eels", (9,))
    scan = dataclasses.replace(good, data=np.random.default_rng(0).poisson(5, (4, 6, 8)).astype(np.float32))
    assert usable.problem_of_camera(scan, "eels", scan=(4, 6)) == ""
    assert "instead of 6 x 6" in usable.problem_of_camera(scan, "eels", scan=(6, 6))
    scan.data[1, 1] = np.nan
    assert "at 1 of the 24 places" in usable.problem_of_camera(scan, "eels", scan=(4, 6))
    scan.data[1, 1] = 3.0
    assert "no counts at 1 of the 24 places" in usable.problem_of_camera(scan, "eels", scan=(4, 6))
    assert isinstance(Image(FRAME, np.zeros((2, 2), np.float32), 0.0).clock_s, float)
