"""The panels of stem_ae in Nion Swift."""

from __future__ import annotations

from nion.swift import Workspace

from stem_ae import memory

from .atoms_panel import AtomsPanel
from .ejection_panel import EjectionPanel
from .explorer_panel import ExplorerPanel
from .jobs_panel import JobsPanel
from .panel_frame import make_room_beside
from .simulate_panel import SimulatePanel

PANELS = (AtomsPanel, ExplorerPanel, SimulatePanel, JobsPanel, EjectionPanel)


def run() -> None:
    """Register the panels; Swift calls this when all plug-ins are loaded."""
    memory.settle()
    make_room_beside()
    for panel in PANELS:
        Workspace.WorkspaceManager().register_panel(
            panel, panel.panel_id, panel.title, ["left", "right"], "right", {"min-width": 320}
        )


def stop() -> None:
    """Take the panels out; Swift calls this when it ends."""
    for panel in PANELS:
        Workspace.WorkspaceManager().unregister_panel(panel.panel_id)
