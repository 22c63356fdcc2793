"""The Eject panel in headless Swift, on the simulated microscope: what it ejects, and that Stop means blanked."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

pytest.importorskip("nion.instrumentation")

from nion.swift import DisplayPanel
from nion.utils import Geometry

from nionswift_plugin.stem_ae_ui import ejection_start, ejection_texts
from nionswift_plugin.stem_ae_ui.ejection_choice import AREA, CLICK, PATTERN, PICKS, ROW, ZONE
from nionswift_plugin.stem_ae_ui.ejection_intent import MOVE, ONCE
from stem_ae.imaging.specimens import graphene
from stem_ae.imaging.virtual_microscope import Conditions
from stem_ae.manipulate import runlog
from stem_ae.microscope.swift import SwiftInstrument
from stem_ae.plans import Run
from stem_ae.words import clock
from tests.ejection_rig import headless

FOV_A, PIXELS = 40.0, 200


@pytest.fixture
def swift(tmp_path):
    with headless(tmp_path) as swift:
        yield swift


def test_targets_are_chosen_by_clicks_rows_areas_patterns_and_lists(swift, tmp_path):
    swift.look()
    model = swift.model
    model.choose(True)
    model.pick_index = CLICK
    one = swift.column("S2", 20, 20)
    model.click(*(one + 0.2))
    np.testing.assert_allclose(model.sites, [one], atol=0.3)
    model.click(*one)
    assert len(model.sites) == 0
    model.pick_index = ROW
    start = swift.column("S2", 8, 20)
    end = swift.column("S2", start[0] + 8 * 3.16, start[1])
    model.every = "2"
    model.click(*start)
    model.click(*end)
    along = model.sites[np.argsort(model.sites[:, 0])]
    assert len(along) >= 4
    np.testing.assert_allclose(np.diff(along[:, 0]), 2 * 3.16, atol=0.3)
    model.clear()
    model.pick_index = AREA
    for corner in [(10, 10), (20, 10), (20, 20), (10, 20), (10, 10)]:
        model.click(*corner)
    inside = model.sites.copy()
    assert 8 <= len(inside) <= 14  # 100 Å² at 8.65 Å² per S2 column
    assert np.all((inside > 9.9) & (inside < 20.1))
    model.pick_index = ZONE
    for corner in [(9, 9), (21, 9), (21, 15), (9, 15), (9, 9)]:
        model.click(*corner)
    assert 0 < len(model.sites) < len(inside)
    assert np.all(model.sites[:, 1] > 15)
    path = tmp_path / "list.csv"
    path.write_text("x_angstrom,y_angstrom\n" + "".join(f"{x},{y}\n" for x, y in inside), encoding="utf-8")
    model.clear()
    model.read(str(path))
    assert len(model.sites) == len(inside)
    model.clear()
    model.pick_index = PATTERN
    model.every = "3 x 2"
    model.click(*swift.column("S2", 20, 20))
    apart = np.linalg.norm(model.sites[:, None] - model.sites, axis=2)
    assert np.min(apart[apart > 0]) > 2 * 3.16 * np.sqrt(3) / 2 - 0.3
    assert len(PICKS) == 5


def test_clicks_on_the_scan_reach_the_panel_and_markers_follow_the_drift(swift):
    swift.look()
    display = swift.window.workspace_controller.display_panels[0]
    swift.pump(lambda: swift.scan_item() is not None)
    display.set_display_panel_data_item(swift.scan_item())
    swift.model.choose(True)
    site = swift.column("S2", 20, 20) / (FOV_A / PIXELS)
    manager = DisplayPanel.DisplayPanelManager()
    position = Geometry.FloatPoint(y=site[1] + 0.5, x=site[0] + 0.5)
    assert manager.image_display_clicked(display, display.display_item, position, None)
    assert len(swift.model.sites) == 1
    before = swift.model.sites[0].copy()
    microscope = swift.simulator.microscope
    microscope.conditions = Conditions(drift=(0.2, 0.0), damage=False)
    start = microscope.drift()[0]
    swift.pump(lambda: microscope.drift()[0] - start > 1.0)
    microscope.conditions = Conditions(damage=False)
    newest = swift.atoms.newest
    swift.pump(lambda: swift.atoms.newest.result is not newest.result)
    newest = swift.atoms.newest
    swift.pump(lambda: swift.atoms.newest.result is not newest.result)
    swift.model.follow()
    assert swift.model.sites[0][0] - before[0] == pytest.approx(microscope.drift()[0] - start, abs=0.4)
    assert [command[1] for command in swift.drawn() if command[0] == "fillText"].count("1") >= 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(600.0, "10:00"), (599.96, "10:00"), (59.5, "1:00"), (59.0, "0:59"), (0.2, "0:01")]
)
def test_the_time_for_which_it_is_armed_has_no_sixty_seconds(seconds, text):
    assert clock(seconds) == text


def test_a_run_ejects_the_chosen_atoms_and_leaves_its_log(swift, tmp_path):
    swift.look()
    model = swift.model
    swift.simulator.microscope.conditions = Conditions(drift=(1 / 60, 0.0))
    model.choose(True)
    for x in (14, 24):
        model.click(*swift.column("S2", x, 20))
    model.run()
    assert "press Arm" in model.texts.message
    swift.pump(lambda: "a neighbour is lost in" in model.texts.estimate)
    model.arm()
    assert model.texts.armed.startswith("Armed for")
    model.run()
    assert model.is_running, model.texts.message
    swift.pump(lambda: not model.is_running, timeout=90)
    # On a busy machine tenths of seconds lie between two readings: both atoms of a column may have left.
    assert model.texts.message.startswith("Run is complete"), model.texts
    assert model.texts.again.startswith("All 2 are finished")
    assert "done" in model.states
    assert swift.is_blanked
    assert model.armed_left_s == 0
    assert [e.symbol for e in swift.simulator.microscope.ejections].count("S") >= 2
    (folder,) = (tmp_path / "data" / "runs").iterdir()
    exposures = runlog.exposures(folder / "ejections.jsonl")
    assert "one step" in [str(exposure.replay().outcome) for exposure in exposures]
    verdicts: dict[int, list[str]] = {0: [], 1: []}
    for exposure in exposures:
        verdicts[exposure.facts["site"]].append(exposure.facts["verdict"])
    for of_site in verdicts.values():
        assert of_site, "a target was left out"
        again = of_site[:-1]  # the beam returns only to a target that has lost nothing yet
        assert not {"one ejected", "more than one ejected"} & set(again), verdicts
    table = (folder / "ejections.csv").read_text(encoding="utf-8")
    assert table.count("one ejected") == model.states.count("done")
    assert list(folder.glob("*/*.json*")), "no documents"


def test_stop_blanks_within_100_ms(swift):
    swift.look()
    model = swift.model
    model.choose(True)
    model.click(*swift.column("S2", 20, 20))
    model.arm()
    model.run()
    swift.pump(lambda: not swift.is_blanked)
    swift.pump(lambda: model.states == ["exposing"])
    start = time.perf_counter()
    model.stop()
    assert swift.is_blanked
    assert time.perf_counter() - start < 0.1
    swift.pump(lambda: not model.is_running)
    assert swift.is_blanked
    assert model.armed_left_s == 0


@pytest.mark.parametrize("lasts", [False, True])
def test_a_scan_that_is_no_image_suspends_the_run_and_the_panel_says_so(tmp_path, monkeypatch, lasts):
    said, calls, real = [], [], SwiftInstrument.scan

    def scan(self, frame, cancel):
        image = real(self, frame, cancel)
        calls.append(frame)
        how = {1: image.data * np.nan, 3: image.data[:5], 5: np.zeros_like(image.data)}
        data = how.get(len(calls), image.data) if not lasts or len(calls) < 3 else how[3]
        return dataclasses.replace(image, data=data)

    monkeypatch.setattr(SwiftInstrument, "scan", scan)
    with headless(tmp_path, networks=False, fov=30.0, pixels=150) as swift:
        swift.look()
        swift.choose((12, 12))
        model = swift.model
        model.policy_index, model.timeout = ONCE, "0.3"
        model.arm()
        model.run()
        assert model.is_running, model.texts.message

        def has_ended():
            if model.texts.status == "Run suspended":
                said.append((model.texts.message, model.texts.status_color, swift.is_blanked))
                model._EjectionModel__conduct.run.suspension.patience_s = 0.5 if lasts else 20.0
            return not model.is_running

        swift.pump(has_ended)
        messages, colors, were_blanked = zip(*said, strict=True)
        assert any("The scan gives frames without a single number" in message for message in messages)
        assert set(colors) == {ejection_texts.WAITING}
        assert swift.is_blanked
        if lasts:
            assert "This has lasted for" in model.texts.message
            assert model.texts.status.startswith("Run has failed")
            return
        assert np.mean(were_blanked) > 0.5  # looked at a moment later than said
        assert model.texts.message.startswith("Run is complete"), model.texts
        (folder,) = (tmp_path / "data" / "runs").iterdir()
        lines = runlog.read_lines(folder / "ejections.jsonl")
        kinds = [line["kind"] for line in lines]
        assert kinds.count("suspended") == 3
        assert kinds.count("scanned") == len(calls)
        (documents,) = folder.glob("*/documents.jsonl")
        assert len(Run(documents.parent).events("suspended")) == 3


def test_a_dopant_is_brought_to_the_target(swift):
    """At 80 kV, where a jump does not take long."""
    sheet = graphene((60.0, 60.0), 0.0)
    sheet.numbers[np.argmin(np.linalg.norm(sheet.positions[:, :2] - 30.0, axis=1))] = 14
    microscope = swift.simulator.microscope
    microscope.load(sheet)
    swift.simulator.instrument.SetVal("EHT", 80e3)
    swift.simulator.instrument.SetVal("BeamCurrent", 150e-12)
    swift.look("graphene")
    model = swift.model
    model.choose(True)
    model.species_index = model.species_names.index("C")
    dopant = swift.column("Si", 20, 20)
    model.click(*swift.column("C", dopant[0] + 2.5, dopant[1]))
    assert model.timeout == "5"
    model.policy_index = MOVE
    assert model.timeout == "60"
    swift.pump(lambda: "steps of" in model.texts.estimate)
    microscope.conditions = Conditions(drift=(1 / 60, 0.0))
    model.arm()
    model.run()
    assert model.is_running, model.texts.message
    goal = model.sites[0] - (FOV_A / 2 - FOV_A / PIXELS / 2) - microscope.drift()
    swift.pump(lambda: not model.is_running, timeout=120)
    assert "Run is complete: 1 of 1" in model.texts.message, model.texts
    assert swift.is_blanked
    silicon = microscope.specimen.positions[microscope.specimen.numbers == 14, :2]
    assert np.linalg.norm(silicon - goal) < 0.7
    assert len(microscope.exchanges) >= 2


def test_a_rehearsal_leaves_the_instrument_alone(swift, tmp_path, monkeypatch):
    monkeypatch.setattr(ejection_start, "_seed", lambda: 7)  # otherwise another one each second
    swift.look()
    model = swift.model
    model.choose(True)
    model.click(*swift.column("S2", 20, 20))
    before = len(swift.simulator.microscope.ejections)
    model.rehearse()
    assert model.is_running, model.texts.message
    swift.pump(lambda: not model.is_running, timeout=90)
    assert "Rehearsal is complete" in model.texts.message
    assert len(swift.simulator.microscope.ejections) == before
    assert swift.scan.is_playing
    (folder,) = (tmp_path / "data" / "runs").iterdir()
    verdict = runlog.exposures(folder / "rehearsal.jsonl")[-1].facts["verdict"]
    assert verdict in ("one ejected", "more than one ejected")  # the find's real time is in it: both may have left
    assert f"{int(verdict == 'one ejected')} of 1 targets would be done" in model.texts.message
