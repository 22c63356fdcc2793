"""The panels of stem_ae in Nion Swift."""

from __future__ import annotations

import functools
import gettext

from nion.swift import Application, Workspace
from nion.swift.model import Notification
from nion.ui import PreferencesDialog

from stem_ae import memory
from stem_ae.microscope import watchdog

from . import menu, preferences
from .atoms_panel import AtomsPanel
from .ejection_panel import EjectionPanel
from .explorer_panel import ExplorerPanel
from .jobs_panel import JobsPanel
from .panel_frame import make_room_beside
from .simulate_panel import SimulatePanel

_ = gettext.gettext

PANELS = (AtomsPanel, ExplorerPanel, EjectionPanel, SimulatePanel, JobsPanel)
"""In the order of the work."""
_PANE = preferences.page()


def run() -> None:
    """Register the panels; Swift calls this when all plug-ins are loaded."""
    memory.settle()
    preferences.begin()
    PreferencesDialog.PreferencesManager().register_preference_pane(_PANE)
    make_room_beside()
    if Application.app:  # not in tests without one
        Application.app.register_menu_handler(functools.partial(menu.fill, panels=PANELS))
    for panel in PANELS:
        Workspace.WorkspaceManager().register_panel(
            panel, panel.panel_id, panel.title, ["left", "right"], "right", {"min-width": 320}
        )
    _tell_what_the_watchdog_did()


def _tell_what_the_watchdog_did() -> None:
    """Tell the user, once, that the beam was blanked when an earlier Swift died or hung."""
    for path, sentence in watchdog.untold():
        title = _("Beam taken when Swift ended")
        Notification.notify(Notification.Notification("stem_ae.watchdog", "STEM AE", title, sentence))
        watchdog.tell(path)


def stop() -> None:
    """Take the panels out; Swift calls this when it ends."""
    for panel in PANELS:
        Workspace.WorkspaceManager().unregister_panel(panel.panel_id)
    if _PANE in PreferencesDialog.PreferencesManager().preference_pane_delegates:
        PreferencesDialog.PreferencesManager().unregister_preference_pane(_PANE)
    preferences.end()
