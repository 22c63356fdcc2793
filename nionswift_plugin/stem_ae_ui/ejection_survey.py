"""The last survey of an eject run, or of a rehearsal, as a live data item of the project."""

from __future__ import annotations

import typing

import numpy as np
from nion.data import Calibration, DataAndMetadata
from nion.swift import DocumentController
from nion.swift.model import DataItem

from stem_ae.manipulate.beam import Scan

from . import keeping

_REFERENCES = {"survey": "stem_ae_ejection_survey", "rehearsal": "stem_ae_ejection_rehearsal"}
_TITLES = {"survey": "Survey of ejections", "rehearsal": "Rehearsal: survey of ejections (simulated)"}


class SurveyItem:
    """The last survey of a run. For the user interface thread.

    Parameters
    ----------
    window : DocumentController
        Whose project it belongs to.
    kind : str
        ``"survey"`` or ``"rehearsal"``.
    """

    def __init__(
        self, window: DocumentController.DocumentController, kind: typing.Literal["survey", "rehearsal"]
    ) -> None:
        self.__window, self.__kind = window, kind
        self.__reference = window.document_model.get_data_item_reference(_REFERENCES[kind])
        self.__transaction: typing.Any = None
        self.__shown: Scan | None = None

    @property
    def item(self) -> DataItem.DataItem | None:
        """The data item, once there is one."""
        return self.__reference.data_item

    def is_item(self, item: DataItem.DataItem) -> bool:
        """Return whether this is it."""
        return item is self.__reference.data_item

    def show(self, scan: Scan, instead_of: DataItem.DataItem | None) -> None:
        """Show a survey, in the display panel of the image that the targets were chosen in."""
        if scan is self.__shown:
            return
        self.__shown = scan
        document_model = self.__window.document_model
        item = self.__reference.data_item or self.__make()
        first = self.__transaction is None
        self.__transaction = self.__transaction or document_model.item_transaction(item)
        calibrations = [Calibration.Calibration(0.0, scan.sampling / 10, "nm")] * 2
        xdata = DataAndMetadata.new_data_and_metadata(
            np.asarray(scan.image, np.float32), dimensional_calibrations=calibrations,
            metadata={keeping.METADATA_KEY: {"kind": self.__kind}},
        )  # fmt: skip
        item.set_data_and_metadata(xdata)
        if first and instead_of is not None:
            self.__put_in_place_of(instead_of, item)

    def __put_in_place_of(self, other: DataItem.DataItem, item: DataItem.DataItem) -> None:
        display_item = self.__window.document_model.get_display_item_for_data_item(item)
        assert self.__window.workspace_controller
        for panel in self.__window.workspace_controller.display_panels:
            if panel.data_item is other:
                panel.set_display_panel_display_item(display_item)
                # Swift's paint thread may look while displays are being exchanged, and gives up until asked again.
                self.__window.event_loop.call_later(0.5, panel.update)

    def __make(self) -> DataItem.DataItem:
        item = DataItem.DataItem(np.zeros((16, 16), np.float32))
        item.title = _TITLES[self.__kind]
        item.category = "temporary"
        self.__window.document_model.append_data_item(item)
        self.__window.document_model.setup_channel(_REFERENCES[self.__kind], item)
        return item

    def stop(self) -> None:
        """Let go of the data item, which keeps the last survey."""
        self.__shown = None
        if self.__transaction:
            self.__transaction.close()
            self.__transaction = None
