"""The Explorer panel in headless Swift, on the simulated microscope."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("bluesky")
pytest.importorskip("nion.instrumentation")

from nion.instrumentation.test import AcquisitionTestContext
from nion.swift import Facade, Workspace
from nion.swift.model import Graphics
from nion.swift.test import TestContext
from nion.ui import DrawingContext, TestUI
from nion.utils import Geometry

from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
from nionswift_plugin.stem_ae_ui import explorer_panel, explorer_settings
from nionswift_plugin.stem_ae_ui.atoms_model import BAD, WAITING
from nionswift_plugin.stem_ae_ui.explorer_model import candidates_in
from stem_ae.errors import StemAeError
from stem_ae.explore import scalarize
from stem_ae.imaging.specimens import graphene
from stem_ae.imaging.virtual_microscope import Conditions
from stem_ae.launch.process import run_scenario
from stem_ae.microscope.frame import CameraFrame
from stem_ae.plans import Run

Facade.initialize()


@pytest.fixture
def store(monkeypatch):
    """Settings that last as long as the test."""
    kept: dict[str, str] = {}
    monkeypatch.setattr(
        TestUI.UserInterface, "get_persistent_string", lambda self, key, default=None: kept.get(key, default or "")
    )
    monkeypatch.setattr(TestUI.UserInterface, "set_persistent_string", lambda self, key, text: kept.update({key: text}))
    return kept


class Swift:
    """Headless Swift with the simulated microscope and the panel."""

    def __init__(self, folder) -> None:
        quiet = Conditions(damage=False, readout=0.0)
        self.simulator = AtomicMicroscope(str(folder), specimen=graphene((60.0, 60.0)), conditions=quiet, seed=2)
        self.context = AcquisitionTestContext.test_context(self.simulator, is_both_cameras=True, is_app=True)
        self.window = self.context.document_controller
        self.document = self.context.document_model
        self.scan = self.context.scan_hardware_source
        self.stem = self.context.instrument
        panels = self.window.workspace_controller.dock_panels
        self.handler = next(p for p in panels if p.panel_id == explorer_panel.ExplorerPanel.panel_id).handler
        self.model = self.handler.model
        self.model.folder = str(folder / "runs")
        p = self.scan.get_current_frame_parameters()
        p.pixel_size, p.fov_nm, p.pixel_time_us = Geometry.IntSize(64, 64), 4.0, 1.0
        self.scan.set_current_frame_parameters(p)
        self.simulator.microscope.spectrum = self.spectrum

    @staticmethod
    def spectrum(point, losses_ev, beam):
        """Return a spectrum with a peak at 200 eV that grows to the right, and one at 600 eV that grows downwards."""
        x, y = (float(v) for v in point)
        peaks = [np.exp(-0.5 * ((losses_ev - at) / 4.0) ** 2) for at in (200, 600)]
        return 1e-5 * (max(x + 30, 0.1) * peaks[0] + max(y + 30, 0.1) * peaks[1])

    def pump(self, condition, timeout=60.0) -> None:
        """Run the user interface thread until the condition holds."""
        end = time.monotonic() + timeout
        while not condition() and time.monotonic() < end:
            self.window.periodic()
            time.sleep(0.003)
        assert condition(), self.model.texts

    def click(self, name: str) -> None:
        getattr(self.handler, f"{name}_clicked")(None)

    def finish(self) -> None:
        self.pump(lambda: not self.model.is_running)
        self.pump(lambda: "beam blanked" in self.model.texts.status)

    def items(self, kind: str):
        return [i for i in self.document.data_items if i.metadata.get("stem_ae", {}).get("kind") == kind]

    def item(self, kind: str):
        (found,) = self.items(kind)
        return found


@pytest.fixture
def swift(tmp_path, monkeypatch, store):
    monkeypatch.chdir(tmp_path)
    setup = TestContext.TestSetup()
    panel = explorer_panel.ExplorerPanel
    manager = Workspace.WorkspaceManager()
    manager.register_panel(panel, panel.panel_id, panel.title, ["left", "right"], "right", {"min-width": 320})
    result = Swift(tmp_path)
    with result.context:
        model = result.model
        model.exposure_ms, model.points, model.batch, model.step, model.patch = "3", "24", "6", "4", "8"
        model.surrogate_index = explorer_settings.SURROGATES.index("descriptor")
        model.property_words, model.feature = "180-220", "20"
        yield result
    manager.unregister_panel(panel.panel_id)
    del setup


def test_survey_preview_and_exploration_give_linked_and_calibrated_items(swift):
    swift.click("survey")
    swift.finish()
    survey = swift.item("survey")
    display_item = swift.document.get_display_item_for_data_item(survey)
    (region,) = [g for g in display_item.graphics if isinstance(g, Graphics.RectangleGraphic)]
    region.bounds = Geometry.FloatRect.from_tlbr(0.2, 0.2, 0.9, 0.7)

    swift.click("preview")
    swift.finish()
    sample = swift.item("sample")
    assert sample.xdata.data_shape == (512,)
    assert sample.xdata.dimensional_calibrations[0].units == "eV"
    assert swift.model.texts.value.startswith("band integral = ")

    swift.click("start")
    swift.finish()
    assert swift.model.texts.status == "Done · beam blanked", swift.model.texts
    exploration = swift.model.exploration
    points = np.array(exploration.points)
    assert len({tuple(p) for p in points.tolist()}) == 24
    assert points[:, 0].min() >= 0.2 * 64 - 1
    assert points[:, 0].max() <= 0.9 * 64
    assert points[:, 1].max() <= 0.7 * 64
    survey = swift.item("survey")  # replaced by the run's own image, not doubled
    mean = swift.item("mean")
    calibration = mean.xdata.dimensional_calibrations
    assert calibration[1].units == "nm"
    assert calibration[1].scale == pytest.approx(4 * 4.0 / 64)  # every fourth of 64 pixels of 4 nm
    columns = sorted({int(c) for c in points[:, 1]})
    assert calibration[1].offset <= columns[0] * 4.0 / 64
    assert mean.source is survey
    assert mean.metadata["stem_ae"]["survey"] == str(survey.uuid)
    assert np.corrcoef(mean.xdata.data.mean(axis=0), np.arange(mean.xdata.data_shape[1]))[0, 1] > 0.9
    assert swift.item("std").xdata.data.min() >= 0
    run = Run(mean.metadata["stem_ae"]["run"])
    assert len(run.events()) == 24
    assert swift.stem.GetVal("C_Blank") == 1.0


def test_another_property_can_be_looked_for_while_and_after_it_runs(swift):
    swift.click("start")
    swift.pump(lambda: swift.model.exploration and len(swift.model.exploration.points) >= 8)
    swift.model.property_words = "580-620"
    swift.finish()
    assert swift.model.texts.status == "Done · beam blanked", swift.model.texts
    values, frames = swift.model.exploration.values, swift.model.exploration.frames
    lower, upper = scalarize.BandIntegral((580, 620)), scalarize.BandIntegral((180, 220))
    np.testing.assert_allclose(values, [explorer_settings.value_of(lower, frame) for frame in frames])
    mean = swift.item("mean")
    down = mean.xdata.data.mean(axis=1)
    assert np.corrcoef(down, np.arange(len(down)))[0, 1] > 0.9
    swift.model.property_words = "180-220"  # what would it have done
    swift.pump(lambda: "180-220" in swift.item("mean").metadata["stem_ae"]["words"])
    np.testing.assert_allclose(
        swift.model.exploration.values, [explorer_settings.value_of(upper, frame) for frame in frames]
    )
    swift.pump(lambda: np.ptp(swift.item("mean").xdata.data.mean(axis=0)) > 0)
    across = swift.item("mean").xdata.data.mean(axis=0)
    assert np.corrcoef(across, np.arange(len(across)))[0, 1] > 0.9


def test_other_properties_have_maps_and_with_a_weight_they_are_looked_for(swift):
    model = swift.model
    swift.click("add")
    swift.click("add")
    second, third = model.others.items
    assert (second.names[second.name_index], third.names[third.name_index]) == ("peak ratio", "peak maximum")
    assert third.words == "10-30"
    second.name_index = second.names.index("band integral")
    assert second.words == "284-320"
    second.words, third.words = "580-620", "180-220"
    swift.click("start")
    swift.finish()
    assert model.texts.status == "Done · beam blanked", model.texts
    assert "band integral = " in model.texts.value
    assert "band integral (580-620) = " in model.texts.value
    assert "peak maximum = " in model.texts.value
    swift.pump(lambda: len(swift.items("other")) == 2)
    swift.pump(lambda: all(item.metadata["stem_ae"]["measured"] == 24 for item in swift.items("other")))
    others = {item.metadata["stem_ae"]["property"]: item for item in swift.items("other")}
    mean = swift.item("mean")
    slope = lambda item, axis: np.corrcoef(item.xdata.data.mean(axis=1 - axis), np.arange(item.xdata.data.shape[axis]))  # noqa: E731
    assert slope(others["band integral"], 0)[0, 1] > 0.9  # grows downwards
    assert slope(others["peak maximum"], 1)[0, 1] > 0.9  # to the right
    assert slope(mean, 1)[0, 1] > 0.9
    assert others["band integral"].source is others["peak maximum"].source is mean.source
    run = Run(mean.metadata["stem_ae"]["run"])
    assert [one["words"] for one in run.start["settings"]["others"]] == ["580-620", "180-220"]
    np.testing.assert_array_equal(run.column("property_3"), [row[2] for row in model.exploration.numbers])
    model.remove_property(third)
    second.weight = "-1"  # what would it have done: to the right and up
    swift.pump(lambda: swift.item("mean").metadata["stem_ae"].get("others", [{}])[0].get("weight") == "-1")
    swift.pump(lambda: slope(swift.item("mean"), 0)[0, 1] < -0.9)
    assert slope(swift.item("mean"), 1)[0, 1] > 0.9
    assert "peak maximum" not in model.texts.value
    second.weight = "much"
    assert "has to be a number" in model.texts.message
    second.weight, second.words = "0", "180-220"
    assert "is there twice" in model.texts.message
    second.words = "580-620"
    model.camera_index = 1
    assert not model.others.items
    model.camera_index = 0
    assert [row.words for row in model.others.items] == ["580-620"]


def test_another_property_can_be_looked_for_after_a_stop_and_a_preview(swift):
    swift.model.points = "80"
    swift.click("start")
    swift.pump(lambda: swift.model.exploration and len(swift.model.exploration.points) >= 23)  # some are not told yet
    swift.click("stop")
    swift.finish()
    swift.click("preview")
    swift.finish()
    swift.model.property_words = "580-620"
    swift.pump(lambda: swift.item("mean").metadata["stem_ae"]["words"] == "580-620")
    assert swift.model.texts.message == ""
    measured = len(swift.model.exploration.points)
    swift.pump(lambda: swift.item("mean").metadata["stem_ae"]["measured"] == measured)
    down = swift.item("mean").xdata.data.mean(axis=1)
    assert np.corrcoef(down, np.arange(len(down)))[0, 1] > 0.9


def test_a_click_on_the_survey_is_measured_next_and_the_way_is_drawn(swift):
    swift.model.points = "40"
    swift.click("start")
    swift.pump(lambda: swift.model.exploration and len(swift.model.exploration.points) >= 3)
    before = len(swift.model.exploration.points)
    swift.model.force(31.0, 30.0)
    swift.pump(lambda: len(swift.model.exploration.points) >= before + 4)
    near = [abs(r - 31) <= 2 and abs(c - 30) <= 2 for r, c in swift.model.exploration.points[before : before + 3]]
    assert any(near)
    swift.click("pause")
    swift.pump(lambda: swift.model.is_paused)
    assert swift.stem.GetVal("C_Blank") == 1.0
    swift.pump(lambda: swift.model.texts.status == "Paused · beam blanked")
    swift.click("pause")
    swift.pump(lambda: not swift.model.is_paused)
    swift.click("stop")
    assert swift.stem.GetVal("C_Blank") == 1.0
    swift.finish()
    assert swift.model.texts.status == "Stopped · beam blanked"
    display = swift.window.workspace_controller.display_panels[0]
    display.set_display_panel_data_item(swift.model.items.explored)
    swift.pump(lambda: True)
    canvas = display.display_canvas_item
    canvas.layout_immediate(Geometry.IntSize(640, 640))
    context = DrawingContext.DrawingContext()
    canvas.repaint_immediate(context, canvas.canvas_size)
    arcs = np.array([command[1:3] for command in context.commands if command[0] == "arc"])
    points = np.array(swift.model.exploration.points)
    np.testing.assert_allclose(arcs[: len(points)], (points[:, ::-1] + 0.5) * 10, atol=0.5)


def test_points_keep_their_distance_and_the_settings_are_in_the_run(swift):
    swift.model.min_distance, swift.model.travel = "7.0", "0.5"
    swift.model.points = "16"
    swift.click("start")
    swift.finish()
    assert swift.model.texts.status == "Done · beam blanked", swift.model.texts
    points = np.array(swift.model.exploration.points) * 40.0 / 64  # Å
    apart = np.linalg.norm(points[:, None] - points, axis=-1)[~np.eye(len(points), dtype=bool)]
    assert apart.min() >= 7.0
    explorer = Run(swift.item("mean").metadata["stem_ae"]["run"]).start["settings"]["explorer"]
    assert (explorer["feature"], explorer["min_distance"], explorer["travel"]) == (0.2, 7.0, 0.5)


def test_what_is_wrong_with_the_settings_is_said_and_nothing_starts(swift):
    for name, text, words in (
        ("property_words", "320-284", "not a band"), ("exposure_ms", "fast", "positive number"),
        ("patch", "200", "too small"),
    ):  # fmt: skip
        before = getattr(swift.model, name)
        setattr(swift.model, name, text)
        swift.click("start")
        assert words in swift.model.texts.message
        assert not swift.model.is_running
        setattr(swift.model, name, before)
    swift.model.force(1, 1)
    assert "press Start" in swift.model.texts.message
    swift.model.property_words = "5000-6000"
    swift.click("preview")
    swift.finish()
    assert "not inside the spectrum" in swift.model.texts.message
    swift.click("survey")
    swift.finish()
    assert swift.model.texts.status == "Survey taken · beam blanked"


@pytest.mark.parametrize(
    ("name", "typo", "words"),
    [
        ("exposure_ms", "1o", "The exposure “1o”"), ("patch", "8.5", "The patch “8.5”"), ("patch", "", "The patch “”"),
        ("step", "0", "The step “0”"), ("points", "many", "number of points “many”"), ("batch", "-1", "batch “-1”"),
        ("current_pa", "nan", "The beam current “nan”"), ("dose_budget", "1e", "The dose budget “1e”"),
        ("drift_every", "2O", "between surveys “2O”"), ("feature", "0", "The share looked for “0”"),
        ("feature", "200", "100 at most"), ("min_distance", "-1", "The minimum spacing “-1”"),
        ("travel", "x", "The travel penalty “x”"), ("property_words", "284-", "not a band"),
        ("property_words", "1-2, 3-4", "type one band"),
    ],
)  # fmt: skip
def test_a_typo_is_said_once_when_it_is_made_and_nothing_starts_with_it(swift, name, typo, words):
    before = getattr(swift.model, name)
    setattr(swift.model, name, typo)
    said = [getattr(swift.model.texts, field) for field in ("message", "value", "dose", "progress")]
    assert words in said[0]
    assert sum(words in text for text in said) == 1
    swift.click("start")
    assert not swift.model.is_running
    assert words in swift.model.texts.message
    setattr(swift.model, name, before)
    assert swift.model.texts.message == ""


def test_weights_that_are_no_numbers_are_said(swift):
    swift.model.add_property()
    (other,) = swift.model.others.items
    other.words = "580-620, 180-220"
    for weight in ("much", "nan", "inf"):
        other.weight = weight
        assert "has to be a number" in swift.model.texts.message
    other.weight = "-0,5"
    assert swift.model.texts.message == ""
    assert [one.weight for one in swift.model.settings.objective().properties] == [1.0, -0.5]


def test_cancelling_the_dialog_keeps_the_folder(swift, monkeypatch, tmp_path):
    chosen = {"folder": ""}
    monkeypatch.setattr(
        type(swift.window.ui), "get_existing_directory_dialog", lambda self, title, folder: (chosen["folder"], folder)
    )
    before = swift.model.folder
    assert before
    assert swift.model.runs_folder == before
    swift.click("folder")
    assert swift.model.folder == before
    chosen["folder"] = str(tmp_path / "other")
    swift.click("folder")
    assert swift.model.runs_folder == chosen["folder"]
    swift.click("usual_folder")
    assert swift.model.folder == ""
    assert swift.model.runs_folder.endswith("runs")  # and says where that is


def test_an_exploration_without_any_value_is_not_called_a_success(swift):
    swift.simulator.microscope.spectrum = lambda point, losses_ev, beam: np.full(len(losses_ev), np.nan)
    swift.model.points = "12"
    swift.click("start")
    swift.finish()
    assert swift.model.texts.status_color in (WAITING, BAD), swift.model.texts
    assert swift.model.texts.message


def test_a_failed_run_says_why_and_keeps_what_was_measured(swift):
    swift.model.points = "60"
    swift.click("start")
    swift.pump(lambda: swift.model.exploration and len(swift.model.exploration.points) >= 12)
    swift.scan.start_playing()
    swift.finish()
    swift.scan.abort_playing(sync_timeout=3.0)
    assert swift.model.texts.status == "Ended · beam blanked"
    assert "leave the scan alone" in swift.model.texts.message
    assert len(Run(swift.item("mean").metadata["stem_ae"]["run"]).events()) >= 12


def test_settings_are_kept_and_damaged_ones_do_no_harm(swift, store):
    swift.model.acquisition_index = 3
    swift.model.camera_index = 1
    swift.model.property_index = swift.model.property_names.index("virtual detector")
    swift.model.property_words = "30-50"
    swift.click("add")
    swift.model.others.items[0].weight = "0.5"
    swift.pump(lambda: "30-50" in store.get(explorer_settings.KEY, "") and "0.5" in store[explorer_settings.KEY])

    class Store:
        def get_persistent_string(self, key, default_value=None):
            return store[key]

    again = explorer_settings.Settings.load(Store())
    assert (again.acquisition, again.camera, again.property_words) == ("uncertainty", "diffraction", "30-50")
    assert again.scalarizers() == {
        "virtual detector": scalarize.VirtualDetector(30.0, 50.0),
        "centre of mass": scalarize.CentreOfMass("magnitude"),
    }
    assert [one.weight for one in again.objective().properties] == [1.0, 0.5]
    store[explorer_settings.KEY] = json.dumps({"beside": {"eels": [{"name": "x"}, 3], "diffraction": "none"}})
    for camera in explorer_settings.CAMERAS:
        assert not dataclasses.replace(explorer_settings.Settings.load(Store()), camera=camera).others
    for damaged in ("{", "[]", json.dumps({"camera": "x-ray", "points": 3, "words": "no"})):
        store[explorer_settings.KEY] = damaged
        assert explorer_settings.Settings.load(Store()) == explorer_settings.Settings()


def test_swift_starts_without_waiting_for_torch_or_bluesky():
    code = (
        "import sys, nionswift_plugin.stem_ae_ui.explorer_panel;"
        "print([m for m in ('torch', 'bluesky') if m in sys.modules])"
    )
    root = pathlib.Path(__file__).parents[1]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("camera", explorer_settings.CAMERAS)
def test_every_property_has_first_words_that_work(camera):
    shape, unit = ((512,), "eV") if camera == "eels" else ((64, 64), "mrad")
    data = np.random.default_rng(1).poisson(100, shape).astype(np.float32)
    frame = CameraFrame(data, 0.02, -20.0 if camera == "eels" else -64.0, 2.0, unit, 1.0, 1)
    for name in explorer_settings.PROPERTIES[camera]:
        settings = explorer_settings.Settings(camera=camera, properties={camera: name})
        (scalarizer,) = settings.scalarizers().values()
        assert np.isfinite(explorer_settings.value_of(scalarizer, frame))


@pytest.mark.parametrize(("name", "words"), [("band integral", "1-2, 3-4"), ("peak ratio", "1-2"), ("edge area", "a-b"),
                                             ("disk strain", "xx"), ("disk strain", "xx; 8; 0")])  # fmt: skip
def test_words_that_mean_nothing_get_a_sentence(name, words):
    camera = "diffraction" if name == "disk strain" else "eels"
    with pytest.raises(StemAeError):
        explorer_settings.read_property(camera, name, words)


def test_candidates_lie_in_the_region_and_their_patches_in_the_image():
    region = Geometry.FloatRect.from_tlbr(0.0, 0.25, 0.5, 1.0)
    found = candidates_in(region, (64, 128), 16, 3)
    assert found[:, 0].min() == 8
    assert found[:, 0].max() < 32
    assert found[:, 1].min() == 32
    assert found[:, 1].max() <= 128 - 8
    with pytest.raises(StemAeError, match="too small"):
        candidates_in(Geometry.FloatRect.from_tlbr(0.4, 0.4, 0.42, 0.42), (64, 64), 16, 2)


@pytest.mark.gui
@pytest.mark.slow
def test_in_the_real_application_the_explorer_finds_the_pillar(tmp_path):
    picture = tmp_path / "explorer.png"
    answer = run_scenario(
        "explorer_scenarios:explore", tmp_path / "swift", virtual=sys.platform == "linux", timeout_s=280,
        output=str(tmp_path / "runs"), picture=str(picture),
    )  # fmt: skip
    assert answer["blanked_while_paused"]
    assert answer["blanked"]
    assert answer["status"] == "Done · beam blanked", answer["message"]
    points = np.array(answer["points"])
    assert len(points) >= 80
    in_pillar = np.max(np.abs(points - (122, 132)), axis=1) < 44  # its plasmons are stronger
    assert in_pillar.mean() > 0.6
    assert in_pillar[:10].mean() < 0.5
    assert picture.stat().st_size > 50_000
    run = next((tmp_path / "runs").glob("*_001/eels.bin")).parent
    assert len(Run(run).events()) >= 1
