"""The image in the selected display panel, as a source of frames."""

from __future__ import annotations

import typing

from nion.data import DataAndMetadata
from nion.swift import DisplayPanel, DocumentController
from nion.swift.model import DataItem, DisplayItem

from stem_ae.microscope import swift

from . import keeping, swift_versions


class DisplayedImageFeed:
    """Follows the image that the selected display panel shows: another image, new data, another slice of a stack.

    To be used in the user interface thread.

    Parameters
    ----------
    window : DocumentController
        Whose display panels are followed.
    received : callable
        Called, in any thread, with what is displayed and the data item it comes from.
    changed : callable
        Called in the user interface thread when another item, or none, is followed.
    """

    def __init__(
        self,
        window: DocumentController.DocumentController,
        received: typing.Callable[[DataAndMetadata.DataAndMetadata, DataItem.DataItem], None],
        changed: typing.Callable[[], None],
    ) -> None:
        self.__window = window
        self.__received = received
        self.__changed = changed
        self.__closed = False
        self.data_item: DataItem.DataItem | None = None
        """The item that is followed."""
        self.__item_listeners: list[typing.Any] = []
        self.__displayed_data: swift_versions.DisplayedData | None = None
        assert window.workspace_controller
        workspace = window.workspace_controller
        self.__listeners: list[typing.Any] = [
            window.focused_display_item_changed_event.listen(lambda item: self.__follow(window.selected_display_panel)),
            workspace.display_panel_content_changed_event.listen(self.__content_changed),
        ]
        shown = [window.selected_display_panel, *workspace.display_panels]
        self.__follow(next((panel for panel in shown if panel and _image_of(panel)), None))

    def close(self) -> None:
        """Stop following."""
        self.__closed = True
        self.__listeners.clear()
        self.__stop_listening()

    def __stop_listening(self) -> None:
        self.__item_listeners.clear()
        if self.__displayed_data:
            self.__displayed_data.close()
            self.__displayed_data = None

    def __content_changed(self, panel: DisplayPanel.DisplayPanel) -> None:
        if panel is self.__window.selected_display_panel:
            self.__follow(panel)

    def __follow(self, panel: DisplayPanel.DisplayPanel | None) -> None:
        display_item = _image_of(panel) if panel else None
        if self.__closed or display_item is None or display_item.data_item is self.data_item:
            return
        self.__set(display_item)

    def __set(self, display_item: DisplayItem.DisplayItem | None) -> None:
        self.__stop_listening()
        self.data_item = data_item = display_item.data_item if display_item else None
        self.__changed()
        if display_item and data_item:
            self.__item_listeners = [data_item.about_to_be_removed_event.listen(lambda: self.__set(None))]
            self.__displayed_data = swift_versions.DisplayedData(display_item, self.__displayed)

    def __displayed(self, shown: DataAndMetadata.DataAndMetadata, whole: DataAndMetadata.DataMetadata) -> None:
        item = self.data_item
        if not self.__closed and item and swift.is_whole(whole):
            self.__received(shown, item)


def _image_of(panel: DisplayPanel.DisplayPanel) -> DisplayItem.DisplayItem | None:
    """Return what a display panel shows, if it is data and not one of our own maps."""
    display_item = panel.display_item
    data_item = display_item.data_item if display_item else None
    return display_item if data_item and not keeping.is_map(data_item) else None
