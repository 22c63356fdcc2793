"""The menu STEM AE and the one help window, without a screen."""

import numpy as np
import pytest

pytest.importorskip("nion.swift", reason="needs Nion Swift")

from nion.swift import Facade
from nion.swift.model import DataItem
from nion.swift.test import TestContext

from nionswift_plugin.stem_ae_ui import PANELS, canvas, menu, overlay, stop_key
from nionswift_plugin.stem_ae_ui.parts import MANUAL, show_help
from stem_ae.atoms import Atoms2D

Facade.initialize()


@pytest.fixture
def window(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _setup = TestContext.TestSetup()
    with TestContext.create_memory_context() as context:
        yield context.create_document_controller()


def test_the_menu_has_the_panels_in_the_order_of_the_work(window):
    menu.fill(window, PANELS)
    items = [item.title for item in window.get_or_create_menu(stop_key.MENU_ID, "", "window_menu").items]
    assert [item for item in items if item and item != "separator"] == [
        "Atoms", "Explorer", "Eject", "Simulate", "Jobs", "Hide or Show Overlays", "Open Runs Folder", "Preferences…",
        "Manual: Help of All Panels",
    ]  # fmt: skip


def test_rings_are_on_every_display_of_an_image_and_can_be_hidden(window):
    item = DataItem.DataItem(np.zeros((8, 8)))
    window.document_model.append_data_item(item)
    workspace = window.workspace_controller
    workspace.insert_display_panel(workspace.display_panels[0], "right")
    for panel in workspace.display_panels:
        panel.set_display_panel_data_item(item)
    atoms = Atoms2D(
        np.array([[2.0, 3.0]]), np.eye(2)[None], np.zeros(1, int), ("C",), np.ones((1, 1)), np.ones(1),
        shape=(8, 8), sampling=(1.0, 1.0),
    )  # fmt: skip
    marks = overlay.Marks.of(atoms, colors={"C": "#56B4E9"}, radius=0.5)
    overlays = canvas.Overlays(window, lambda shown: marks if shown is item else None, overlay.rings_and_legend)
    overlays.refresh()

    def drawn():
        items = [i for panel in workspace.display_panels for i in panel.display_canvas_item.canvas_items]
        return [i.marks for i in items if isinstance(i, overlay.LegendCanvasItem)]

    assert drawn() == [marks, marks]
    canvas.toggle_overlays(window)
    assert drawn() == []
    overlays.refresh()  # as each new frame does
    assert drawn() == []
    canvas.toggle_overlays(window)
    assert drawn() == [marks, marks]
    overlays.close()


def test_help_is_one_window_that_shows_what_was_asked_for_last(window):
    first = show_help(window, "Atoms: help", "atoms.md")
    second = show_help(window, "Jobs: help", "jobs.md")
    assert first is second
    assert second.text.startswith("# Jobs")
    assert second.window.title == "Jobs: help"
    second.close_window()
    third = show_help(window, "Manual", *MANUAL)
    assert third is not second
    assert [third.text.index(f"# {title}") for title in ("Atoms", "Explorer", "Eject", "Simulate", "Jobs")] == sorted(
        third.text.index(f"# {title}") for title in ("Atoms", "Explorer", "Eject", "Simulate", "Jobs")
    )
    third.close_window()
