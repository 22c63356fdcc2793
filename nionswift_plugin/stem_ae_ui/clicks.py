"""Clicks on an image, for whoever wants them now."""

from __future__ import annotations

import collections.abc
import typing

from nion.swift import DisplayPanel, DocumentController
from nion.swift.model import DataItem, DisplayItem
from nion.utils import Geometry


class Clicks:
    """Listens to clicks on images of a window; those that are not wanted stay Swift's.

    To be used in the user interface thread.

    Parameters
    ----------
    window : DocumentController
        Whose images can be clicked.
    wanted : callable
        Returns the data item on which a click is wanted now; ``None``: on none.
    clicked : callable
        Is told where: x and y in pixels from the centre of the first one.
    """

    def __init__(
        self,
        window: DocumentController.DocumentController,
        wanted: collections.abc.Callable[[], DataItem.DataItem | None],
        clicked: collections.abc.Callable[[float, float], None],
    ) -> None:
        self.__window, self.__wanted, self.__tell = window, wanted, clicked
        event = DisplayPanel.DisplayPanelManager().image_display_clicked_event
        self.__listener: typing.Any = event.listen(self.__clicked)

    def close(self) -> None:
        """Listen to no more clicks."""
        self.__listener = None

    def __clicked(
        self,
        panel: DisplayPanel.DisplayPanel,
        item: DisplayItem.DisplayItem,
        position: Geometry.FloatPoint,
        modifiers: typing.Any,
    ) -> bool:
        if panel.document_controller is not self.__window:
            return False
        wanted = self.__wanted()
        if wanted is None or item.data_item is not wanted:
            return False
        self.__tell(position.x - 0.5, position.y - 0.5)
        return True
