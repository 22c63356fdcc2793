"""The menu STEM AE and the one help window, without a screen."""

import pytest

pytest.importorskip("nion.swift", reason="needs Nion Swift")

from nion.swift import Facade
from nion.swift.test import TestContext

from nionswift_plugin.stem_ae_ui import PANELS, menu, stop_key
from nionswift_plugin.stem_ae_ui.parts import MANUAL, show_help

Facade.initialize()


@pytest.fixture
def window(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _setup = TestContext.TestSetup()
    with TestContext.create_memory_context() as context:
        yield context.create_document_controller()


def test_the_menu_has_the_panels_in_the_order_of_the_work(window):
    menu.fill(window, PANELS)
    items = [item.title for item in window.get_or_create_menu(stop_key.MENU_ID, "", "window_menu").items if item.title]
    assert items[:5] == ["Atoms", "Explorer", "Eject", "Simulate", "Jobs"]
    assert [item for item in items[5:] if item != "separator"] == ["Open Runs Folder", "Manual"]


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
