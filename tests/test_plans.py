"""Plans on the simulated microscope in headless Swift: right places, safe ends, documents that survive."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("bluesky")
pytest.importorskip("nion.instrumentation")

from bluesky import plan_stubs as bps
from nion.instrumentation.test import AcquisitionTestContext
from nion.swift import Facade
from nion.swift.test import TestContext

from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
from nionswift_plugin.stem_ae_sim.scan_device import AtomicScanDevice
from stem_ae.errors import StemAeError
from stem_ae.explore import Explorer
from stem_ae.explore.objective import Objective, Property
from stem_ae.explore.remote import DecisionProcess
from stem_ae.explore.tuner import Tuner
from stem_ae.imaging.specimens import Specimen, graphene
from stem_ae.imaging.virtual_microscope import Conditions
from stem_ae.microscope import devices
from stem_ae.microscope.devices import Microscope, Operation
from stem_ae.microscope.frame import Frame
from stem_ae.microscope.registration import shift_between
from stem_ae.microscope.swift import SwiftInstrument
from stem_ae.plans import DocumentWriter, Run, Runner, acquire, runner, stubs
from stem_ae.plans.explore import Exploration, Settings, explorer_of
from stem_ae.plans.tune import sharpness, tune

Facade.initialize()

FRAME = Frame(fov=40.0, shape=(64, 64), dwell_us=1.0, centre=(5.0, -3.0), rotation=0.3)
STEP_EV, ZERO_EV = 2.0, -20.0  # of the simulated EELS camera, as Swift has it by default


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Swift:
    """Headless Swift with the simulated microscope, our devices and a runner."""

    def __init__(self, folder: pathlib.Path, own_blanker=False, **cameras) -> None:
        self.simulator = AtomicMicroscope(
            str(folder), specimen=graphene((60.0, 60.0)), conditions=Conditions(damage=False, readout=0.0), seed=1,
            own_blanker=own_blanker,
        )  # fmt: skip
        self.context = AcquisitionTestContext.test_context(self.simulator, **cameras)
        self.scan = self.context.scan_hardware_source
        self.stem = self.context.instrument
        self.microscope = Microscope(SwiftInstrument())
        self.runner = Runner(self.microscope, folder / "runs")

    def run(self, plan) -> Run:
        self.runner.start(plan)
        assert self.runner.wait(60)
        return Run(self.runner.run_folder)

    def run_until(self, plan, points: int, stream="probe_x") -> None:
        """Start a plan and return when so many points were measured."""
        seen = threading.Semaphore(0)
        self.runner._document = lambda name, doc: seen.release() if stream in doc.get("data", {}) else None
        self.runner.start(plan)
        for _ in range(points):
            assert seen.acquire(timeout=60)

    def name_places(self, brightness=lambda x, y: 1.0) -> None:
        """Let spectra have peaks at 200 + 3x eV and 600 + 3y eV, where the beam is at x and y in Å on the specimen."""

        def spectrum(point, losses_ev, beam):
            x, y = point
            peaks = sum(np.exp(-0.5 * ((losses_ev - at) / 3.0) ** 2) for at in (200 + 3 * x, 600 + 3 * y))
            return 1e-2 * brightness(x, y) * peaks / peaks.sum()

        self.simulator.microscope.spectrum = spectrum

    @property
    def is_safe(self) -> bool:
        return self.stem.GetVal("C_Blank") == 1.0 and self.scan.probe_position is None


def point_by_point(microscope, count, **more):
    """Return a plan that measures places one after the other."""
    places = FRAME.to_plane(np.random.default_rng(8).uniform(1, 38, (count, 2)))
    return acquire.points(microscope, FRAME, places, **more)


def named_places(spectra: np.ndarray) -> np.ndarray:
    """Return the places that spectra name."""
    energy = ZERO_EV + STEP_EV * np.arange(spectra.shape[-1])
    found = []
    for band in (energy < 400, energy >= 400):
        top = energy[band][spectra[:, band].argmax(axis=1)]
        near = np.abs(energy - top[:, None]) < 12
        found.append((spectra * near) @ energy / (spectra * near).sum(axis=1))
    return (np.column_stack(found) - [200, 600]) / 3


@pytest.fixture
def swift(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setup = TestContext.TestSetup()
    result = Swift(tmp_path, is_both_cameras=True)
    with result.context:
        yield result
        result.runner.close()
    del setup


@pytest.fixture(scope="module")
def decisions():
    process = DecisionProcess()
    yield process
    process.close()


# --- geometry ---------------------------------------------------------------------------------------------------------


def test_places_and_image_positions_are_each_others_inverse():
    rng = np.random.default_rng(0)
    for frame in (FRAME, dataclasses.replace(FRAME, shape=(32, 64), rotation=-2.0), Frame(10.0, (8, 8))):
        xy = rng.uniform(0, 20, (50, 2))
        np.testing.assert_allclose(frame.from_plane(frame.to_plane(xy)), xy, atol=1e-9)
        middle = (np.array(frame.shape) - 1) / 2
        np.testing.assert_allclose(frame.pixels_to_plane(middle), frame.centre, atol=1e-9)
    with pytest.raises(StemAeError, match="positive"):
        Frame(-1.0, (8, 8))


def test_a_sub_scan_shows_what_the_whole_frame_shows_there(swift):
    instrument, cancel = swift.microscope.instrument, threading.Event()
    instrument.scan(FRAME, cancel)
    whole = FRAME.to_plane(swift.simulator.truth_in_frame()[0])
    part = FRAME.part(tuple(FRAME.to_plane((14.0, 22.0))), (10.0, 5.0), (20, 40))
    image = instrument.scan(part, cancel)
    inside = part.to_plane(swift.simulator.truth_in_frame()[0])
    assert image.data.shape == (20, 40)
    assert 10 < len(inside) < len(whole)
    distance = np.linalg.norm(inside[:, None] - whole[None], axis=-1).min(axis=1)
    assert distance.max() < 0.05


def test_spectra_are_taken_at_the_places_asked_for(swift):
    """Each spectrum names the place it was taken at; a call that gave the one before would name that."""
    swift.name_places()
    places = FRAME.to_plane(np.random.default_rng(2).uniform(1, 38, (25, 2)))
    run = swift.run(acquire.points(swift.microscope, FRAME, places, exposure_s=0.004))
    assert swift.runner.outcome == "completed", swift.runner.error
    np.testing.assert_allclose(np.column_stack([run.column("probe_x"), run.column("probe_y")]), places, atol=1e-9)
    np.testing.assert_allclose(named_places(run.column("eels")), places, atol=0.5)
    spacing = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert np.median(spacing) > 10  # so the neighbours in the list would not do


def test_a_raster_covers_the_frame_and_patterns_are_calibrated(swift):
    plan = acquire.raster(swift.microscope, FRAME, (3, 4), camera="diffraction", exposure_s=0.002)
    run = swift.run(plan)  # point by point: the columns are closer together than the rows
    assert swift.runner.outcome == "completed", swift.runner.error
    xy = FRAME.from_plane(np.column_stack([run.column("probe_x"), run.column("probe_y")]))
    np.testing.assert_allclose(xy[0], np.array([5.0, 40 / 6]) - 0.3125, atol=1e-6)  # half a pixel is 0.3125 Å
    np.testing.assert_allclose(xy[1] - xy[0], [10.0, 0.0], atol=1e-6)
    patterns = run.column("diffraction")
    calibration = run.descriptor("primary")["data_keys"]["diffraction"]["calibration"]
    mrad = calibration["offset"] + calibration["scale"] * np.arange(patterns.shape[-1])
    weight = patterns.sum(axis=(0, 1))
    assert calibration["unit"] == "mrad"
    disk = np.sqrt(4 * (weight @ mrad**2) / weight.sum())  # a disk's radius is twice its rms projection
    assert disk == pytest.approx(32.0, rel=0.1)


@pytest.mark.parametrize("camera", ["eels", "diffraction"])
def test_a_raster_clocked_by_the_camera_has_each_exposure_where_it_says(swift, tmp_path, camera):
    """Spectra name their places, by Swift's synchronised acquisition, for a turned frame off the centre, in blocks."""
    from rsciio import hspy

    swift.name_places()
    run = swift.run(acquire.raster(swift.microscope, FRAME, (10, 10), camera=camera, exposure_s=0.02))
    assert swift.runner.outcome == "completed", swift.runner.error
    places = np.stack([run.column("probe_x"), run.column("probe_y")], axis=-1)
    expected = FRAME.field.to_specimen((np.stack(np.meshgrid(*[np.arange(10)] * 2), axis=-1) + 0.5) / 10)
    np.testing.assert_allclose(places, expected, atol=1e-6)
    assert run.descriptor("primary")["data_keys"][camera]["calibration"]["exposure_s"] == 0.02
    if camera == "eels":
        assert run.column("eels").shape == (10, 10, 512)
        np.testing.assert_allclose(named_places(run.column("eels").reshape(100, -1)), places.reshape(-1, 2), atol=0.5)
        (signal_,) = hspy.file_reader(str(run.export_spectra(tmp_path / "raster.hspy")))
        np.testing.assert_array_equal(signal_["data"], run.column("eels"))
        assert [(a["units"], a["scale"], a["offset"]) for a in signal_["axes"][:2]] == [("Å", 4.0, 2.0)] * 2
    else:
        assert run.column("diffraction").ndim == 4
    assert swift.is_safe


def test_a_raster_of_rows_follows_pauses_stops_and_a_saturated_camera(swift):
    swift.name_places()
    raster = lambda exposure_s=0.02: acquire.raster(swift.microscope, FRAME, (12, 12), exposure_s=exposure_s)  # noqa: E731
    swift.run_until(raster(), 4)
    swift.runner.pause()
    wait_for(lambda: swift.runner.state == "paused")
    assert swift.stem.GetVal("C_Blank") == 1.0
    swift.runner.resume()
    assert swift.runner.wait(40)
    run = Run(swift.runner.run_folder)
    assert swift.runner.outcome == "completed", swift.runner.error
    places = np.stack([run.column("probe_x"), run.column("probe_y")], axis=-1)
    assert places.shape == (12, 12, 2)
    np.testing.assert_allclose(named_places(run.column("eels").reshape(144, -1)), places.reshape(-1, 2), atol=0.5)

    swift.run_until(raster(), 4)
    start = time.perf_counter()
    swift.runner.stop()
    assert swift.stem.GetVal("C_Blank") == 1.0
    assert time.perf_counter() - start < 0.1
    assert swift.runner.wait(10)
    assert 4 <= len(Run(swift.runner.run_folder).events()) < 12
    assert swift.is_safe

    swift.microscope.eels.saturation = 10.0
    swift.run(raster(0.01))
    assert "camera is saturated" in swift.runner.error
    assert swift.is_safe


def test_places_outside_the_last_scan_are_refused(swift):
    plan = acquire.points(swift.microscope, FRAME, [FRAME.to_plane((60.0, 5.0))])
    swift.run(plan)
    assert swift.runner.outcome == "failed"
    assert "outside the last scan" in swift.runner.error
    assert swift.is_safe


# --- safe ends --------------------------------------------------------------------------------------------------------


def failing(microscope):
    yield from stubs.scan(microscope, FRAME)
    yield from bps.abs_set(microscope.blanker, False, wait=True)
    raise ZeroDivisionError("in the plan")


@pytest.mark.parametrize("ending", ["completed", "stop", "abort", "exception", "abort while paused", "close"])
def test_every_ending_leaves_the_microscope_safe_and_as_it_was(swift, ending):
    swift.stem.SetVal("C_Blank", 0)
    before = swift.scan.get_current_frame_parameters().as_dict() | {"subscan_rotation": 0.0}  # the kit's default
    camera_before = swift.stem.eels_camera.get_current_frame_parameters().as_dict()
    swift.scan.start_playing(sync_timeout=3.0)
    plan = point_by_point(swift.microscope, 25, exposure_s=0.01)
    if ending == "exception":
        run = swift.run(stubs.as_run(swift.microscope, "failing", failing(swift.microscope)))
        assert swift.runner.outcome == "failed"
        assert "ZeroDivisionError: in the plan" in swift.runner.error
    elif ending == "completed":
        run = swift.run(plan)
        assert len(run.events()) == 25
    else:
        swift.run_until(plan, 3)
        if "paused" in ending:
            swift.runner.pause()
            wait_for(lambda: swift.runner.state == "paused")
        getattr(swift.runner, "close" if ending == "close" else ending.split()[0])()
        assert swift.runner.wait(10)
        run = Run(swift.runner.run_folder)
        assert swift.runner.outcome == ("stopped" if ending == "stop" else "aborted")
        assert swift.runner.error == ""
        assert 3 <= len(run.events()) < 25
    exit_status = {"exception": "fail", "completed": "success", "stop": "success"}.get(ending, "abort")
    assert run.stop["exit_status"] == exit_status
    assert swift.is_safe
    wait_for(lambda: swift.scan.is_playing)  # the live view that was running goes on, dark
    assert swift.scan.get_current_frame_parameters().as_dict() == before
    _ = swift.scan.get_next_xdatas_to_start(5.0)
    assert swift.is_safe
    assert swift.stem.eels_camera.get_current_frame_parameters().as_dict() == camera_before
    swift.run(acquire.survey(swift.microscope, FRAME))  # and the next run is not hindered
    assert swift.runner.outcome == "completed"


def wait_for(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_an_abort_blanks_within_100_ms_at_any_moment_and_nothing_unblanks_after_it(swift):
    rng = np.random.default_rng(3)
    latest, unblanked = [], []
    listener = swift.stem.property_changed_event.listen(lambda name: None)
    for _ in range(12):
        swift.runner.start(acquire.raster(swift.microscope, FRAME, (8, 8), exposure_s=0.02))
        time.sleep(rng.uniform(0.0, 0.6))
        start = time.perf_counter()
        swift.runner.abort()
        assert swift.stem.GetVal("C_Blank") == 1.0
        latest.append(time.perf_counter() - start)
        while swift.runner.state != "idle":
            unblanked.append(swift.stem.GetVal("C_Blank") != 1.0)
            time.sleep(0.0005)
        assert swift.is_safe
        assert swift.runner.outcome == "aborted"
    listener.close()
    assert max(latest) < 0.1
    assert not any(unblanked)


def test_a_pause_blanks_and_afterwards_every_point_is_there_once(swift):
    places = FRAME.to_plane(np.random.default_rng(4).uniform(2, 35, (20, 2)))
    swift.name_places()
    swift.run_until(acquire.points(swift.microscope, FRAME, places, exposure_s=0.01), 5)
    for _ in range(2):
        swift.runner.pause()
        wait_for(lambda: swift.runner.state == "paused")
        assert swift.stem.GetVal("C_Blank") == 1.0
        swift.microscope.probe.set(None)  # the user does something meanwhile
        swift.runner.resume()
        time.sleep(0.1)
    assert swift.runner.wait(20)
    run = Run(swift.runner.run_folder)
    assert swift.runner.outcome == "completed", swift.runner.error
    np.testing.assert_allclose(run.column("probe_x"), places[:, 0])
    np.testing.assert_allclose(named_places(run.column("eels")), places, atol=0.4)


def test_a_pause_reaches_the_engine_although_the_blanker_takes_its_time(swift, monkeypatch):
    """What blanking cancels would otherwise count as measured: the engine would go on to the next place."""
    places = FRAME.to_plane(np.random.default_rng(4).uniform(2, 35, (6, 2)))
    swift.name_places()
    swift.run_until(acquire.points(swift.microscope, FRAME, places, exposure_s=0.5), 2)
    interlock, stop = swift.microscope.interlock, swift.microscope.interlock.stop

    def slow_stop(*holders):
        stop(*holders)
        time.sleep(0.5)

    monkeypatch.setattr(interlock, "stop", slow_stop)
    wait_for(lambda: interlock.state == "on")
    swift.runner.pause()
    wait_for(lambda: swift.runner.state != "pausing")
    assert swift.runner.state == "paused", swift.runner.error
    swift.runner.resume()
    assert swift.runner.wait(20)
    assert swift.runner.outcome == "completed", swift.runner.error
    np.testing.assert_allclose(named_places(Run(swift.runner.run_folder).column("eels")), places, atol=0.4)


def test_one_run_at_a_time(swift):
    swift.run_until(acquire.raster(swift.microscope, FRAME, (9, 9)), 1)
    with pytest.raises(StemAeError, match="under way"):
        swift.runner.start(acquire.survey(swift.microscope, FRAME))
    other = Microscope(SwiftInstrument())
    with pytest.raises(StemAeError, match="under way"):
        Runner(other).start(acquire.survey(other, FRAME))
    swift.runner.stop()
    assert swift.runner.wait(10)


# --- what can go wrong ------------------------------------------------------------------------------------------------


def test_a_missing_camera_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setup = TestContext.TestSetup()
    swift = Swift(tmp_path)  # a Ronchigram camera only
    with swift.context:
        monkeypatch.setattr(type(swift.stem), "eels_camera", None)
        run = swift.run(acquire.raster(swift.microscope, FRAME, (2, 2)))
        assert swift.runner.outcome == "failed"
        assert swift.runner.error.startswith("Swift has no eels camera")
        assert len(run.events("survey")) == 1
        assert swift.is_safe
    del setup


def test_a_camera_that_hangs_ends_the_run_and_what_was_measured_stays(swift, monkeypatch):
    monkeypatch.setattr(devices, "_PATIENCE_S", 0.4)
    camera = swift.simulator.eels_camera_device.simulator
    answer, count, gate = camera.get_frame_data, [], threading.Event()

    def hang(*arguments):
        count.append(1)
        if len(count) > 4:
            gate.wait(20)
        return answer(*arguments)

    camera.get_frame_data = hang
    run = swift.run(point_by_point(swift.microscope, 9, exposure_s=0.005))
    assert swift.runner.outcome == "failed"
    assert "eels camera did not answer" in swift.runner.error
    assert len(run.events()) == 4
    assert swift.stem.GetVal("C_Blank") == 1.0
    gate.set()


def test_a_scan_stopped_by_the_user_ends_the_run(swift):
    slow = dataclasses.replace(FRAME, dwell_us=200.0)
    swift.runner.start(acquire.raster(swift.microscope, slow, (2, 2)))
    wait_for(lambda: swift.scan.is_recording)
    time.sleep(0.2)
    swift.scan.abort_recording()
    assert swift.runner.wait(20)
    assert swift.runner.outcome == "failed"
    assert "stopped before its frame was complete" in swift.runner.error
    assert swift.is_safe


def test_a_scan_stopped_by_the_user_after_some_points_loses_none_of_them(swift):
    slow = dataclasses.replace(FRAME, dwell_us=50.0)
    places = FRAME.to_plane(np.random.default_rng(8).uniform(1, 38, (20, 2)))
    swift.run_until(acquire.points(swift.microscope, slow, places, exposure_s=0.005, drift_every=6), 6)
    wait_for(lambda: swift.scan.is_recording)  # the specimen is looked at again
    swift.scan.abort_recording()
    assert swift.runner.wait(20)
    assert swift.runner.outcome == "failed"
    assert "stopped before its frame was complete" in swift.runner.error
    assert len(Run(swift.runner.run_folder).events()) == 6
    assert swift.is_safe


def test_a_scan_started_by_the_user_ends_the_run_and_what_was_measured_stays(swift):
    swift.run_until(point_by_point(swift.microscope, 81, exposure_s=0.01), 3)
    swift.scan.start_playing()
    assert swift.runner.wait(20)
    assert swift.runner.outcome == "failed"
    assert "leave the scan alone" in swift.runner.error
    assert len(Run(swift.runner.run_folder).events()) >= 3
    assert swift.stem.GetVal("C_Blank") == 1.0
    swift.scan.abort_playing(sync_timeout=3.0)


def test_a_saturated_camera_ends_the_run_and_what_was_measured_stays(swift):
    swift.name_places(lambda x, y: 1.0 if x < 10 else 30.0)
    camera = swift.microscope.eels
    camera.saturation = 3e5
    places = [(x, 0.0) for x in (0.0, 4.0, 8.0, 12.0, 14.0)]
    run = swift.run(acquire.points(swift.microscope, FRAME, places, exposure_s=0.01))
    assert swift.runner.outcome == "failed"
    assert "saturated" in swift.runner.error
    np.testing.assert_array_equal(run.column("probe_x"), [0.0, 4.0, 8.0])
    assert swift.is_safe


def test_clipped_pixels_are_noticed_without_a_known_limit(swift):
    camera = swift.simulator.eels_camera_device.simulator
    answer = camera.get_frame_data

    def clipped(*arguments):
        xdata = answer(*arguments)
        xdata.data[:] = np.minimum(xdata.data, 5000.0)
        return xdata

    swift.run(acquire.points(swift.microscope, FRAME, [(0.0, 0.0)], exposure_s=0.005))
    assert swift.runner.outcome == "completed", swift.runner.error
    camera.get_frame_data = clipped
    swift.run(acquire.points(swift.microscope, FRAME, [(0.0, 0.0)], exposure_s=0.005))
    assert "saturated (5000 counts" in swift.runner.error


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_ends_the_run_and_what_was_written_stays(swift, tmp_path, monkeypatch):
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "eels.bin").symlink_to("/dev/full")
    monkeypatch.setattr(runner, "_new_folder", lambda root: folder)
    run = swift.run(acquire.raster(swift.microscope, FRAME, (3, 3), exposure_s=0.005))
    assert swift.runner.outcome == "failed"
    assert "the disk is full" in swift.runner.error
    assert run.events("survey")[0]["scan"].shape == FRAME.shape
    assert swift.is_safe


def test_a_beam_that_cannot_be_blanked_is_said_loudly(swift, monkeypatch):
    swift.runner.start(acquire.survey(swift.microscope, dataclasses.replace(FRAME, dwell_us=100.0)))
    wait_for(lambda: swift.scan.is_recording)
    monkeypatch.setattr(swift.stem, "SetVal", lambda name, value: False)
    assert swift.runner.wait(20)
    assert swift.runner.outcome == "failed"
    assert swift.runner.error.startswith("THE BEAM MAY STILL BE ON")
    assert "could not be blanked" in swift.runner.error
    assert swift.scan.probe_position is None
    with pytest.raises(StemAeError, match="acknowledged"):
        swift.runner.start(acquire.survey(swift.microscope, FRAME))
    monkeypatch.undo()
    wait_for(lambda: swift.stem.GetVal("C_Blank") == 1.0)  # it is tried on and on
    swift.microscope.interlock.acknowledge()
    swift.run(acquire.survey(swift.microscope, FRAME))
    assert swift.runner.outcome == "completed"


def test_a_blanker_in_a_process_of_its_own_is_obeyed_whoever_commands_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEM_AE_WATCHDOG_RECORDS", str(tmp_path / "records"))
    setup = TestContext.TestSetup()
    swift = Swift(tmp_path, own_blanker=True, is_both_cameras=True)
    blanker = swift.simulator.instrument.blanker
    with swift.context:
        assert swift.stem.GetVal("C_Blank") == 0.0  # as the stock simulator begins
        run = swift.run(point_by_point(swift.microscope, 6, exposure_s=0.005))
        assert swift.runner.outcome == "completed", swift.runner.error
        assert len(run.events()) == 6
        assert blanker.read()
        swift.run_until(point_by_point(swift.microscope, 50, exposure_s=0.05), 3)
        wait_for(lambda: not blanker.read())
        assert swift.microscope.interlock.watchdog.blank()  # by its own way, as if Swift had died
        wait_for(lambda: swift.simulator.instrument.is_blanked)  # what the specimen receives follows
        swift.runner.stop()
        assert swift.runner.wait(10)
        blanker.ask("stick")
        swift.run(acquire.survey(swift.microscope, FRAME))
        assert swift.runner.outcome == "failed"
        assert "did not come on" in swift.runner.error
        blanker.ask("free")
        swift.runner.close()
    del setup


# --- documents --------------------------------------------------------------------------------------------------------


def test_a_run_can_be_replayed_and_exported(swift, tmp_path):
    import h5py
    from rsciio import hspy, zspy

    live = []
    swift.runner._document = lambda name, document: live.append((name, document))
    run = swift.run(acquire.raster(swift.microscope, FRAME, (2, 3), exposure_s=0.003))
    replayed = []
    run.replay(lambda name, document: replayed.append((name, document)))
    assert [name for name, _ in replayed] == [name for name, _ in live]
    for (name, a), (_, b) in zip(live, replayed, strict=True):
        if name == "event":
            assert a["data"].keys() == b["data"].keys()
            for key in a["data"]:
                np.testing.assert_array_equal(a["data"][key], b["data"][key])
    assert run.start["settings"]["frame"]["fov"] == 40.0
    assert run.start["instrument"] == "stem_ae_sim_controller"

    with h5py.File(run.export_hdf5(tmp_path / "run.h5")) as file:
        assert file["entry"].attrs["NX_class"] == "NXentry"
        shown = file[file.attrs["default"]]  # as viewers of NeXus files find what to plot
        assert shown[shown.attrs["default"]].attrs["signal"] == "eels"
        np.testing.assert_array_equal(file["entry/primary/eels"], run.column("eels"))
        assert file["entry/primary/eels"].attrs["unit"] == "eV"
        assert file["entry/primary/probe_x"].attrs["units"] == "Å"
        assert file["entry/survey/scan"].shape == (1, 64, 64)
    for suffix, module in ((".hspy", hspy), (".zspy", zspy)):
        (signal_,) = module.file_reader(str(run.export_spectra(tmp_path / f"run{suffix}")))
        np.testing.assert_array_equal(np.asarray(signal_["data"]).reshape(6, -1), run.column("eels"))
        assert signal_["data"].shape[:2] == (2, 3)
        energy = signal_["axes"][-1]
        assert (energy["units"], energy["offset"], energy["scale"]) == ("eV", ZERO_EV, STEP_EV)


@pytest.mark.parametrize("how", ["deleted", "moved", "a file of it", "replaced"])
def test_a_run_whose_folder_is_gone_does_not_end_as_completed(swift, tmp_path, how):
    """It ends with a sentence, and safe, while the measuring would have gone on."""

    def plan():
        for k in range(40):
            yield from stubs.scan(swift.microscope, FRAME)
            if k == 2:
                folder = swift.runner.run_folder
                if how == "a file of it":
                    next(folder.glob("*.bin")).unlink()
                else:
                    folder.rename(tmp_path / "elsewhere")
                if how == "deleted":
                    shutil.rmtree(tmp_path / "elsewhere")
                if how == "replaced":
                    shutil.copytree(tmp_path / "elsewhere", folder)

    swift.runner.start(stubs.as_run(swift.microscope, "scan", plan()))
    assert swift.runner.wait(60)
    assert swift.runner.outcome == "failed"
    assert "was deleted, moved or replaced: the run ends here" in swift.runner.error
    assert swift.is_safe


WRITER = """
import itertools, pathlib, sys, uuid
import numpy as np
from stem_ae.plans.documents import DocumentWriter
write = DocumentWriter(pathlib.Path(sys.argv[1]))
write("start", {"uid": "s", "time": 0.0})
write("descriptor", {"uid": "d", "run_start": "s", "name": "primary", "data_keys": {}})
for k in itertools.count():
    write("event", {"uid": str(k), "descriptor": "d", "data": {"k": k, "eels": np.full(2000, k, np.float32)}})
    print(k, flush=True)
"""


def test_a_killed_program_leaves_every_event_that_it_had_written(tmp_path):
    root = str(pathlib.Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "run")], stdout=subprocess.PIPE, cwd=root, text=True
    )
    for line in process.stdout:
        if int(line) >= 150:
            process.send_signal(signal.SIGKILL)
            break
    written = max([150, *map(int, process.stdout.read().split())])
    process.wait()
    run = Run(tmp_path / "run")
    assert run.stop is None
    events = run.events()
    assert len(events) > written
    for event in events:
        np.testing.assert_array_equal(event["eels"], event["k"])


def test_half_a_line_is_no_event_and_damage_is_said(tmp_path):
    write = DocumentWriter(tmp_path / "run")
    write("start", {"uid": "s"})
    write("descriptor", {"uid": "d", "name": "primary", "data_keys": {}})
    for k in range(3):
        write("event", {"descriptor": "d", "data": {"x": np.arange(k)}})
    write.close()
    path = tmp_path / "run" / "documents.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert [len(event["x"]) for event in Run(tmp_path / "run").events()] == [0, 1]
    path.write_bytes(whole.replace(b'["event"', b'["eve', 1))
    with pytest.raises(StemAeError, match="damaged in line 3"):
        Run(tmp_path / "run")
    with pytest.raises(StemAeError, match="no run in"):
        Run(tmp_path)
    json.loads(whole.splitlines()[0])


# --- exposures, drift, controls ---------------------------------------------------------------------------------------


def test_an_exposure_stops_itself_and_leaves_the_beam_blanked(swift):
    exposure = swift.microscope.exposure
    exposure.timeout_s, exposure.decide = 5.0, lambda reading: len(exposure.readings) >= 20
    blanked = []
    read = swift.microscope.instrument.read_dark_field

    def watched(seconds, cancel):
        blanked.append(swift.microscope.instrument.is_blanked)
        return read(seconds, cancel)

    swift.microscope.instrument.read_dark_field = watched

    def plan():
        yield from stubs.scan(swift.microscope, FRAME)
        yield from stubs.expose(swift.microscope, (3.0, 1.0))

    run = swift.run(stubs.as_run(swift.microscope, "expose", plan()))
    assert swift.runner.outcome == "completed", swift.runner.error
    (event,) = run.events("exposure")
    assert event["exposure_ended_by"] == "decision"
    assert len(event["exposure_counts"]) == 20
    assert not any(blanked)
    assert swift.is_safe


def test_an_exposure_counts_what_the_image_shows_there(swift, monkeypatch):
    instrument, cancel = swift.microscope.instrument, threading.Event()
    fine = Frame(10.0, (100, 100), 20.0)
    instrument.scan(fine, cancel)
    frame = swift.simulator.scan_device.last_frame
    image = frame.fraction("HAADF") * frame.electrons
    expected = []
    measured = {"parked": [], "micro-scan": []}
    for way, count in (("parked", 60), ("micro-scan", 3)):
        if way == "micro-scan":
            monkeypatch.delattr(AtomicScanDevice, "parked_counts")
        for row, column in ((50, 50), np.unravel_index(image[20:80, 20:80].argmax(), (60, 60)) + np.array(20)):
            instrument.park(tuple(fine.pixels_to_plane((row, column))))
            readings = [instrument.read_dark_field(0.004, cancel) for _ in range(count)]
            measured[way].append(sum(r.counts for r in readings) / sum(r.exposure_s for r in readings))
            expected.append(image[row, column] / 20e-6)
    np.testing.assert_allclose(measured["parked"], expected[:2], rtol=0.1)
    np.testing.assert_allclose(measured["micro-scan"], measured["parked"], rtol=0.1)


def test_an_exposure_times_out_and_can_be_stopped(swift):
    exposure = swift.microscope.exposure
    exposure.timeout_s, exposure.decide = 0.1, lambda reading: False

    def plan():
        yield from stubs.scan(swift.microscope, FRAME)
        yield from stubs.expose(swift.microscope, (3.0, 1.0))
        ended.append(exposure.ended_by)
        exposure.timeout_s = 60.0
        yield from stubs.expose(swift.microscope, (4.0, 1.0))

    ended = []
    swift.run_until(stubs.as_run(swift.microscope, "expose", plan()), 1)
    wait_for(lambda: ended == ["timeout"] and swift.stem.GetVal("C_Blank") == 0.0)
    start = time.perf_counter()
    swift.runner.stop()
    assert swift.stem.GetVal("C_Blank") == 1.0
    assert time.perf_counter() - start < 0.1
    assert swift.runner.wait(5)
    assert swift.is_safe


def test_drift_is_measured_from_scans_of_one_frame(swift):
    swift.simulator.microscope.load(graphene((60.0, 60.0), silicon=0.02))
    clock = Clock()
    swift.simulator.microscope.clock = clock
    swift.simulator.microscope.conditions = Conditions(drift=(0.02, -0.01), damage=False, readout=0.0)
    frame = Frame(24.0, (128, 128), 8.0)
    seen = []

    def plan():
        for _ in range(4):
            drift = yield from stubs.measure_drift(swift.microscope, frame)
            seen.append(drift)
            clock.now += 15.0

    swift.run(stubs.as_run(swift.microscope, "drift", plan()))
    assert swift.runner.outcome == "completed", swift.runner.error
    expected = 15.0 * np.arange(4)[:, None] * [0.02, -0.01]
    np.testing.assert_allclose(seen, expected, atol=0.08)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.25, -1.5), (-0.4, 6.1)])
def test_registration_finds_shifts_below_a_pixel(shift):
    scene = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=(96, 96)), 2.5)
    moved = ndimage.shift(scene, shift, order=5, mode="wrap")
    assert shift_between(scene[16:80, 16:80], moved[16:80, 16:80]) == pytest.approx(shift, abs=0.15)


def test_registration_refuses_what_cannot_be_registered():
    with pytest.raises(StemAeError, match="without any contrast"):
        shift_between(np.ones((8, 8)), np.ones((8, 8)))
    with pytest.raises(StemAeError, match="cannot be registered"):
        shift_between(np.eye(8), np.eye(9))


def test_controls_are_set_in_angstroms_and_read_back(swift):
    microscope = swift.microscope
    controls = (microscope.defocus, *microscope.astigmatism, *microscope.stage, *microscope.beam_shift)
    for k, control in enumerate(controls):
        assert control.set(10.0 + k).exception(5.0) is None
        assert control.value == pytest.approx(10.0 + k)
    assert swift.simulator.instrument.beam.defocus == pytest.approx(10.0)
    assert swift.simulator.instrument.beam.astigmatism == pytest.approx((11.0, 12.0))


def test_operations_end_once_and_late_ones_fail():
    slow = Operation(lambda: time.sleep(0.3), timeout_s=0.05, late="too late")
    assert str(slow.exception(2.0)) == "too late"
    assert slow.done
    assert not slow.success
    broken = Operation(lambda: 1 / 0)
    assert isinstance(broken.exception(2.0), ZeroDivisionError)
    called = []
    broken.add_callback(called.append)
    assert called == [broken]
    assert not Operation(done=False).done


# --- exploring and tuning ---------------------------------------------------------------------------------------------


def grid(step=4):
    rows = np.arange(8, 56, step)
    return np.stack(np.meshgrid(rows, rows, indexing="ij"), axis=-1).reshape(-1, 2)


def explored(swift, decisions, look_for=None, supposed=lambda number, decision: None, **values):
    """Explore for the peak that names x, if for nothing else: it is largest at the frame's right side."""
    swift.name_places()
    settings = Settings(
        FRAME, exposure_s=0.003, candidates=grid(), explorer={"surrogate": "gp", "feature": 0.2, "seed": 1}, **values
    )

    def value_of(frame):
        return float(named_places(frame.data[None])[0, 0])

    return Exploration(swift.microscope, decisions, settings, look_for or value_of, supposed=supposed)


def test_exploring_measures_where_the_property_is_large(swift, decisions):
    exploration = explored(swift, decisions, points=40, first=6, batch=4)
    run = swift.run(exploration.plan())
    assert swift.runner.outcome == "completed", swift.runner.error
    x = FRAME.pixels_to_plane(exploration.points)[:, 0]
    everywhere = FRAME.pixels_to_plane(grid())[:, 0]
    np.testing.assert_allclose(exploration.values, x, atol=0.6)  # the property belongs to its point
    assert len(set(exploration.points)) == 40
    assert x[10:30].mean() > everywhere.mean() + everywhere.std()
    best = grid()[np.argsort(everywhere)[-3:]]
    assert {(int(row), int(column)) for row, column in best} <= set(exploration.points)
    decision = swift.runner.result
    assert decision.measured == 40
    assert np.corrcoef(decision.mean.ravel(), everywhere)[0, 1] > 0.95
    np.testing.assert_array_equal(run.column("row"), np.array(exploration.points)[:, 0])
    np.testing.assert_array_equal(run.events("maps")[0]["mean"], decision.mean)
    assert swift.is_safe
    again = explorer_of(Run(swift.runner.run_folder))
    np.testing.assert_allclose(again.mean, decision.mean, atol=0.2)  # fitted once, not step by step
    other = explorer_of(Run(swift.runner.run_folder), lambda frame: -exploration.objective.numbers(frame)[0])
    np.testing.assert_allclose(other.values, -again.values, atol=1e-6)
    assert np.corrcoef(other.mean.ravel(), everywhere)[0, 1] < -0.95
    assert FRAME.pixels_to_plane(other.ask(5))[:, 0].mean() < everywhere.mean()


@pytest.mark.parametrize(("drift", "border", "median", "worst"), [
    ((0.4, -0.3), 24, 0.1, 0.3),
    ((4.0, -3.0), 2, 0.5, 1.5),  # farther than the border: the frame has to be moved after the specimen
])
def test_exploring_follows_a_drifting_specimen(swift, decisions, drift, border, median, worst):
    """The specimen drifts by Å; where a spectrum was taken on it, which it names, is where the survey showed the pixel.

    Within 0.3 Å, while it drifts by 0.5 Å in each second.
    """
    rng = np.random.default_rng(9)
    positions = np.column_stack([rng.uniform(0, 90, (900, 2)), np.zeros(900)])
    swift.simulator.microscope.load(Specimen(positions, np.full(900, 14), "scattered Si", (), (90.0, 90.0)))
    swift.simulator.microscope.conditions = Conditions(drift=drift, damage=False, readout=0.0)  # Å per second
    swift.name_places()
    frame = Frame(fov=40.0, shape=(128, 128), dwell_us=2.0, centre=(5.0, -3.0), rotation=0.3)
    along = np.linspace(border, 127 - border, 10).astype(int)
    points = np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)
    settings = Settings(
        frame, exposure_s=0.02, points=48, batch=6, first=6, candidates=points, drift_every=6,
        explorer={"surrogate": "gp", "seed": 1},
    )  # fmt: skip
    exploration = Exploration(swift.microscope, decisions, settings, lambda spectrum: float(spectrum.data.sum()))
    run = swift.run(exploration.plan())
    assert swift.runner.outcome == "completed", swift.runner.error
    aimed = np.column_stack([run.column("probe_x"), run.column("probe_y")])
    moved = aimed - frame.pixels_to_plane(exploration.points)
    assert np.linalg.norm(moved[-1]) > 0.8 * np.linalg.norm(drift) * 48 * settings.exposure_s  # exposures alone take it
    measured = named_places(run.column("eels"))
    start = measured - frame.pixels_to_plane(exploration.points)
    error = np.linalg.norm(start - np.median(start, axis=0), axis=1)  # the drift until the survey belongs to it
    assert np.median(error) < median
    assert error.max() < worst
    assert len(run.events()) == len(exploration.points) == 48  # others than those that could not be reached
    assert not set(exploration.left_out) & set(exploration.points)


def test_no_place_is_exposed_twice_not_even_when_the_user_asks_for_it(swift, decisions):
    said, clicked = [], []

    def force(exploration):
        candidates = exploration.settings.candidates
        away = np.linalg.norm(candidates[:, None] - exploration.points, axis=-1).min(axis=1)
        clicked.append(tuple(candidates[away.argmax()].tolist()))
        for point in (clicked[0], clicked[0], (clicked[0][0] + 1, clicked[0][1]), exploration.points[0]):
            try:
                exploration.force(point)
            except StemAeError as error:
                said.append(str(error))

    rows = np.arange(8, 56, 2)
    settings = Settings(
        FRAME, exposure_s=0.003, points=24, first=4, batch=5,
        candidates=np.stack(np.meshgrid(rows, rows, indexing="ij"), axis=-1).reshape(-1, 2),
        explorer={"surrogate": "gp", "feature": 0.2, "min_distance": 4.0},
    )  # fmt: skip
    swift.name_places()
    exploration = Exploration(
        swift.microscope, decisions, settings, lambda frame: float(named_places(frame.data[None])[0, 0])
    )
    exploration._measured = lambda: force(exploration) if len(exploration.points) == 6 else None
    swift.run(exploration.plan())
    assert swift.runner.outcome == "completed", swift.runner.error
    assert len(said) == 1
    assert "points stay 4 Å apart" in said[0]
    assert exploration.points[6] == clicked[0]
    places = FRAME.pixels_to_plane(exploration.points)
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + 99 * np.eye(len(places))
    assert len(places) == 24
    assert apart.min() >= 4.0 - 1e-9


def test_the_user_can_force_a_point_and_look_for_something_else(swift, decisions):
    exploration = explored(swift, decisions, points=20, first=4, batch=4)
    exploration._measured = lambda: (
        exploration.force((8, 8)) if len(exploration.points) == 2 else None,
        exploration.look_for(lambda frame: -float(named_places(frame.data[None])[0, 0]))
        if len(exploration.points) == 9 else None,
    )  # fmt: skip
    swift.run(exploration.plan())
    assert swift.runner.outcome == "completed", swift.runner.error
    assert exploration.points[2] == (8, 8)
    assert len(exploration.points) == 20
    x = FRAME.pixels_to_plane(exploration.points)[:, 0]
    np.testing.assert_allclose(exploration.values, -x, atol=0.6)  # all of them, also those before the change
    assert np.corrcoef(swift.runner.result.mean.ravel(), FRAME.pixels_to_plane(grid())[:, 0])[0, 1] < -0.9


def test_a_process_that_dies_in_mid_run_ends_it_and_what_was_measured_stays(swift):
    process = DecisionProcess()
    swift.run_until(explored(swift, process, points=100, first=5, batch=5).plan(), 12)
    process._process.kill()
    assert swift.runner.wait(20)
    assert swift.runner.outcome == "failed"
    assert "decides where to measure" in swift.runner.error
    assert len(Run(swift.runner.run_folder).events()) >= 12
    assert swift.is_safe
    with pytest.raises(StemAeError, match="explored nothing"):
        explorer_of(swift.run(acquire.survey(swift.microscope, FRAME)))
    process.close()


def test_several_properties_are_predicted_and_looked_for_together(swift, decisions):
    """One property names x, the other y, which gets a map of its own, and with a weight is looked for as well."""
    x, y = (Property(lambda frame, k=k: float(named_places(frame.data[None])[0, k]), weight) for k, weight in
            ((0, 1.0), (1, 0.0)))  # fmt: skip
    places = FRAME.pixels_to_plane(grid())
    seen = []
    for weight in (0.0, -1.0):
        exploration = explored(
            swift, decisions, Objective((x, dataclasses.replace(y, weight=weight))),
            lambda number, decision: seen.append((number, decision)), points=30, first=6, batch=4,
        )  # fmt: skip
        run = swift.run(exploration.plan())
        assert swift.runner.outcome == "completed", swift.runner.error
        np.testing.assert_allclose(run.column("property_2"), FRAME.pixels_to_plane(exploration.points)[:, 1], atol=0.6)
        (maps,) = run.events("maps")
        assert np.corrcoef(maps["mean_2"].ravel(), places[:, 1])[0, 1] > 0.9
        wanted = places[:, 0] if weight == 0 else places[:, 0] - places[:, 1]
        assert np.corrcoef(maps["mean"].ravel(), wanted)[0, 1] > 0.9
        there = FRAME.pixels_to_plane(exploration.points[10:])
        sought = there[:, 0] if weight == 0 else there[:, 0] - there[:, 1]
        assert sought.mean() > wanted.mean() + 0.7 * wanted.std()
    assert {number for number, _ in seen} == {1}
    np.testing.assert_array_equal(seen[-1][1].mean, maps["mean_2"])


def test_an_objective_is_fixed_by_the_first_measurements():
    both = Objective((Property(lambda e: e[0], 2.0), Property(lambda e: e[1], -1.0)))
    table = np.random.default_rng(0).normal([5.0, -300.0], [0.1, 40.0], (20, 2))
    values = both.values(table, 10)
    np.testing.assert_array_equal(both.values(table[:12], 10), values[:12])
    z = (table - table[:10].mean(axis=0)) / table[:10].std(axis=0)
    np.testing.assert_allclose(values, 2 * z[:, 0] - z[:, 1])
    table[3, 1] = np.nan
    assert np.isnan(both.values(table, 10)[3])
    alone = Objective((Property(lambda e: e[0]), Property(lambda e: e[1], 0.0)))
    np.testing.assert_array_equal(alone.values(table, 10), table[:, 0])
    assert np.isnan(alone.numbers((np.inf, 1.0))[0])
    with pytest.raises(StemAeError, match="weight"):
        Objective((Property(float, 0.0),))


def test_the_dose_budget_and_a_stop_end_an_exploration_early(swift, decisions):
    exploration = explored(swift, decisions, points=100, first=5, batch=5)
    settings = dataclasses.replace(
        exploration.settings, explorer={**exploration.settings.explorer, "dose_per_point": 2.0, "dose_budget": 26.0}
    )
    exploration.settings = settings
    swift.run(exploration.plan())
    assert swift.runner.outcome == "completed", swift.runner.error
    assert len(exploration.points) == 13
    exploration = explored(swift, decisions, points=100, first=5, batch=5)
    swift.run_until(exploration.plan(), 8)
    swift.runner.stop()
    assert swift.runner.wait(10)
    assert len(Run(swift.runner.run_folder).events()) in range(8, 20)
    assert swift.is_safe


def test_pending_points_are_not_asked_for_again_and_count_in_the_dose():
    image = np.random.default_rng(6).normal(size=(40, 40))
    explorer = Explorer(image, surrogate="descriptor", patch=8, dose_per_point=1.0, dose_budget=12.0)
    first = explorer.ask(6)
    explorer.tell(first, np.arange(6.0))
    pending = explorer.ask(4)
    following = explorer.ask(4, pending=pending)
    assert len(following) == 2
    taken = {tuple(p) for p in np.concatenate([first, pending])}
    assert not taken & {tuple(p) for p in following}
    np.testing.assert_array_equal(explorer.measured.shape, (6,))


def test_a_decision_process_that_dies_is_said_and_replaced(swift):
    process = DecisionProcess()
    process.explore(np.eye(32), {"patch": 8, "surrogate": "gp"}).result(60)
    os.kill(process._process.pid, signal.SIGKILL)
    with pytest.raises(StemAeError, match="ended unexpectedly"):
        process.step(batch=1).result(60)
    with pytest.raises(StemAeError, match="Nothing is being explored"):
        process.step(batch=1).result(60)
    process.close()


def test_the_tuner_finds_the_top_of_a_hill():
    top = np.array([35.0, -20.0, 10.0])
    width = np.array([60.0, 40.0, 40.0])
    for seed in range(3):
        tuner = Tuner([-150, -80, -80], [150, 80, 80], seed=seed)
        for _ in range(30):
            trial = tuner.ask()
            tuner.tell(trial, -float((((trial - top) / width) ** 2).sum()))
        assert np.all(np.abs(tuner.best - top) < 0.25 * width)
    with pytest.raises(StemAeError, match="range"):
        Tuner([1.0], [0.0])


def test_sharpness_counts_detail_not_noise():
    rng = np.random.default_rng(7)
    yy, xx = np.mgrid[:128, :128] * 0.15
    lattice = 1 + 0.5 * np.sin(2 * np.pi * xx / 2.1) * np.sin(2 * np.pi * yy / 2.4)
    clear, blurred = sharpness(lattice, 0.15), sharpness(ndimage.gaussian_filter(lattice, 4), 0.15)
    assert clear > 3 * blurred
    noisy = np.mean([sharpness(rng.poisson(20 * lattice), 0.15) for _ in range(8)])
    assert noisy == pytest.approx(clear, rel=0.05)
    with pytest.raises(StemAeError, match="dark"):
        sharpness(np.zeros((8, 8)), 0.15)


@pytest.mark.slow
def test_tuning_focuses_the_simulated_probe_and_an_abort_undoes_it(swift, decisions):
    instrument = swift.microscope.instrument
    small = Frame(20.0, (128, 128), 4.0)
    sharp = sharpness(instrument.scan(small, threading.Event()).data, small.sampling[0])
    for name, value in (("defocus", 70.0), ("astigmatism_x", -40.0), ("astigmatism_y", 25.0)):
        instrument.set(name, value)
    swift.run_until(tune(swift.microscope, decisions, small), 5, stream="sharpness")
    swift.runner.abort()
    assert swift.runner.wait(10)
    assert instrument.get("defocus") == pytest.approx(70.0)
    swift.run(tune(swift.microscope, decisions, small))
    tuned = swift.runner.result
    assert swift.runner.outcome == "completed", swift.runner.error
    assert tuned.sharpness_after > 0.85 * sharp > 2 * tuned.sharpness_before
    assert abs(instrument.get("defocus")) < 25
    assert swift.is_safe
