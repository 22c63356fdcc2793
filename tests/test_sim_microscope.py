"""The simulated microscope in headless Swift: every part agrees on where an atom is, and the beam does its work."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import optimize

pytest.importorskip("nion.instrumentation")

from nion.instrumentation.test import AcquisitionTestContext
from nion.swift import Facade
from nion.swift.test import TestContext
from nion.utils import Geometry

from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
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
