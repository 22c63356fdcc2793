"""If something that an operator needs goes away while armed or exposing, the run stops, blanks and says so."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("nion.instrumentation")

from nion.instrumentation import HardwareSource
from nion.swift.model import DataItem
from nion.utils import Registry

from nionswift_plugin.stem_ae_ui import canvas, ejection_texts, stop_key
from nionswift_plugin.stem_ae_ui.beam_watch import WATCH, Working
from nionswift_plugin.stem_ae_ui.ejection_overlay import TargetsLegendCanvasItem
from stem_ae import StemAeError
from tests.ejection_rig import headless


def hide(swift):
    swift.panel.hide()


def close_dock(swift):
    swift.panel.dock_widget._handle_hide()  # as Qt does: a dock's X only hides it


def delete_image(swift):
    swift.window.document_model.remove_data_item(swift.scan_item())


def delete_survey(swift):
    item = swift.window.document_model.get_data_item_reference("stem_ae_ejection_survey").data_item
    swift.window.document_model.remove_data_item(item)


def show_something_else(swift):
    item = DataItem.DataItem(np.zeros((8, 8)))
    swift.window.document_model.append_data_item(item)
    swift.display().set_display_panel_data_item(item)


def empty_the_display(swift):
    workspace = swift.window.workspace_controller
    workspace.clear_display_panels([swift.display()])


def change_workspace(swift):
    workspace = swift.window.workspace_controller
    workspace.change_workspace(workspace.new_workspace("another"))


def take_the_scan_away(swift):
    HardwareSource.HardwareSourceManager().hardware_source_removed_event.fire(swift.scan)


def take_the_microscope_away(swift):
    Registry.unregister_component(swift.simulator.instrument, {"stem_controller"})


def fail_to_show(swift):
    def fail(*arguments):
        raise RuntimeError("nothing can be drawn")

    swift.model._EjectionModel__survey_items[False].show = fail


WAYS = [
    (hide, "hidden"), (close_dock, "hidden"), (delete_image, "deleted"), (delete_survey, "deleted"),
    (show_something_else, "something else"), (empty_the_display, "something else"),
    (change_workspace, "workspace"), (take_the_scan_away, "scan"), (take_the_microscope_away, "microscope"),
    (fail_to_show, "could not show"),
]  # fmt: skip


@pytest.fixture
def swift(tmp_path):
    with headless(tmp_path, networks=False, fov=30.0, pixels=150) as swift:
        swift.look()
        swift.show()
        swift.choose((15, 15), (20, 15))
        yield swift


@pytest.mark.parametrize(("deed", "said"), WAYS, ids=[deed.__name__ for deed, _ in WAYS])
def test_whatever_goes_away_during_a_run_the_beam_goes_off_and_it_is_said(swift, deed, said):
    swift.expose()
    deed(swift)
    swift.pump(lambda: not swift.model.is_running and swift.is_blanked)
    if deed is take_the_microscope_away:
        Registry.register_component(swift.simulator.instrument, {"stem_controller"})
    assert said in swift.model.texts.message
    assert swift.model.armed_left_s == 0
    assert not WATCH.armed
    assert not {"exposing", "aiming", "verifying"} & set(swift.model.states)
    swift.handler.run_clicked(None)
    assert not swift.model.is_running  # it has to be armed anew


@pytest.mark.parametrize("deed", [hide, delete_image, change_workspace, take_the_microscope_away])
def test_whatever_goes_away_while_it_is_armed_takes_the_arming_along(swift, deed):
    swift.handler.arm_clicked(None)
    assert swift.model.armed_left_s > 0
    deed(swift)
    swift.pump(lambda: not swift.model.armed_left_s and not WATCH.armed)
    if deed is take_the_microscope_away:
        Registry.register_component(swift.simulator.instrument, {"stem_controller"})
    assert "Disarmed" in swift.model.texts.message


def test_hiding_the_overlays_leaves_targets_and_banner_while_it_is_armed(swift):
    def circles():
        items = swift.display().display_canvas_item.canvas_items
        return [item.marks for item in items if isinstance(item, TargetsLegendCanvasItem)]

    assert [len(marks.states) for marks in circles()] == [2]
    canvas.toggle_overlays(swift.window)
    assert circles() == []
    swift.handler.arm_clicked(None)
    swift.banner.tick()
    assert [len(marks.states) for marks in circles()] == [2]
    assert swift.banner.beam.armed.startswith("ARMED")
    canvas.toggle_overlays(swift.window)
    canvas.toggle_overlays(swift.window)
    assert len(circles()) == 1
    swift.handler.stop_clicked(None)
    swift.banner.tick()
    assert circles() == []
    assert swift.banner.beam.armed == ""
    canvas.toggle_overlays(swift.window)
    assert len(circles()) == 1


def test_hiding_a_panel_that_is_not_armed_leaves_the_beam_alone(swift):
    assert not swift.is_blanked
    swift.panel.hide()
    swift.window.periodic()
    assert not swift.is_blanked
    assert swift.model.texts.message == ""


@pytest.mark.parametrize("error", [StemAeError("The model is gone: choose another."), RuntimeError("as ordered")])
def test_a_finder_that_fails_ends_the_run_and_says_why(swift, error):
    swift.expose()
    swift.truth.fault = error
    swift.pump(lambda: not swift.model.is_running and swift.is_blanked, 120)
    assert str(error) in swift.model.texts.message
    assert swift.model.texts.status.startswith("Run has failed")


def test_a_window_that_closes_during_a_run_leaves_the_beam_off(tmp_path):
    with headless(tmp_path, networks=False, fov=30.0, pixels=150) as swift:
        swift.look()
        swift.show()
        swift.choose((15, 15))
        swift.expose()
        simulator = swift.simulator
    assert simulator.instrument.is_blanked
    assert not WATCH.armed


def test_a_stopped_run_goes_on_with_the_rest_and_is_offered_to_a_new_swift(tmp_path):
    with headless(tmp_path, networks=False, fov=30.0, pixels=150) as swift:
        swift.look()
        swift.show()
        swift.choose((12, 12), (18, 18))
        swift.expose()
        swift.handler.stop_clicked(None)
        swift.pump(lambda: not swift.model.is_running)
        assert "unclear" in swift.model.states
        target = swift.model.states.index("unclear") + 1
        assert swift.model.texts.status == f"Unclear: target {target}"
        assert swift.model.texts.status_color == ejection_texts.WAITING
        assert f"The beam was on target {target}" in swift.model.texts.message
        spent = swift.model._EjectionModel__choice.spent.electrons
        assert spent > 1e6
        assert swift.model.texts.dose.startswith(f"{spent:.2e} of")
        swift.model.clear()
        assert swift.model.texts.dose == ""
        swift.pump(lambda: "Continue the run of" in swift.model.texts.offer)
    with headless(tmp_path, networks=False, fov=30.0, pixels=150) as swift:  # as after a crash
        swift.look()
        swift.pump(lambda: "0 of 2 done" in swift.model.texts.offer)
        swift.handler.go_on_clicked(None)
        assert len(swift.model.sites) == 2, swift.model.texts.message
        assert "unclear" in swift.model.states
        assert swift.model._EjectionModel__choice.spent.electrons == pytest.approx(spent)  # the caps go on
        swift.handler.arm_clicked(None)
        if swift.model.can_confirm:  # a perfect crystal may have moved: somebody has to look first
            swift.handler.run_clicked(None)
            assert not swift.model.is_running
            swift.handler.confirm_clicked(None)
        swift.handler.run_clicked(None)
        assert swift.model.is_running, swift.model.texts.message


def test_somebody_who_works_with_the_beam_is_named_in_the_banner_and_stopped_by_it(swift):
    stopped = []
    working = Working(lambda: "Explorer", lambda: stopped.append(True))
    working.tell(True)
    swift.banner.tick()
    assert swift.banner.beam.armed == "ARMED Explorer"
    swift.window.perform_action(stop_key.ACTION_ID)
    assert stopped == [True]
    swift.pump(lambda: swift.is_blanked)
    working.tell(False)
    swift.banner.tick()
    assert swift.banner.beam.armed == ""
