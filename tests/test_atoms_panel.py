"""The Atoms panel in headless Swift, on the simulated microscope: what the user sees is where the atoms are."""

from __future__ import annotations

import functools
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
import unittest

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

pytest.importorskip("nion.instrumentation")

from nion.data import Calibration, DataAndMetadata
from nion.instrumentation import HardwareSource
from nion.instrumentation.test import AcquisitionTestContext
from nion.swift import DisplayPanel, Facade
from nion.swift.model import DataItem
from nion.swift.test import TestContext
from nion.ui import DrawingContext, TestUI
from nion.utils import Geometry

import nionswift_plugin.stem_ae_ui as plugin
from benchmarks.frames import frame
from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
from nionswift_plugin.stem_ae_ui import adapting_model, atoms_panel, keeping
from nionswift_plugin.stem_ae_ui.atoms_model import GOOD, WAITING
from nionswift_plugin.stem_ae_ui.overlay import LegendCanvasItem, RingsCanvasItem
from nionswift_plugin.stem_ae_ui.settings import PALETTE
from stem_ae import elit
from stem_ae.atoms import Atoms2D, as_sampling
from stem_ae.classify import classified
from stem_ae.defects import find_defects
from stem_ae.elit import Prediction
from stem_ae.elit.adapting import Comparison
from stem_ae.elit.calibrate import estimate_sampling
from stem_ae.errors import StemAeError
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe
from stem_ae.imaging.specimens import graphene
from stem_ae.imaging.virtual_microscope import Conditions
from stem_ae.launch.process import run_scenario
from stem_ae.reconstruct import reconstruct
from tests.test_elit_novelty import doped

Facade.initialize()

WORKING = 0.2


class Peaks:
    """Finds atoms without a net: peaks of the smoothed image, the bright ones being Si. It can be made to wait."""

    name, version, species, lattice_constant = "peaks", "abc123", ("C", "Si"), 2.46
    needs_sampling = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.calls = 0
        self.novelty = 0.0
        self.foreign = np.zeros((0, 3))
        self.is_blind = False

    def __len__(self) -> int:
        return 5

    def estimate_sampling(self, image):
        return estimate_sampling(image, "graphene")

    def predict(self, image, sampling, threshold=0.5, classes="network"):
        self.calls += 1
        assert self.gate.wait(20)
        dy, dx = as_sampling(sampling)
        smooth = ndimage.gaussian_filter(np.asarray(image, float), (0.35 / dy, 0.35 / dx))
        size = (int(1.0 / dy) | 1, int(1.0 / dx) | 1)
        peak = (smooth == ndimage.maximum_filter(smooth, size)) & (smooth > 0.5 * np.percentile(smooth, 98))
        rows, columns = np.nonzero(peak & (not self.is_blind))
        heights = smooth[rows, columns]
        labels = (heights > 1.8 * np.median(heights)).astype(int)
        xy = np.column_stack([columns * dx, rows * dy])
        maps = np.zeros((2, int(image.shape[0] * dy / WORKING) + 2, int(image.shape[1] * dx / WORKING) + 2), np.float32)
        height = np.clip(0.35 + 0.5 * heights / (np.median(heights) if len(heights) else 1.0), 0, 0.98)
        maps[labels, np.rint(xy[:, 1] / WORKING).astype(int), np.rint(xy[:, 0] / WORKING).astype(int)] = height
        probabilities = np.eye(2)[labels] * 0.8 + 0.1
        n = len(xy)
        covariance = np.broadcast_to(np.eye(2) * 1e-4, (n, 2, 2))
        atoms = Atoms2D(xy, covariance, labels, self.species, probabilities, heights, image.shape, (dy, dx))
        atoms = classified(atoms, classes, image)
        return Prediction(maps, 0.1 * maps.max(0), WORKING, atoms, self.novelty, self.foreign)

    def find_defects(self, prediction):
        return find_defects(prediction)

    def reconstruct(self, image):
        return reconstruct(image)


@pytest.fixture
def store(monkeypatch):
    """Settings that last as long as the test, as those of the real application last on the disk."""
    kept: dict[str, str] = {}
    monkeypatch.setattr(
        TestUI.UserInterface, "get_persistent_string", lambda self, key, default=None: kept.get(key, default or "")
    )
    monkeypatch.setattr(TestUI.UserInterface, "set_persistent_string", lambda self, key, text: kept.update({key: text}))
    return kept


@pytest.fixture
def ensemble():
    return Peaks()


class Swift:
    """Headless Swift with the simulated microscope and the panel."""

    def __init__(self, folder, ensemble) -> None:
        self.simulator = AtomicMicroscope(
            str(folder), specimen="graphene with silicon", conditions=Conditions(damage=False), seed=2
        )
        self.simulator.instrument.SetVal("BeamCurrent", 200e-12)
        self.context = AcquisitionTestContext.test_context(self.simulator, is_both_cameras=True, is_app=True)
        self.ensemble = ensemble
        self.window = self.context.document_controller
        self.document = self.context.document_model
        self.scan = self.context.scan_hardware_source
        self.display = self.window.workspace_controller.display_panels[0]
        panels = self.window.workspace_controller.dock_panels
        self.handler = next(panel for panel in panels if panel.panel_id == "stem-ae-atoms-panel").handler
        self.model = self.handler.model

    def set_scan(self, size=(128, 128), fov_nm=3.0, dwell_us=2.0) -> None:
        p = self.scan.get_current_frame_parameters()
        p.pixel_size, p.fov_nm, p.pixel_time_us = Geometry.IntSize(*size), fov_nm, dwell_us
        self.scan.set_current_frame_parameters(p)

    def pump(self, condition, timeout=30.0) -> None:
        """Run the user interface thread until the condition holds."""
        end = time.monotonic() + timeout
        while not condition() and time.monotonic() < end:
            self.window.periodic()
            time.sleep(0.003)
        assert condition(), self.model.texts

    def pump_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.window.periodic()
            time.sleep(0.003)

    def scan_item(self, channel="a"):
        return self.document.get_data_item_reference(f"{self.scan.hardware_source_id}_{channel}").data_item

    def record(self) -> None:
        """Scan one frame and let Swift make its data item."""
        frame = self.scan.record_immediate(self.scan.get_current_frame_parameters())
        assert frame
        self.pump(lambda: self.scan_item() is not None)
        self.pump(lambda: self.scan_item().xdata is not None)

    def show(self, item, panel=None) -> None:
        (panel or self.display).set_display_panel_data_item(item)

    def open(self, image, calibrations=None, **values):
        """Put an image into the project and show it in the selected display panel."""
        xdata = DataAndMetadata.new_data_and_metadata(image, dimensional_calibrations=calibrations, **values)
        item = DataItem.new_data_item(xdata)
        item.title = "an image"
        self.document.append_data_item(item)
        self.window.selected_display_panel = self.display
        self.show(item)
        return item

    @property
    def message(self) -> str:
        return self.model.texts.message

    @property
    def has_rings(self) -> bool:
        return sum(self.counts.values()) > 0

    @property
    def counts(self) -> dict[str, int]:
        return {item.name: int(item.count.replace(",", "")) for item in self.model.classes.items}

    def choose_source(self, words: str) -> None:
        self.model.source_index = next(i for i, name in enumerate(self.model.source_names) if words in name)

    def drawn(self, panel=None, size=(640, 640)):
        """Return what the display draws: radius -> centres (x, y) in points of each ring, and colours in order."""
        canvas = (panel or self.display).display_canvas_item
        canvas.layout_immediate(Geometry.IntSize(*size))
        context = DrawingContext.DrawingContext()
        canvas.repaint_immediate(context, canvas.canvas_size)
        rings, color = [], None
        for command in context.commands:
            if command[0] == "strokeStyle":
                color = command[1]
            elif command[0] == "arc":
                rings.append((command[1], command[2], command[3], color))
        return rings

    def rings_px(self, shape, color=None, **values):
        """Return the rings' centres in pixels of an image of this shape, shown to fit a square of 640 points."""
        rings = [r for r in self.drawn(**values) if r[2] != 5.0 and (color is None or r[3] == color)]  # 5: the legend
        scale = 640 / max(shape)
        offset = (640 - scale * np.array(shape[::-1])) / 2
        return (np.array([r[:2] for r in rings]).reshape(-1, 2) - offset) / scale - 0.5


@pytest.fixture
def swift(tmp_path, monkeypatch, store, ensemble):
    """Headless Swift with the panel, closed and checked for leaks at the end."""
    monkeypatch.chdir(tmp_path)
    model = functools.partial(atoms_panel.AtomsModel, load=lambda name: ensemble, names=lambda: ["peaks", "other"])
    monkeypatch.setattr(atoms_panel, "AtomsModel", model)
    AcquisitionTestContext.begin_leaks()
    setup = TestContext.TestSetup(set_global=True)
    plugin.run()
    swift = Swift(tmp_path, ensemble)
    with swift.context:
        swift.set_scan()
        yield swift
        ensemble.gate.set()
        swift.scan.abort_playing(sync_timeout=5.0)
    plugin.stop()
    swift.__dict__.clear()
    del setup
    AcquisitionTestContext.end_leaks(unittest.TestCase())


def truth_inside(swift, shape, sampling, margin):
    """Return the true columns in pixels and their names, those a little inside the frame."""
    truth, names = swift.simulator.truth_in_frame()
    truth = truth / sampling
    inside = np.all((truth > margin) & (truth < np.array(shape[::-1]) - 1 - margin), axis=1)
    return truth[inside], np.array(names)[inside]


def test_rings_are_where_the_atoms_are(swift):
    swift.set_scan(size=(96, 160), fov_nm=4.0, dwell_us=8.0)
    swift.record()
    swift.show(swift.scan_item())
    swift.handler.start_button.on_clicked()
    swift.pump(lambda: swift.has_rings)
    truth, names = truth_inside(swift, (96, 160), 40.0 / 160, margin=3)
    rings = swift.rings_px((96, 160))
    distance, _ = cKDTree(rings).query(truth)
    assert np.median(distance) < 1.0  # the stand-in for the net answers in whole pixels
    assert np.mean(distance < 1.5) > 0.9  # and misses a carbon beside a bright silicon
    assert len(rings) == sum(swift.counts.values())
    silicon = truth[names == "Si"]
    assert len(silicon) >= 3
    colors = {item.name: item.color for item in swift.model.classes.items}
    distance, _ = cKDTree(swift.rings_px((96, 160), colors["Si"])).query(silicon)
    assert np.mean(distance < 1.5) > 0.9


def test_rings_of_the_bundled_ensemble(swift, monkeypatch):
    apart = swift.model._AtomsModel__process  # as in the real application
    monkeypatch.setattr(swift.model, "_AtomsModel__load", lambda name: apart.load("graphene"))
    swift.set_scan(size=(192, 192), fov_nm=3.0, dwell_us=16.0)
    swift.record()
    swift.show(swift.scan_item())
    swift.model.start()
    swift.pump(lambda: swift.has_rings, timeout=120)
    sampling = 30.0 / 192
    truth, names = truth_inside(swift, (192, 192), sampling, margin=2)
    colors = {item.name: item.color for item in swift.model.classes.items}
    assert set(names) == set(colors) == {"C", "Si"}
    distance, _ = cKDTree(swift.rings_px((192, 192))).query(truth)
    assert np.mean(distance * sampling < 0.5) >= 0.98
    for name, color in colors.items():
        distance, _ = cKDTree(swift.rings_px((192, 192), color)).query(truth[names == name])
        assert np.mean(distance * sampling < 0.5) >= 0.95


def test_live_frames_and_the_scan_is_never_started_from_here(swift):
    swift.record()
    swift.show(swift.scan_item())
    swift.record()
    swift.document.remove_data_item(swift.scan_item())
    swift.model.start()
    swift.pump(lambda: swift.model.texts.status == "Waiting for a frame")
    swift.pump_for(0.2)
    assert not swift.scan.is_playing
    assert "never starts it" in swift.message
    swift.scan.start_playing(sync_timeout=5.0)
    swift.pump(lambda: swift.model.texts.status.startswith("Live"))
    swift.show(swift.scan_item())
    swift.pump(lambda: swift.ensemble.calls > 4)
    assert len(swift.rings_px((128, 128))) == sum(swift.counts.values()) > 50
    swift.pump(lambda: "frames/s" in swift.model.texts.statistics)
    swift.scan.abort_playing(sync_timeout=5.0)
    swift.pump(lambda: swift.model.texts.status.startswith("Scan stopped"))
    assert len(swift.rings_px((128, 128))) > 50


@pytest.fixture
def running(swift):
    """Swift with one frame scanned, displayed and looked at."""
    swift.record()
    swift.window.selected_display_panel = swift.display
    swift.show(swift.scan_item())
    swift.model.start()
    swift.pump(lambda: swift.has_rings)
    return swift


def test_the_threshold_acts_at_once_and_the_net_does_not_run_again(running):
    calls = running.ensemble.calls
    before = running.counts
    assert len(running.rings_px((128, 128))) == sum(before.values())
    running.model.threshold = 0.9
    assert sum(running.counts.values()) < 0.7 * sum(before.values())
    assert len(running.rings_px((128, 128))) == sum(running.counts.values())
    running.model.threshold = 0.2
    assert sum(running.counts.values()) >= sum(before.values())
    running.pump_for(0.1)
    assert running.ensemble.calls == calls


def test_looks_of_the_rings(running):
    silicon = running.model.classes.items[1]
    shown = len(running.rings_px((128, 128)))
    silicon.color = "#123456"
    assert len(running.rings_px((128, 128), "#123456")) == running.counts["Si"] >= 2
    silicon.visible = False
    assert len(running.rings_px((128, 128), "#123456")) == 0
    assert len(running.rings_px((128, 128))) == shown - running.counts["Si"]
    silicon.visible = True
    radius = [r[2] for r in running.drawn() if r[2] != 5.0]
    assert radius[0] == pytest.approx(0.55 / 30 * 640)  # 0.55 Å of a field of view of 30 Å
    running.model.radius = 1.2
    assert next(r[2] for r in running.drawn() if r[2] != 5.0) == pytest.approx(1.2 / 30 * 640)
    assert len([r for r in running.drawn() if r[2] == 5.0]) == 2  # the legend's two classes
    running.model.legend = False
    assert not [r for r in running.drawn() if r[2] == 5.0]
    running.model.rings = False
    assert not running.drawn()


def items_of(canvas_item, kind):
    """Return the canvas items of a kind inside another."""
    inner = [found for child in canvas_item.canvas_items for found in items_of(child, kind)]
    return inner + ([canvas_item] if isinstance(canvas_item, kind) else [])


def overlays(panel) -> tuple[int, int]:
    canvas = panel.display_canvas_item
    return (len(items_of(canvas, RingsCanvasItem)), len(items_of(canvas, LegendCanvasItem))) if canvas else (0, 0)


def test_rings_follow_their_image_from_display_to_display(running):
    other = DataItem.new_data_item(DataAndMetadata.new_data_and_metadata(np.random.default_rng(0).random((32, 32))))
    running.document.append_data_item(other)
    assert overlays(running.display) == (1, 1)
    running.show(other)
    assert overlays(running.display) == (0, 0)
    running.show(running.scan_item())
    assert overlays(running.display) == (1, 1)
    assert len(running.rings_px((128, 128))) == sum(running.counts.values())
    workspace = running.window.workspace_controller
    workspace.insert_display_panel(running.display, "right").close()
    second = workspace.display_panels[1]
    running.show(running.scan_item(), second)
    assert overlays(running.display) == overlays(second) == (1, 1)
    workspace.remove_display_panel(second).close()
    running.model.threshold = 0.4
    assert overlays(running.display) == (1, 1)
    running.model.stop()
    assert overlays(running.display) == (0, 0)
    running.model.start()
    running.pump(lambda: overlays(running.display) == (1, 1))


def test_mouse_events_reach_the_image_through_the_rings(running):
    canvas = running.display.display_canvas_item
    canvas.layout_immediate(Geometry.IntSize(640, 640))
    hit = next(item for item in canvas.canvas_items_at_point(320, 320) if item.wants_mouse_events)
    assert not isinstance(hit, RingsCanvasItem | LegendCanvasItem)


def test_the_user_interface_never_waits_for_the_net(swift):
    swift.scan.start_playing(sync_timeout=5.0)
    swift.ensemble.gate.clear()
    swift.model.start()
    swift.pump(lambda: swift.ensemble.calls == 1)
    longest, end = 0.0, time.monotonic() + 1.0
    while time.monotonic() < end:
        start = time.perf_counter()
        swift.window.periodic()
        longest = max(longest, time.perf_counter() - start)
        time.sleep(0.003)
    start = time.perf_counter()
    swift.choose_source("Displayed")
    swift.model.start()
    swift.model.stop()
    assert time.perf_counter() - start < 0.3
    assert longest < 0.3
    assert swift.ensemble.calls == 1


def test_a_result_that_comes_too_late_is_not_drawn_on_another_image(swift):
    rng = np.random.default_rng(0)
    calibrations = [Calibration.Calibration(0, 0.02, "nm")] * 2
    swift.open(rng.random((64, 64)), calibrations)
    swift.choose_source("Displayed")
    swift.ensemble.gate.clear()
    swift.model.start()
    swift.pump(lambda: swift.ensemble.calls == 1)
    swift.open(np.full((64, 64), np.nan), calibrations)
    swift.ensemble.gate.set()
    swift.pump(lambda: "NaN" in swift.message)
    assert overlays(swift.display) == (0, 0)


def test_a_scanned_frame_that_comes_too_late_is_not_taken_for_a_displayed_one(swift):
    swift.record()
    swift.ensemble.gate.clear()
    swift.model.start()
    swift.pump(lambda: swift.ensemble.calls == 1)
    swift.display.set_display_panel_display_item(None)
    swift.choose_source("Displayed")
    swift.ensemble.gate.set()
    swift.pump_for(0.3)
    assert swift.model.texts.status == "Waiting for an image"


# --- displayed images, sampling, bad input --------------------------------------------------------------------------


def lattice(sampling=0.15, shape=(160, 160)):
    xy = graphene((50.0, 50.0), silicon=0.0, rotation=7.0, seed=1).positions[:, :2]
    return expected_fraction(xy, np.ones(len(xy)), shape, (sampling, sampling), GaussianProbe(0.4))


def nm(sampling, n=2):
    return [Calibration.Calibration(0, sampling / 10, "nm")] * n


@pytest.fixture
def displayed(swift):
    swift.choose_source("Displayed")
    return swift


def test_an_opened_image_and_then_another(displayed):
    displayed.model.start()
    displayed.pump_for(0.1)
    assert displayed.model.texts.status == "Waiting for an image"
    first = displayed.open(lattice(), nm(0.15))
    displayed.pump(lambda: displayed.has_rings)
    assert "0.1500 Å/px, from the image's calibration" in displayed.model.texts.sampling
    assert len(displayed.rings_px((160, 160))) == displayed.counts["C"] > 200
    calls = displayed.ensemble.calls
    moved = np.roll(lattice(), 3, axis=0)  # new data in the same item
    first.set_data_and_metadata(DataAndMetadata.new_data_and_metadata(moved, dimensional_calibrations=nm(0.15)))
    displayed.pump(lambda: displayed.ensemble.calls > calls)
    colours = (255 * lattice() / lattice().max()).astype(np.uint8)[..., None].repeat(3, axis=2)
    displayed.open(colours, nm(0.15))
    displayed.pump(lambda: displayed.has_rings and displayed.counts["C"] > 200)
    stack = displayed.open(
        np.stack([np.zeros((160, 160)), lattice()]), nm(0.15, 3),
        data_descriptor=DataAndMetadata.DataDescriptor(True, 0, 2),
    )
    displayed.pump(lambda: "everywhere" in displayed.message)  # the first slice is empty
    displayed.document.get_display_item_for_data_item(stack).display_data_channel.sequence_index = 1
    displayed.pump(lambda: displayed.has_rings and displayed.counts["C"] > 200)


def test_the_image_is_closed_while_it_is_looked_at(displayed):
    item = displayed.open(lattice(), nm(0.15))
    displayed.model.start()
    displayed.pump(lambda: displayed.has_rings)
    displayed.document.remove_data_item(item)
    displayed.pump(lambda: displayed.model.texts.status == "Waiting for an image")
    displayed.open(lattice(), nm(0.15))
    displayed.pump(lambda: displayed.has_rings)


def test_an_image_without_calibration(displayed):
    image = lattice(shape=(256, 256))
    first = displayed.open(image)
    displayed.model.start()
    displayed.pump(lambda: "no length calibration" in displayed.message)
    assert displayed.model.texts.status == "Sampling unknown"
    assert overlays(displayed.display) == (0, 0)
    displayed.model.typed_sampling = "a lot"
    assert "not a sampling" in displayed.message
    displayed.model.typed_sampling = "0,15"
    displayed.pump(lambda: displayed.has_rings)
    assert displayed.model.texts.sampling == "0.1500 Å/px, as typed here"
    assert displayed.model.sampling_index == 1
    displayed.model.sampling_index = 2
    displayed.pump(lambda: "lattice" in displayed.model.texts.sampling)
    expected, confidence = estimate_sampling(image, 2.46)
    assert displayed.model.texts.sampling == f"{expected:.4f} Å/px, estimated from the lattice ({confidence:.0%} sure)"
    displayed.open(lattice(0.1), nm(0.1))  # what was said of one image is not said of the next
    displayed.pump(lambda: "0.1000 Å/px, from the image's calibration" in displayed.model.texts.sampling)
    assert displayed.model.sampling_index == 0
    displayed.show(first)
    displayed.pump(lambda: "lattice" in displayed.model.texts.sampling)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.where(np.arange(160) == 7, np.nan, lattice()), "NaN"),
        (np.zeros((64, 64)), "everywhere"),
        (np.arange(64.0), "dimension"),
    ],
)
def test_bad_images_get_a_sentence_and_a_good_one_is_found_again(displayed, data, words):
    displayed.model.start()
    displayed.open(data, nm(0.15, data.ndim))
    displayed.pump(lambda: words in displayed.message)
    assert displayed.model.texts.status == "No rings"
    displayed.open(lattice(), nm(0.15))
    displayed.pump(lambda: displayed.has_rings and not displayed.message)


def test_a_model_that_is_not_there(swift, monkeypatch):
    def load(name):
        raise StemAeError(f"There is no model {name!r}: choose another.")

    model = atoms_panel.AtomsModel(swift.window, load=load)
    model.start()
    swift.pump(lambda: model.texts.message == "There is no model 'peaks': choose another.")
    assert model.texts.status == "The model cannot be used"
    model.close()
    none = atoms_panel.AtomsModel(swift.window, names=lambda: [])
    none.start()
    assert "There is no model yet" in none.texts.message
    none.close()


def test_the_scan_goes_away(running):
    manager = HardwareSource.HardwareSourceManager()
    manager.unregister_hardware_source(running.scan)
    try:
        running.pump(lambda: running.model.texts.status == "The scan is gone")
        assert running.model.source_names == ["Displayed image"]
    finally:
        manager.register_hardware_source(running.scan)
    assert "HAADF (live scan)" in running.model.source_names


def test_an_unfamiliar_frame_is_said_to_be(displayed):
    displayed.ensemble.novelty = 2.4
    displayed.open(lattice(), nm(0.15))
    displayed.model.start()
    displayed.pump(lambda: displayed.has_rings)
    texts = displayed.model.texts
    assert "unlike what the model knows (novelty 2.4" in texts.hint
    assert "adapt" in texts.hint
    assert texts.status.endswith("atoms · doubtful")
    assert texts.status_color == WAITING
    displayed.ensemble.novelty = 0.7
    displayed.open(lattice(), nm(0.15))
    displayed.pump(lambda: displayed.model.texts.status_color == GOOD)
    assert not displayed.model.texts.hint
    assert re.fullmatch(r"\d+ atoms", displayed.model.texts.status)
    assert "novelty 0.7" in displayed.model.texts.statistics


def test_atoms_of_no_known_class_are_nothing_to_adapt_to(displayed):
    displayed.ensemble.foreign = np.array([[4.0, 5.0, 1.8], [20.0, 11.0, 1.2], [9.0, 3.0, 1.1]])
    displayed.model.defects = True
    displayed.open(lattice(), nm(0.15))
    displayed.model.start()
    displayed.pump(lambda: displayed.has_rings)
    hint = displayed.model.texts.hint
    assert hint.startswith("3 columns are too bright or too dim for any class of this model")
    assert hint.endswith("See “unknown” in the list of defects.")
    assert "adapt" not in hint
    assert displayed.model.texts.status_color == WAITING
    displayed.model.defects = False
    displayed.ensemble.foreign = displayed.ensemble.foreign[:1]
    displayed.open(lattice(), nm(0.15))
    displayed.pump(lambda: displayed.model.texts.hint.startswith("1 column is"))
    assert "Tick Defects" in displayed.model.texts.hint


def spots(*places, shape=(160, 160)):
    y, x = np.indices(shape)
    return sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8) for px, py in places)


def test_headlines_count_in_english_and_are_green_only_for_atoms_that_can_be_believed(displayed):
    displayed.open(spots((60, 90)), nm(0.15))
    displayed.model.start()
    displayed.pump(lambda: displayed.model.texts.status == "1 atom")
    displayed.open(spots((60, 90), (20, 30)), nm(0.15))
    displayed.pump(lambda: displayed.model.texts.status == "2 atoms")
    displayed.model.threshold = 0.99
    assert displayed.model.texts.status == "0 atoms"
    assert displayed.model.texts.status_color == WAITING
    assert displayed.message == "Confidence hides 2 atoms that are less probable: lower it to see them."
    displayed.model.threshold = 0.5
    assert displayed.model.texts.status == "2 atoms"
    assert not displayed.message
    displayed.ensemble.is_blind = True
    displayed.open(spots((60, 90), (20, 40)), nm(0.15))
    displayed.pump(lambda: displayed.model.texts.status == "0 atoms")
    assert displayed.model.texts.status_color == WAITING
    assert displayed.model.texts.hint.startswith("No atoms were found: check that the specimen is in view")


def test_what_is_strange_about_simulated_frames(swift, monkeypatch):
    """Tungsten in MoS2 is an unknown element, and a defocused frame is to be adapted to."""
    apart = swift.model._AtomsModel__process
    monkeypatch.setattr(swift.model, "_AtomsModel__load", lambda name: apart.load("mos2"))
    swift.model.defects = True
    swift.open(doped("mos2", "Mo", 42, 74, seed=42)[0].counts, nm(0.104))
    swift.choose_source("Displayed")
    swift.model.start()
    swift.pump(lambda: "another element" in swift.model.texts.hint, timeout=120)
    assert swift.model.texts.hint.startswith("4 columns are too bright")
    assert "adapt" not in swift.model.texts.hint
    swift.pump(lambda: sum(name.startswith("unknown") for name in swift.model.defect_names) == 4)
    defocused = frame("mos2", 1e5, size=(256, 256), probe=AberratedProbe(defocus=100.0), seed=42)
    swift.open(defocused.counts, nm(0.104))
    swift.pump(lambda: "adapt the model to it" in swift.model.texts.hint)
    assert "element" not in swift.model.texts.hint


def test_a_sub_scan_has_its_own_image(running):
    p = running.scan.get_current_frame_parameters()
    p.subscan_pixel_size, p.subscan_fractional_size = Geometry.IntSize(96, 96), Geometry.FloatSize(0.6, 0.6)
    p.subscan_fractional_center = Geometry.FloatPoint(0.5, 0.5)
    calls = running.ensemble.calls
    running.scan.record_immediate(p)
    running.pump(lambda: running.scan_item("a_subscan") is not None and running.ensemble.calls > calls)
    running.pump(lambda: "in the sub-scan" in running.model.texts.status)
    whole = running.display
    running.pump(lambda: whole.data_item is running.scan_item("a_subscan"))  # it is displayed, with its rings
    running.pump(lambda: overlays(whole) == (1, 1))
    assert running.model.texts.sampling.startswith("0.1875")  # 18 Å on 96 pixels
    truth, _ = truth_inside(running, (96, 96), 18.0 / 96, margin=3)
    distance, _ = cKDTree(running.rings_px((96, 96))).query(truth)
    assert np.mean(distance < 1.5) > 0.75  # a tenth would be by chance
    running.show(running.scan_item())
    running.pump_for(0.1)
    assert overlays(running.display) == (0, 0)  # these rings do not belong on the whole image
    running.record()
    running.pump(lambda: overlays(running.display) == (1, 1))
    assert "sub-scan" not in running.model.texts.status


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_the_uncertainty_map_is_live_and_comes_back_while_its_box_is_ticked(running):
    reference = running.document.get_data_item_reference(keeping.UNCERTAINTY.reference)
    item = reference.data_item
    running.pump(lambda: item.xdata.data_shape == (128, 128))
    assert item.is_write_delayed
    assert 0 < item.data.max() <= 0.5
    assert item.dimensional_calibrations[0].scale == pytest.approx(3.0 / 128)
    assert item.dimensional_calibrations[0].units == "nm"
    running.model.uncertainty = False
    assert not item.is_write_delayed
    running.model.uncertainty = True
    running.record()
    running.pump(lambda: item.is_write_delayed)
    running.document.remove_data_item(item)
    assert reference.data_item is None
    running.record()
    running.pump(lambda: reference.data_item is not None)
    again = reference.data_item
    assert again is not item
    running.pump(lambda: again.xdata.data_shape == (128, 128))
    assert again.is_write_delayed
    running.document.remove_data_item(again)
    running.model.uncertainty = False  # which is how to be rid of it
    calls = running.ensemble.calls
    running.record()
    running.pump(lambda: running.ensemble.calls > calls)
    running.pump_for(0.2)
    assert reference.data_item is None


def test_the_map_is_not_taken_for_an_image(displayed):
    item = displayed.open(lattice(), nm(0.15))
    displayed.model.start()
    displayed.pump(lambda: displayed.has_rings)
    calls = displayed.ensemble.calls
    displayed.show(displayed.document.get_data_item_reference(keeping.UNCERTAINTY.reference).data_item)
    displayed.pump_for(0.2)
    assert displayed.ensemble.calls == calls
    displayed.show(item)
    displayed.pump(lambda: overlays(displayed.display) == (1, 1))


def test_the_reconstruction_is_beside_the_frame_and_in_no_place_of_it(running):
    reference = running.document.get_data_item_reference(keeping.RECONSTRUCTION.reference)
    assert reference.data_item is None
    running.model.reconstruction = True
    running.record()
    running.pump(lambda: reference.data_item is not None and reference.data_item.data.shape == (128, 128))
    running.document.remove_data_item(reference.data_item)
    running.pump_for(1.1)
    running.record()
    running.pump(lambda: reference.data_item is not None and reference.data_item.data.shape == (128, 128))
    raw = running.scan_item().data
    np.testing.assert_allclose(reference.data_item.data, reconstruct(raw).mean, rtol=1e-5, atol=1e-5 * raw.max())
    assert reference.data_item is not running.scan_item()
    assert "econstruction" in reference.data_item.title
    shown = running.counts
    running.model.reconstruction = False
    kept = reference.data_item.data.copy()
    running.record()
    running.pump_for(0.5)
    np.testing.assert_array_equal(reference.data_item.data, kept)
    assert sum(running.counts.values()) == pytest.approx(sum(shown.values()), rel=0.15)


def test_a_snapshot_keeps_frame_atoms_uncertainty_and_how_they_were_found(running, tmp_path):
    running.model.threshold = 0.6
    running.model.folder = str(tmp_path / "out" / "today")
    counts = running.counts
    before = set(running.document.data_items)
    running.handler.snapshot_button.on_clicked()
    frame, uncertainty = [item for item in running.document.data_items if item not in before]
    record = frame.metadata["stem_ae"]
    assert (record["model"]["name"], record["model"]["version"], record["model"]["members"]) == ("peaks", "abc123", 5)
    assert record["parameters"] == {"threshold": 0.6}
    assert record["sampling"]["source"] == "calibration"
    assert record["sampling"]["angstrom_per_px"] == pytest.approx([30 / 128, 30 / 128])
    assert record["counts"] == counts
    assert frame.metadata["scan"] == running.scan_item().metadata["scan"]  # Swift's own record stays with the frame
    np.testing.assert_array_equal(frame.data, running.scan_item().data)
    assert frame.dimensional_calibrations[1].scale == pytest.approx(3.0 / 128)
    assert uncertainty.metadata["stem_ae"]["kind"] == "uncertainty"
    kept = keeping.kept_atoms(running.document, frame)
    assert kept.counts() == counts

    csv, = (tmp_path / "out" / "today").glob("*.csv")
    for path in (csv, csv.with_suffix(".xyz")):
        read = Atoms2D.read(path)
        np.testing.assert_allclose(read.positions, kept.positions)
        assert read.counts() == counts
    assert json.loads(csv.with_suffix(".json").read_text())["model"]["version"] == "abc123"
    assert csv.name in running.message

    running.model.stop()
    running.show(frame)  # a kept frame shows its rings
    assert overlays(running.display) == (1, 1)
    assert len(running.rings_px((128, 128))) == sum(counts.values())
    running.document.remove_data_item(frame)
    assert not running.document.data_structures


def test_snapshots_need_something_to_keep_and_somewhere_to_go(swift, tmp_path):
    swift.model.snapshot()
    assert "nothing to keep" in swift.message
    swift.record()
    swift.model.start()
    swift.pump(lambda: swift.has_rings)
    (tmp_path / "file").write_text("in the way")
    swift.model.folder = str(tmp_path / "file")
    swift.model.snapshot()
    assert "Kept" in swift.message
    assert "choose another folder" in swift.message


def test_cancelling_the_dialog_keeps_the_folder(swift, monkeypatch, tmp_path):
    chosen = {"folder": str(tmp_path)}
    monkeypatch.setattr(
        type(swift.window.ui), "get_existing_directory_dialog", lambda self, title, folder: (chosen["folder"], folder)
    )
    swift.handler.folder_button.on_clicked()
    assert swift.model.folder == str(tmp_path)
    chosen["folder"] = ""  # which is what Swift returns for Cancel
    swift.handler.folder_button.on_clicked()
    assert swift.model.folder == str(tmp_path)
    swift.handler.no_folder_button.on_clicked()
    assert swift.model.folder == ""


def test_start_displays_the_image_that_it_works_on(swift):
    other = swift.open(np.ones((32, 32)))
    swift.record()
    assert swift.display.data_item is other
    swift.model.start()
    assert swift.display.data_item is swift.scan_item()  # at once, while the model is still being loaded
    swift.pump(lambda: swift.has_rings)
    assert overlays(swift.display) == (1, 1)
    swift.show(other)  # who puts it away later is not contradicted
    swift.record()
    swift.pump_for(0.3)
    assert swift.display.data_item is other
    swift.model.stop()
    swift.document.remove_data_item(swift.scan_item())
    swift.model.start()
    swift.pump_for(0.2)
    assert swift.display.data_item is other  # there is nothing to display yet
    swift.record()
    swift.pump(lambda: swift.display.data_item is swift.scan_item())


def test_settings_survive_a_restart(running, store):
    model = running.model
    model.threshold, model.radius, model.legend = 0.65, 0.9, False
    model.classes.items[1].color = "#00FF00"
    model.classes.items[0].visible = False
    model.model_index = 1
    running.choose_source("MAADF")
    running.pump(lambda: bool(store))
    running.pump_for(0.05)
    again = atoms_panel.AtomsModel(running.window)
    assert (again.threshold, again.radius, again.legend, again.rings) == (0.65, 0.9, False, True)
    assert "MAADF" in again.source_names[again.source_index]
    assert again.model_names[again.model_index] == "other"
    assert again.settings.color("Si", 1) == "#00FF00"
    assert again.settings.hidden == ["C"]
    again.close()


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"threshold": "high", "unknown": 1}'])
def test_damaged_settings_are_left_at_their_first_values(swift, store, damaged):
    for key in list(store) or ["stem_ae/atoms_panel"]:
        store[key] = damaged
    model = atoms_panel.AtomsModel(swift.window)
    assert (model.threshold, model.source_index) == (0.5, 0)
    model.close()


@pytest.mark.gui
@pytest.mark.slow
def test_rings_on_the_screen_of_the_real_application(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[1]))
    picture = tmp_path / "screen.png"
    (figures,) = run_scenario(
        "benchmarks.live_overlay:measure", tmp_path / "swift", virtual=True, timeout_s=240, model="graphene",
        seconds=3.0, screenshot=str(picture), sizes=[256],
    )  # fmt: skip
    assert figures["overlays_per_s"] > 0.2  # the speed is the benchmark's business, not a busy test machine's
    screen = np.asarray(Image.open(picture.with_stem("screen_256")).convert("RGB")).astype(int)
    for color in PALETTE[:2]:
        rgb = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
        assert np.sum(np.abs(screen - rgb).max(axis=-1) < 30) > 200


def test_the_panel_does_not_import_torch():
    code = "import sys, nionswift_plugin.stem_ae_ui, stem_ae.elit as e; e.available(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_atoms_by_intensity_and_by_neighbours(running):
    assert list(running.counts) == ["C", "Si"]
    by_network = running.counts
    running.model.classes_index = 1
    running.pump(lambda: list(running.counts) == ["I1", "I2"])
    assert sum(running.counts.values()) == sum(by_network.values())
    assert running.counts["I2"] == pytest.approx(by_network["Si"], abs=2)
    running.model.classes_index = 2
    running.pump(lambda: "3 neighbours" in running.counts)
    assert "border" in running.counts
    running.model.classes_index = 0
    running.pump(lambda: running.counts == by_network)


def test_classes_by_example_are_named_by_clicks_and_last_for_later_frames(running):
    def click(name, position):
        model.examples.name = name
        place = Geometry.FloatPoint(*(position[::-1] + 0.5))
        manager = DisplayPanel.DisplayPanelManager()
        return manager.image_display_clicked(running.display, running.display.display_item, place, None)

    model = running.model
    by_network = running.counts
    colors = {item.name: item.color for item in model.classes.items}
    silicon, carbon = (running.rings_px((128, 128), colors[name]) for name in ("Si", "C"))
    assert not click("bright", silicon[0])  # not asked for: the click is Swift's
    assert model.examples.examples is None
    model.classes_index = 3
    assert click("bright", silicon[0])
    assert "another class" in model.examples.text
    assert click("", silicon[1])
    assert "Type the name" in model.examples.text
    assert click("bright", np.array([-200.0, -200.0]))
    assert "on no atom" in model.examples.text
    assert running.counts == by_network  # of one class alone nothing can be learnt
    middle = np.argsort(np.linalg.norm(carbon - 64, axis=1))
    for k in middle[:3]:
        click("dim", carbon[k])
    running.pump(lambda: list(running.counts) == ["bright", "dim"])
    assert running.counts["bright"] == pytest.approx(by_network["Si"], abs=2)
    assert model.examples.text == "bright: 1, dim: 3"
    seen = running.ensemble.calls
    running.record()
    running.pump(lambda: running.ensemble.calls > seen)
    running.pump_for(0.3)
    assert list(running.counts) == ["bright", "dim"]
    assert running.counts["bright"] == pytest.approx(by_network["Si"], abs=2)
    running.handler.forget_button.on_clicked()
    running.pump(lambda: list(running.counts) == ["C", "Si"])


def test_defects_are_listed_and_pointed_out(running):
    model = running.model
    assert model.defect_names == []
    model.defects = True
    running.record()
    running.pump(lambda: model.defect_names)
    assert sum(name.startswith("Si") for name in model.defect_names) == running.counts["Si"]
    rings = len(running.rings_px((128, 128)))
    assert rings == sum(running.counts.values()) + len(model.defect_names)
    assert not any(color == "#F0E442" for *_, color in running.drawn())
    model.defect_index = 0
    (x, y), = running.rings_px((128, 128), "#F0E442")
    place = f"({x * 30 / 128:.1f}, {y * 30 / 128:.1f})"
    assert place in model.defect_names[0]
    model.defects = False
    assert model.defect_names == []
    assert len(running.rings_px((128, 128))) == sum(running.counts.values())


def test_a_spoiled_network_is_left_out_and_can_be_let_in_again(swift, tmp_path, monkeypatch):
    spoiled = elit.load("graphene").subset([0, 1, 2])
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for weight in spoiled.members[1].parameters():
            if weight.ndim > 1:
                weight += weight.std() * torch.randn(weight.shape, generator=generator)
    path = spoiled.save(tmp_path / "spoiled.safetensors")
    monkeypatch.setattr(swift.model, "_AtomsModel__load", swift.model._AtomsModel__process.load)
    monkeypatch.setattr(swift.model, "_AtomsModel__names", lambda: [str(path)])
    networks = swift.model.networks
    networks.check()
    assert "no frame" in networks.text
    swift.set_scan(size=(160, 160), fov_nm=2.4, dwell_us=16.0)
    swift.record()
    swift.show(swift.scan_item())
    swift.model.start()
    swift.pump(lambda: swift.has_rings, timeout=60)
    assert "3 networks" in swift.model.texts.model
    swift.handler.check_button.on_clicked()
    swift.pump(lambda: "2 networks" in swift.model.texts.model, timeout=60)
    assert [network.used for network in networks.networks.items] == [True, False, True]
    assert networks.text == "2 of 3 networks have a say."
    assert networks.networks.items[1].reason.endswith(".")
    swift.pump(lambda: swift.has_rings)
    networks.networks.items[1].used = True
    swift.pump(lambda: "3 networks" in swift.model.texts.model, timeout=60)
    for network in networks.networks.items:
        network.used = False
    assert "tick one" in networks.text
    networks.networks.items[0].used = True
    assert networks.text == "1 of 3 networks has a say."
    swift.pump(lambda: "1 network" in swift.model.texts.model, timeout=60)
    swift.record()  # the same field of view: the judgement stays
    swift.pump_for(1.0)
    assert len(networks.networks.items) == 3
    swift.set_scan(size=(160, 160), fov_nm=2.2, dwell_us=16.0)
    swift.record()  # another one: it goes, and with it what follows from it
    swift.pump(lambda: not networks.networks.items, timeout=60)
    assert networks.text == ""
    swift.pump(lambda: "3 networks" in swift.model.texts.model, timeout=60)
    swift.handler.check_button.on_clicked()
    swift.pump(lambda: networks.networks.items, timeout=60)
    swift.model.start()  # another start, other verdicts
    assert not networks.networks.items


class Adapted:
    """An adaptation that somebody else has done, in the states it goes through."""

    def __init__(self, name, frames, sampling, changed) -> None:
        self.model, self.state, self.fraction, self.text = name, "running", 0.25, "round 1: training 5 networks"
        self.seconds_left: float | None = None
        self.comparison: Comparison | None = None
        self.is_waiting = self.is_kept = False
        self.changed = changed

    def cancel(self) -> None:
        self.state = "cancelled"

    def keep(self) -> None:
        self.is_waiting, self.is_kept = False, True

    def discard(self) -> None:
        self.is_waiting = False

    def end(self, **facts) -> None:
        seen = Prediction(np.zeros((2, 8, 8), np.float32), np.zeros((8, 8), np.float32), 0.2,
                          Atoms2D.empty(("C", "Si"), (16, 16), (0.1, 0.1)), 0.4)  # fmt: skip
        self.comparison = Comparison("other", "v2", seen, seen, (3, 14), **{"gained": True, **facts})
        self.text, self.state, self.is_waiting = str(self.comparison), "done", bool(facts.get("doubt"))
        self.changed(self)


@pytest.fixture
def adapting(running, monkeypatch):
    """The panel's part for adapting, and the adaptations that it has started."""
    started = []
    monkeypatch.setattr(adapting_model, "Adaptation", lambda *given: started.append(Adapted(*given)) or started[-1])
    return running, running.model.adapting, started


def test_adapting_says_how_long_it_still_takes(adapting):
    swift, model, started = adapting
    swift.handler.adapt_button.on_clicked()
    for left, words in ((None, "5 networks"), (41.6, "· at most 42 s left"), (130.0, "· at most 2 min left")):
        started[0].seconds_left = left
        started[0].changed(started[0])
        swift.pump(lambda words=words: model.text.endswith(words))
    assert model.percent == 25


def test_a_model_that_may_have_learnt_noise_is_kept_only_if_the_user_says_so(adapting):
    swift, model, started = adapting
    handler = swift.handler
    before = swift.model.model_index
    for answer in ("discard", "keep"):
        handler.adapt_button.on_clicked()
        started[-1].end(doubt="The frame shows no lattice, and only 14 atoms in it: that may be noise.")
        swift.pump(lambda: model.is_asking)
        assert "14 atoms" in model.text
        assert model.text.endswith("?")
        assert swift.model.model_index == before
        assert not model.can_revert
        assert not started[-1].is_kept
        getattr(handler, f"{answer}_button").on_clicked()
        assert not model.is_asking
        assert started[-1].is_kept == (answer == "keep")
        assert model.can_revert == (answer == "keep")
    assert swift.model.model_names[swift.model.model_index] == "other"
    handler.revert_button.on_clicked()
    assert swift.model.model_index == before


def test_where_adapting_gains_nothing_the_model_stays(adapting):
    swift, model, started = adapting
    swift.handler.adapt_button.on_clicked()
    started[-1].end(gained=False)
    swift.pump(lambda: not model.is_running)
    assert "gains nothing" in model.text
    assert "3 atoms" in model.text
    assert not model.can_revert
    assert swift.model.model_index == 0


@pytest.mark.slow
def test_adapting_from_the_panel_and_back(swift, tmp_path, monkeypatch):
    monkeypatch.setenv("STEM_AE_MODELS", str(tmp_path / "models"))
    brief = functools.partial(adapting_model.Adaptation, effort={"rounds": 1, "steps": 2, "patches": 8})
    monkeypatch.setattr(adapting_model, "Adaptation", brief)
    apart = swift.model._AtomsModel__process
    monkeypatch.setattr(swift.model, "_AtomsModel__load", apart.load)
    can_be_adapted = lambda: [name for name in elit.available() if name != "any"]  # noqa: E731
    monkeypatch.setattr(swift.model, "_AtomsModel__names", can_be_adapted)
    model = swift.model.adapting
    model.start()
    assert "no frame" in model.text
    swift.set_scan(size=(160, 160), fov_nm=2.4, dwell_us=16.0)
    swift.simulator.instrument.SetVal("C10", 10e-9)
    swift.record()
    swift.show(swift.scan_item())
    swift.model.start()
    swift.pump(lambda: "adapt the model to it" in swift.model.texts.hint, timeout=60)
    novelty = swift.model.newest.result.prediction.conditions
    swift.handler.adapt_button.on_clicked()
    swift.pump(lambda: model.percent > 0, timeout=60)
    swift.handler.adapt_button.on_clicked()  # is "Cancel" now
    swift.pump(lambda: not model.is_running)
    assert "Cancelled" in model.text
    assert not model.can_revert
    model.start()
    swift.pump(lambda: model.can_revert, timeout=280)
    new = swift.model.model_names[swift.model.model_index]
    assert new not in ("graphene", "mos2")
    assert new in model.text
    swift.pump(lambda: swift.has_rings, timeout=60)
    adapted = swift.model.newest.result.prediction.conditions
    assert f"novelty {novelty:.1f} → {adapted:.1f}" in model.text  # as the live view has it
    assert adapted <= 1 < novelty
    swift.handler.revert_button.on_clicked()
    assert swift.model.model_names[swift.model.model_index] == "graphene"
    assert new in swift.model.model_names
    swift.pump(lambda: swift.has_rings, timeout=60)
