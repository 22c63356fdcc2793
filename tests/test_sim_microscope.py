"""The simulated microscope in headless Swift: every part agrees on where an atom is, and the beam does its work."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from scipy import optimize

pytest.importorskip("nion.instrumentation")

from nion.instrumentation.test import AcquisitionTestContext
from nion.swift import Facade
from nion.swift.test import TestContext
from nion.utils import Geometry

from nionswift_plugin import stem_ae_sim
from nionswift_plugin.stem_ae_sim import panel
from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
from stem_ae.imaging import diffraction
from stem_ae.imaging.specimens import Specimen
from stem_ae.imaging.virtual_microscope import Conditions

Facade.initialize()

BRIGHT = 5e-9  # A: a current that leaves no doubt where an atom is


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def far_apart() -> Specimen:
    """A few heavy atoms, no two alike in distance or direction."""
    xy = np.array([[40.0, 40.0], [46.3, 38.1], [33.5, 43.2], [43.9, 50.4], [36.0, 31.7], [52.2, 47.7]])
    positions = np.column_stack([xy, np.zeros(len(xy))])
    return Specimen(positions, np.full(len(xy), 42), "six molybdenum atoms", (), (80.0, 80.0))


@pytest.fixture
def swift(tmp_path, monkeypatch):
    """Headless Swift with the simulated microscope, six atoms, and a clock of the test's own."""
    monkeypatch.chdir(tmp_path)
    setup = TestContext.TestSetup()
    clock = Clock()
    quiet = Conditions(damage=False, background=0.0, readout=0.0)
    simulator = AtomicMicroscope(str(tmp_path), specimen=far_apart(), conditions=quiet, seed=1, clock=clock)
    with AcquisitionTestContext.test_context(simulator, is_both_cameras=True) as context:
        context.simulator, context.clock = simulator, clock
        simulator.instrument.SetVal("BeamCurrent", BRIGHT)
        yield context
    del setup


def parameters(swift, size=(128, 128), fov_nm=3.0, dwell_us=1.0, **values):
    result = swift.scan_hardware_source.get_current_frame_parameters()
    result.pixel_size = Geometry.IntSize(*size)
    result.fov_nm = fov_nm
    result.pixel_time_us = dwell_us
    for name, value in values.items():
        setattr(result, name, value)
    return result


def scan(swift, frame_parameters, channel=0):
    return swift.scan_hardware_source.record_immediate(frame_parameters)[channel]


def fitted_positions(data, guesses_px):
    """Fit a Gaussian to each atom, starting within a pixel or two of it; positions in pixels (x, y)."""
    found = []
    for x, y in guesses_px:
        row, column = round(y), round(x)
        window = np.s_[max(row - 7, 0) : row + 8, max(column - 7, 0) : column + 8]
        rows, columns = np.indices(data.shape)
        rr, cc, values = rows[window].ravel(), columns[window].ravel(), data[window].ravel()

        def misfit(p, rr=rr, cc=cc, values=values):
            return p[0] * np.exp(-((cc - p[1]) ** 2 + (rr - p[2]) ** 2) / (2 * p[3] ** 2)) + p[4] - values

        fit = optimize.least_squares(misfit, [values.max(), x, y, 2.0, 0.0])
        found.append(fit.x[1:3])
    return np.array(found)


def inside(xy, shape, margin=9):
    return np.all((xy > margin) & (xy < np.array(shape[::-1]) - 1 - margin), axis=1)


GEOMETRIES = {
    "plain": {},
    "fov": {"fov_nm": 2.2},
    "rotation": {"rotation_rad": 0.4},
    "centre": {"center_nm": (0.35, -0.2)},
    "rotated and off centre": {"rotation_rad": -1.1, "center_nm": (0.3, 0.25)},
    "wide": {"size": (96, 160), "rotation_rad": 0.3},
    "tall": {"size": (160, 96), "rotation_rad": 0.3, "center_nm": (0.1, 0.2)},
    "sub-scan": {
        "subscan_pixel_size": (96, 96), "subscan_fractional_size": (0.7, 0.7),
        "subscan_fractional_center": (0.55, 0.45),
    },
    "rotated sub-scan of a rotated wide scan": {
        "size": (96, 160), "rotation_rad": 0.5, "subscan_pixel_size": (80, 100), "subscan_fractional_size": (0.8, 0.6),
        "subscan_fractional_center": (0.55, 0.4), "subscan_rotation": 0.35,
    },
}  # fmt: skip


def independent_position(xy, p, stage_nm=(0.0, 0.0), shift_nm=(0.0, 0.0)):
    """Where an atom (Å from the specimen's middle) must be in the frame, in pixels: Swift's own geometry, done anew."""
    offset = Geometry.FloatPoint(*stage_nm) - Geometry.FloatPoint(*shift_nm) - p.center_nm
    turned = (Geometry.FloatPoint(y=xy[1], x=xy[0]) / 10 + offset).rotate(-p.rotation_rad)
    pixel_nm = p.fov_nm / max(p.pixel_size)
    height, width = p.pixel_size.height * pixel_nm, p.pixel_size.width * pixel_nm
    size = p.pixel_size
    if p.subscan_pixel_size:
        centre, part, size = p.subscan_fractional_center, p.subscan_fractional_size, p.subscan_pixel_size
        turned -= Geometry.FloatPoint(y=(centre.y - 0.5) * height, x=(centre.x - 0.5) * width)
        turned = turned.rotate(p.subscan_rotation)
        height, width = height * part.height, width * part.width
    return (turned.x / width + 0.5) * size.width - 0.5, (turned.y / height + 0.5) * size.height - 0.5


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_atoms_are_where_the_geometry_says(swift, geometry):
    p = parameters(swift, **GEOMETRIES[geometry])
    stage, shift = (0.21, -0.13), (-0.05, 0.17)  # nm, y and x
    swift.instrument.SetVal2D("stage_position_m", Geometry.FloatPoint(*stage) * 1e-9)
    swift.instrument.SetVal2D("CSH", Geometry.FloatPoint(*shift) * 1e-9)
    image = scan(swift, p).data
    atoms = far_apart().positions[:, :2] - 40.0
    expected = np.array([independent_position(xy, p, stage, shift) for xy in atoms])
    expected = expected[inside(expected, image.shape)]
    assert len(expected) >= 2
    np.testing.assert_allclose(fitted_positions(image, expected), expected, atol=0.1)

    truth, names = swift.simulator.truth_in_frame()
    dy, dx = swift.simulator.scan_device.last_frame.sampling
    truth = truth / (dx, dy)
    truth = truth[inside(truth, image.shape)]
    order = lambda xy: xy[np.lexsort(np.round(xy.T, 3))]  # noqa: E731
    np.testing.assert_allclose(order(truth), order(expected), atol=1e-6)
    assert set(names) == {"Mo"}


def test_the_two_detectors_see_the_same_atoms_differently(swift):
    p = parameters(swift, enabled_channel_indexes=[0, 1])
    swift.simulator.microscope.conditions = dataclasses.replace(swift.simulator.microscope.conditions, jitter=0.3)
    haadf, maadf = (xdata.data for xdata in swift.scan_hardware_source.record_immediate(p))
    assert maadf.sum() > 1.5 * haadf.sum()
    assert np.corrcoef(haadf.ravel(), maadf.ravel())[0, 1] > 0.98  # one scan, so one jitter


def test_drift_moves_the_image_and_shears_the_frame(swift):
    microscope = swift.simulator.microscope
    p = parameters(swift, dwell_us=20.0)
    still = scan(swift, p).data
    truth_still, _ = swift.simulator.truth_in_frame()
    microscope.conditions = dataclasses.replace(microscope.conditions, drift=(1.0, -2.0))  # Å/s
    swift.clock.now += 0.5
    moved = scan(swift, p).data
    truth_moved, _ = swift.simulator.truth_in_frame()
    sampling = 30.0 / 128
    before = fitted_positions(still, truth_still / sampling)
    after = fitted_positions(moved, truth_moved / sampling)
    lines = before[:, 1] * 128 * 20e-6  # s until the beam is at the atom
    shift = (after - before) * sampling
    assert np.all(inside(before, still.shape))
    np.testing.assert_allclose(shift[:, 0], 0.5 + lines, atol=0.03)
    np.testing.assert_allclose(shift[:, 1], -1.0 - 2.0 * lines, atol=0.05)


def test_an_aborted_frame_ends_where_the_beam_was(swift):
    """Live consumers never get the dark rest of it as a complete frame, and the display keeps the frame before."""
    swift.simulator.microscope.conditions = Conditions(background=0.1, damage=False)
    scanner = swift.scan_hardware_source
    scanner.set_current_frame_parameters(parameters(swift, dwell_us=20.0))  # a frame of 0.33 s
    complete = []
    keep = lambda promises: complete.extend(promise.xdata.data.copy() for promise in promises)  # noqa: E731
    listener = scanner.xdatas_available_event.listen(keep)
    for moment in (0.5, 0.6, 0.75):
        scanner.start_playing(sync_timeout=3.0)
        time.sleep(moment)
        scanner.abort_playing(sync_timeout=3.0)
        swift.document_controller.periodic()
        (item,) = swift.document_model.data_items
        assert item.data.min(axis=1).min() > 0
    listener.close()
    assert len(complete) >= 3
    assert all(frame.min() > 0 for frame in complete)


def test_choosing_a_specimen_acts_on_the_next_frame(swift):
    p = parameters(swift)
    scan(swift, p)
    swift.simulator.choose_specimen("MoS2 with vacancies")
    scan(swift, p)
    assert set(swift.simulator.truth_in_frame()[1]) <= {"Mo", "S2", "S1"}


# --- what the beam does ----------------------------------------------------------------------------------------------


@pytest.fixture
def mos2(swift):
    """The same with MoS2, 60 pA at 80 kV and damage."""
    swift.simulator.microscope.conditions = Conditions()
    swift.simulator.choose_specimen("MoS2 with vacancies")
    swift.instrument.SetVal("EHT", 80e3)
    swift.instrument.SetVal("BeamCurrent", 60e-12)
    swift.scan_hardware_source.set_current_frame_parameters(parameters(swift, fov_nm=4.0))
    return swift


def park_on(swift, kind):
    """Park the beam on a column of that kind near the scan's middle; return the column's position on the specimen."""
    columns, names = swift.simulator.microscope.columns
    central = [k for k, name in enumerate(names) if name == kind and np.all(np.abs(columns[k]) < 12)]
    x, y = swift.instrument.context_field.to_fraction(columns[central[0]])
    swift.scan_hardware_source.probe_position = Geometry.FloatPoint(y=y, x=x)
    return columns[central[0]]


def wait(swift, seconds):
    swift.clock.now += seconds
    swift.simulator.microscope.advance()


def test_the_parked_beam_ejects_one_sulphur_then_the_other(mos2):
    place = park_on(mos2, "S2")
    microscope = mos2.simulator.microscope
    while not microscope.ejections:
        wait(mos2, 0.005)
    assert microscope.ejections[0].symbol == "S"
    np.testing.assert_allclose(microscope.ejections[0].position, place, atol=0.01)
    columns, names = microscope.columns
    nearest = np.argmin(np.linalg.norm(columns - place, axis=1))
    assert names[nearest] == "S1"
    wait(mos2, 60.0)
    columns, _ = microscope.columns
    assert np.min(np.linalg.norm(columns - place, axis=1)) > 1.0


def test_blanking_and_switching_damage_off_spare_the_specimen(mos2):
    park_on(mos2, "S2")
    microscope = mos2.simulator.microscope
    mos2.instrument.controls.is_blanked = True
    microscope.ejections.clear()
    wait(mos2, 1000.0)
    assert not microscope.ejections
    microscope.conditions = dataclasses.replace(microscope.conditions, damage=False)
    mos2.instrument.SetVal("C_Blank", 0.0)
    wait(mos2, 1000.0)
    assert not microscope.ejections
    microscope.conditions = dataclasses.replace(microscope.conditions, damage=True)
    wait(mos2, 1000.0)
    assert microscope.ejections


def test_carbon_withstands_60_kv_and_an_unparked_beam_spares_the_view(swift):
    swift.simulator.choose_specimen("graphene with silicon")
    swift.simulator.microscope.conditions = Conditions()
    swift.scan_hardware_source.set_current_frame_parameters(parameters(swift, fov_nm=4.0))
    park_on(swift, "C")
    wait(swift, 10.0)
    assert not swift.simulator.microscope.ejections
    swift.instrument.SetVal("BeamCurrent", 60e-12)
    swift.scan_hardware_source.probe_position = None
    swift.simulator.choose_specimen("MoS2 with vacancies")
    wait(swift, 20.0)
    ejections = swift.simulator.microscope.ejections
    assert ejections
    assert all(np.max(np.abs(hit.position)) > 20.0 for hit in ejections)


def test_scanning_doses_by_area(mos2):
    """Frames over 4 nm at 5 nA: as many S leave as their cross sections and the dose say."""
    mos2.instrument.SetVal("BeamCurrent", BRIGHT)
    mos2.instrument.SetVal("C_Blank", 0.0)
    p = parameters(mos2, size=(64, 64), fov_nm=4.0, dwell_us=10.0)
    microscope = mos2.simulator.microscope
    _, names = microscope.columns
    microscope.ejections.clear()
    columns = microscope.columns[0][[name == "S2" for name in names]]
    seen = np.all(np.abs(columns) < 20, axis=1).sum()
    frames = 4
    for _ in range(frames):
        scan(mos2, p)
    dose = frames * BRIGHT / 1.602e-19 * 10e-6 / (40 / 64) ** 2
    expected = seen * dose * 5e-8  # 5 barn at 80 kV
    assert expected > 10
    first = [hit for hit in microscope.ejections if np.max(np.abs(hit.position)) < 20]
    assert abs(len(first) - expected) < 4 * np.sqrt(expected)


def test_the_blanker_darkens_the_rest_of_a_frame(swift):
    """What is scanned before it closes is there, what comes after is dark (no readout noise in this fixture)."""
    p = parameters(swift, dwell_us=40.0)  # a frame of 0.66 s
    assert scan(swift, p).data[-40:].sum() > 0
    closer = threading.Timer(0.3, swift.instrument.SetVal, ("C_Blank", 1.0))
    closer.start()
    data = scan(swift, p).data
    closer.join()
    assert data[:20].sum() > 0
    assert data[-30:].sum() == 0
    assert scan(swift, p).data.sum() == 0


# --- cameras ---------------------------------------------------------------------------------------------------------


def camera_parameters(camera, exposure_ms=5, processing=None):
    p = camera.get_current_frame_parameters()
    p.exposure_ms, p.binning, p.processing = exposure_ms, 1, processing
    return p


def exposure_at(swift, camera, position):
    """Park the beam at a position on the specimen (Å) and expose once."""
    x, y = swift.instrument.context_field.to_fraction(position)
    swift.scan_hardware_source.probe_position = Geometry.FloatPoint(y=y, x=x)
    camera.set_current_frame_parameters(camera_parameters(camera, 20))
    camera.grab_sequence_prepare(1)
    return camera.grab_sequence(1)[0].data[0]


def spectrum_at(swift, position):
    return exposure_at(swift, swift.instrument.eels_camera, position).sum(axis=0)


def test_spectra_belong_to_the_place(swift):
    swift.simulator.choose_specimen("graphene with silicon")
    swift.scan_hardware_source.set_current_frame_parameters(parameters(swift, fov_nm=6.0))
    columns, names = swift.simulator.microscope.columns
    near = np.all(np.abs(columns) < 25, axis=1)
    silicon = np.array([n == "Si" for n in names])
    distance = np.min(np.linalg.norm(columns[:, None] - columns[silicon], axis=2), axis=1)
    on, off = columns[near & silicon][0], columns[near & (distance > 15)][0]
    step = lambda s: s[119:180].sum() / s[60:119].sum()  # noqa: E731  (Si L at 99 eV: channel 119)
    assert step(spectrum_at(swift, on)) > 1.05 * step(spectrum_at(swift, off))
    swift.instrument.controls.is_blanked = True
    dark = spectrum_at(swift, on)
    assert abs(dark.mean()) < 3 * 2 * np.sqrt(16) / np.sqrt(1024) * 4


@pytest.mark.parametrize("geometry", ["plain", "rotated and off centre", "sub-scan"])
def test_synchronised_cameras_expose_every_pixel_where_the_image_has_it(swift, geometry, monkeypatch):
    camera = swift.instrument.ronchigram_camera
    simulator = swift.simulator.ronchigram_camera_device.simulator


    def picture_of_the_position():
        picture = np.zeros(tuple(simulator._sensor_dimensions))
        picture[0, :2] = simulator.beam_position + 100
        return picture

    monkeypatch.setattr(simulator, "expected_fraction", picture_of_the_position)
    values = dict(GEOMETRIES[geometry], size=(6, 8), dwell_us=1000.0)
    if "subscan_pixel_size" in values:
        values["subscan_pixel_size"] = (5, 7)
    p = parameters(swift, **values)
    swift.scan_hardware_source.set_current_frame_parameters(p)
    _, (xdata,) = swift.scan_hardware_source.grab_synchronized(
        scan_frame_parameters=p, camera=camera, camera_frame_parameters=camera_parameters(camera, 4)
    )
    electrons = swift.instrument.beam.electrons(4e-3) * swift.instrument.counts_per_electron
    measured = xdata.data[..., 0, :2] / electrons - 100
    shape = measured.shape[:2]
    expected = swift.instrument.frame_field(p).to_specimen(
        np.stack(np.meshgrid((np.arange(shape[1]) + 0.5) / shape[1], (np.arange(shape[0]) + 0.5) / shape[0]), axis=-1)
    )
    np.testing.assert_allclose(measured, expected, atol=0.05)


def test_the_centre_of_mass_follows_the_field(swift):
    """On the flank of an atom the pattern moves towards it, by what the ground truth says."""
    swift.scan_hardware_source.set_current_frame_parameters(parameters(swift))
    beam, microscope = swift.instrument.beam, swift.simulator.microscope
    probe = beam.probe(microscope.conditions.source_sigma)
    for apart in ((-0.5, 0.0), (0.3, 0.4)):
        place = microscope.specimen.positions[0, :2] + apart
        picture = exposure_at(swift, swift.instrument.ronchigram_camera, place)
        rows, columns = np.indices(picture.shape)
        disk = np.where(np.hypot(rows - 63.5, columns - 63.5) < 50, picture, 0)
        measured = np.array([(disk * (index - 63.5)).sum() / disk.sum() for index in (columns, rows)])  # 1 mrad/pixel
        expected = diffraction.deflection(microscope.specimen, place, probe, beam.energy_ev)
        assert np.dot(expected, apart) < 0
        np.testing.assert_allclose(measured, expected, rtol=0.1, atol=0.05)


# --- opting in -------------------------------------------------------------------------------------------------------


START_OF_SWIFT = """
import os, sys
from nion.swift import Facade
from nion.swift.model import ApplicationData, Notification
from nion.swift.test import TestContext
from nion.utils import Registry
Facade.initialize()
setup = TestContext.TestSetup()
from nionswift_plugin import nion_instrumentation_ui, stem_ae_sim, usim
nion_instrumentation_ui.configuration_location = os.getcwd()
nion_instrumentation_ui.run()
usim.run()
{before}
stem_ae_sim.run()
print("INSTRUMENT", Registry.get_component("stem_controller").instrument_id)
print("CAMERAS", sorted(c.camera_device.camera_id for c in Registry.get_components_by_type("camera_module")))
print("MESSAGES", [note.text for note in Registry.get_component("notification-source").notifications])
sys.stdout.flush()
os._exit(0)
"""


def start_of_swift(folder, before="", **environment):
    """Load the plug-ins as Swift does, in a process of its own, and return what it says."""
    clean = {name: value for name, value in os.environ.items() if name != stem_ae_sim.ENVIRONMENT_VARIABLE}
    clean["PYTHONPATH"] = os.pathsep.join([str(pathlib.Path(__file__).parents[1]), clean.get("PYTHONPATH", "")])
    script = START_OF_SWIFT.format(before=before)
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_nothing_changes_unless_asked_for(tmp_path):
    assert "INSTRUMENT usim_stem_controller" in start_of_swift(tmp_path)


def test_the_environment_asks_for_it(tmp_path):
    answer = start_of_swift(tmp_path, STEM_AE_SIMULATE="1")
    assert "INSTRUMENT stem_ae_sim_controller" in answer
    assert "CAMERAS ['stem_ae_sim_cbed', 'stem_ae_sim_eels']" in answer


def test_the_preference_asks_for_it(tmp_path):
    assert "INSTRUMENT stem_ae_sim_controller" in start_of_swift(tmp_path, "stem_ae_sim.preferences.want(True)")


def test_never_takes_the_place_of_a_real_instrument(tmp_path):
    real = "Registry.get_component('stem_controller').instrument_id = 'the real one'"
    answer = start_of_swift(tmp_path, real, STEM_AE_SIMULATE="1")
    assert "INSTRUMENT the real one" in answer
    assert "CAMERAS ['usim_eels_camera', 'usim_ronchigram_camera']" in answer
    assert "does not replace" in answer.split("MESSAGES")[1]


def test_the_panel_sets_the_simulation(swift):
    handler = panel.Handler(swift.simulator, swift.document_controller.event_loop)
    seen = []
    listener = handler.property_changed_event.listen(seen.append)
    handler.specimen_index = handler.specimen_names.index("graphene with a hole, contaminated")
    assert handler.contamination > 0
    assert "Si" in swift.simulator.microscope.columns[1]
    handler.drift_x, handler.drift_y, handler.jitter, handler.damage = 6.0, -3.0, 0.2, True
    conditions = swift.simulator.microscope.conditions
    assert conditions.drift == pytest.approx((0.1, -0.05))
    assert (conditions.jitter, conditions.damage) == (0.2, True)
    assert handler.complaint == ""
    for name, typo, words in (
        ("drift_x", None, "Drift right (Å/min): type a number"), ("current_pa", -5.0, "from 0 to 100000"),
        ("jitter", float("nan"), "Line jitter"), ("energy_kv", 5.0, "from 10 to 300"), ("contamination", 120.0, "100"),
        ("defocus_nm", float("inf"), "Defocus"),
    ):  # fmt: skip
        shown, seen[:] = getattr(handler, name), []
        setattr(handler, name, typo)  # None: a field that holds no number
        assert words in handler.complaint
        assert name in seen  # the field shows again what holds
        assert getattr(handler, name) == shown
    assert swift.simulator.microscope.conditions == conditions
    handler.current_pa, handler.defocus_nm, handler.energy_kv = 80.0, 4.0, 80.0
    assert handler.complaint == ""
    beam = swift.instrument.beam
    assert (beam.current_pa, beam.defocus, beam.energy_ev) == pytest.approx((80.0, 40.0, 80e3))
    handler.blanked = True
    assert swift.instrument.is_blanked
    swift.simulator.choose_specimen("MoS2 with vacancies")  # by somebody else
    until = time.monotonic() + 1.0
    while "specimen_index" not in seen and time.monotonic() < until:
        swift.document_controller.periodic()
    assert {"specimen_index", "drift_x", "current_pa", "defocus_nm", "energy_kv", "blanked"} <= set(seen)
    listener.close()
    handler.close()


def test_the_panel_opens_and_closes_with_its_window(swift):
    widget = panel.SimulatorPanel(swift.document_controller, stem_ae_sim.PANEL_ID, {"simulator": swift.simulator})
    widget.close()
