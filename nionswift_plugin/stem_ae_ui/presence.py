"""Whether what an operator needs is still there: the image, its place on the screen, the scan, the microscope."""

from __future__ import annotations

import typing
from collections.abc import Callable

from nion.instrumentation import HardwareSource
from nion.swift import DisplayPanel, DocumentController
from nion.swift.model import DataItem
from nion.utils import Registry


class Presence:
    """Tells when something of that goes away. For the user interface thread.

    Parameters
    ----------
    window : DocumentController
        On whose displays the image is.
    is_image : callable
        Returns whether a data item is the image, or stands for it.
    gone : callable
        Called with what has happened.
    """

    def __init__(
        self, window: DocumentController.DocumentController, is_image: Callable[[DataItem.DataItem], bool],
        gone: Callable[[str], None],
    ) -> None:
        self.__window, self.__is_image, self.__gone = window, is_image, gone
        self.__stem: typing.Any = None
        self.__scan: object = None
        self.__panels: list[DisplayPanel.DisplayPanel] = []
        self.__listeners: list[typing.Any] = []
        self.__items: list[DataItem.DataItem] = []

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants to know."""
        return bool(self.__listeners)

    def begin(self) -> None:
        """Watch from now on what is there now."""
        if self.is_watched:
            return
        self.__stem = Registry.get_component("stem_controller")
        self.__scan = self.__stem.scan_controller if self.__stem else None
        self.__panels = self.__showing()
        manager = HardwareSource.HardwareSourceManager()
        self.__listeners = [manager.hardware_source_removed_event.listen(self.__source_removed)]

    def watch(self, item: DataItem.DataItem | None) -> None:
        """Watch this data item as well."""
        if self.is_watched and item is not None and item not in self.__items:
            self.__items.append(item)
            self.__listeners.append(item.about_to_be_removed_event.listen(self.__item_removed))

    def end(self) -> None:
        """Watch no more."""
        self.__stem = self.__scan = None
        self.__panels, self.__listeners, self.__items = [], [], []

    def tick(self) -> None:
        """Look at what does not tell by itself."""
        if not self.is_watched:
            return
        if Registry.get_component("stem_controller") is not self.__stem:
            self.__tell("the microscope is gone")
        elif self.__panels:
            displays = self.__displays()
            still = [panel for panel in self.__panels if panel in displays]
            if not still:
                self.__tell("its display was closed, or another workspace was chosen")
            elif not any(panel in still for panel in self.__showing()):
                self.__tell("its display shows something else")
        else:
            self.__panels = self.__showing()  # it was not on the screen, but may be by now

    def __tell(self, what: str) -> None:
        self.end()
        self.__gone(what)

    def __displays(self) -> list[DisplayPanel.DisplayPanel]:
        workspace = self.__window.workspace_controller
        return list(workspace.display_panels) if workspace else []

    def __showing(self) -> list[DisplayPanel.DisplayPanel]:
        return [panel for panel in self.__displays() if panel.data_item and self.__is_image(panel.data_item)]

    def __item_removed(self) -> None:
        self.__tell("its image was deleted")

    def __source_removed(self, source: HardwareSource.HardwareSource) -> None:
        if source is self.__scan:
            self.__tell("the scan is gone")
