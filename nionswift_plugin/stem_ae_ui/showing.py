"""Showing data items in the window's display panels. For the user interface thread."""

from __future__ import annotations

from nion.swift import DisplayPanel, DocumentController
from nion.swift.model import DataItem


def panels(window: DocumentController.DocumentController) -> list[DisplayPanel.DisplayPanel]:
    """Return the display panels of the window."""
    return list(window.workspace_controller.display_panels) if window.workspace_controller else []


def is_shown(window: DocumentController.DocumentController, item: DataItem.DataItem) -> bool:
    """Return whether a display panel shows the item."""
    return any(panel.data_item is item for panel in panels(window))


def show_in_empty(window: DocumentController.DocumentController, item: DataItem.DataItem) -> bool:
    """Show an item in a place that nobody needs, if there is one; return whether it is shown."""
    if is_shown(window, item):
        return True
    empty = [panel for panel in panels(window) if panel.display_panel_type == "empty"]
    return bool(empty) and _put(window, item, empty[0])


def show(window: DocumentController.DocumentController, item: DataItem.DataItem) -> bool:
    """Show an item, in place of what the selected display panel shows if there is no empty one.

    Returns whether it is shown now; an item that a scan is still making is not.
    """
    if show_in_empty(window, item):
        return True
    there = panels(window)
    selected = window.selected_display_panel
    return bool(there) and _put(window, item, selected if selected in there else there[0])


def _put(
    window: DocumentController.DocumentController, item: DataItem.DataItem, panel: DisplayPanel.DisplayPanel | None
) -> bool:
    display_item = window.document_model.get_any_display_item_for_data_item(item)
    if panel is None or display_item is None:
        return False
    panel.set_display_panel_display_item(display_item)
    return True
