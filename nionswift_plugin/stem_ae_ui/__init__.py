"""The panels of stem_ae in Nion Swift."""

from __future__ import annotations

from nion.swift import Workspace

from .atoms_panel import AtomsPanel


def run() -> None:
    """Register the panels; Swift calls this when all plug-ins are loaded."""
    Workspace.WorkspaceManager().register_panel(
        AtomsPanel, AtomsPanel.panel_id, AtomsPanel.title, ["left", "right"], "right", {"min-width": 320}
    )


def stop() -> None:
    """Take the panels out; Swift calls this when it ends."""
    Workspace.WorkspaceManager().unregister_panel(AtomsPanel.panel_id)
