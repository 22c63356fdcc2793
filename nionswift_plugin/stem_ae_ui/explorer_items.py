"""The explorer's data items: survey with its region, one spectrum or pattern, and the three maps."""

from __future__ import annotations

import typing

import numpy as np
from nion.data import Calibration, DataAndMetadata
from nion.swift import DocumentController
from nion.swift.model import DataItem, DisplayItem, DocumentModel, Graphics
from nion.utils import Geometry
from numpy.typing import NDArray

from stem_ae.explore.remote import Decision
from stem_ae.microscope.frame import CameraFrame, Image

from . import showing
from .keeping import METADATA_KEY

MAPS = {
    "mean": ("Prediction", "plasma"), "std": ("Uncertainty", "magma"), "acquisition": ("Worth measuring", "magma"),
}  # fmt: skip
_OTHER = ("Also predicted", "plasma")
_REGION = Geometry.FloatRect(Geometry.FloatPoint(0.1, 0.1), Geometry.FloatSize(0.8, 0.8))


class Items:
    """Makes and updates the data items of one experiment. For the user interface thread.

    Parameters
    ----------
    window : DocumentController
    """

    def __init__(self, window: DocumentController.DocumentController) -> None:
        self.__window = window
        self.__transactions: list[DocumentModel.Transaction] = []
        self.__maps: dict[str, DataItem.DataItem] = {}
        self.__live: list[DataItem.DataItem] = []
        self.survey: DataItem.DataItem | None = None
        """The newest survey image; the region is marked on it."""
        self.explored: DataItem.DataItem | None = None
        """The survey image that the last exploration went over, and that its maps belong to."""
        self.sample: DataItem.DataItem | None = None
        """The newest spectrum or pattern."""

    # --- survey and region ------------------------------------------------------------------------------------------

    def show_survey(self, image: Image, is_explored: bool) -> None:
        """Show a survey image. One that was not explored is replaced, its region kept."""
        xdata = _image(image.data, image.frame.sampling[0], (0.0, 0.0), {"kind": "survey"})
        if self.survey and self.survey is not self.explored and self.survey in self.__window.document_model.data_items:
            self.survey.set_xdata(xdata)
        else:
            region = self.region
            self.survey = self.__add(xdata, "Explorer: survey")
            graphic = Graphics.RectangleGraphic()
            graphic.label, graphic.bounds = "explore", region
            self.__display_item(self.survey).add_graphic(graphic)
        self.__put(self.survey, is_survey=True)
        if is_explored:
            self.explored, self.__maps = self.survey, {}

    @property
    def region(self) -> Geometry.FloatRect:
        """What is to be explored, in fractions of the survey image."""
        if self.survey and self.survey in self.__window.document_model.data_items:
            for graphic in self.__display_item(self.survey).graphics:
                if isinstance(graphic, Graphics.RectangleGraphic) and graphic.label == "explore":
                    return graphic.bounds
        return _REGION

    # --- one spectrum or pattern --------------------------------------------------------------------------------------

    def show_sample(self, frame: CameraFrame, bands: list[tuple[float, float]]) -> None:
        """Show a spectrum with the bands that are looked at, or a pattern."""
        axes = [Calibration.Calibration(frame.offset, frame.scale, frame.unit)] * frame.data.ndim
        metadata = {METADATA_KEY: {"kind": "sample", "exposure_s": frame.exposure_s}}
        xdata = DataAndMetadata.new_data_and_metadata(frame.data, dimensional_calibrations=axes, metadata=metadata)
        if self.sample not in self.__window.document_model.data_items or self.sample is None:
            self.sample = self.__add(xdata, f"Explorer: newest {'spectrum' if frame.data.ndim == 1 else 'pattern'}")
            self.__display_item(self.sample).set_display_property("y_style", "log")  # or only the zero loss is seen
            self.__put(self.sample)
        else:
            self.sample.set_xdata(xdata)
        self.__go_live(self.sample)
        self.show_bands(frame, bands)

    def show_bands(self, frame: CameraFrame, bands: list[tuple[float, float]]) -> None:
        """Mark the bands on the spectrum."""
        if self.sample is None or self.sample not in self.__window.document_model.data_items:
            return
        display_item = self.__display_item(self.sample)
        span = frame.scale * frame.data.shape[-1]
        wanted = [((low - frame.offset) / span, (high - frame.offset) / span) for low, high in bands]
        wanted = wanted if frame.data.ndim == 1 else []
        shown = [g for g in display_item.graphics if isinstance(g, Graphics.IntervalGraphic)]
        for graphic in shown[len(wanted) :]:
            display_item.remove_graphic(graphic)
        for k, interval in enumerate(wanted):
            if k < len(shown):
                shown[k].interval = interval
            else:
                graphic = Graphics.IntervalGraphic()
                graphic.interval = interval
                display_item.add_graphic(graphic)

    # --- maps -------------------------------------------------------------------------------------------------------

    def show_maps(
        self, decision: Decision, candidates: NDArray[np.int64], sampling: float, about: dict[str, typing.Any]
    ) -> None:
        """Show a decision's maps, calibrated like the survey and linked to it."""
        about = {"measured": decision.measured, **about}
        for name in ("mean", "std", "acquisition"):
            self.__show_map(name, getattr(decision, name), candidates, sampling, about)

    def show_other(
        self, key: str, decision: Decision, candidates: NDArray[np.int64], sampling: float, about: dict[str, typing.Any]
    ) -> None:
        """Show what is believed of a property beside the first; the same ``key``, the same map."""
        self.__show_map(key, decision.mean, candidates, sampling, {"measured": decision.measured, **about})

    def __show_map(
        self,
        name: str,
        values: NDArray[np.float32],
        candidates: NDArray[np.int64],
        sampling: float,
        about: dict[str, typing.Any],
    ) -> None:
        if values.ndim != 2 or min(values.shape) < 2:
            return
        rows, columns = (np.unique(candidates[:, k]) for k in (0, 1))
        step = float(rows[1] - rows[0]) * sampling
        first = (float(rows[0]) * sampling, float(columns[0]) * sampling)
        survey = str(self.explored.uuid) if self.explored else ""
        kind = name if name in MAPS else "other"
        xdata = _image(values, step, first, {"kind": kind, "survey": survey, **about})
        (title, colors), item = MAPS.get(name, _OTHER), self.__maps.get(name)
        if item is None:
            item = self.__maps[name] = self.__add(xdata, f"{title} ({about['property']})")
            item.source = self.explored  # goes with it
            if channel := self.__display_item(item).display_data_channel:
                channel.color_map_id = colors
            self.__transactions.append(self.__window.document_model.item_transaction(item))
            self.__go_live(item)
            self.__put(item)
        elif item in self.__window.document_model.data_items:  # otherwise the user has deleted it
            item.title = f"{title} ({about['property']})"
            self.__go_live(item)
            self.__window.document_model._queue_data_item_update(item, xdata)

    def finish(self) -> None:
        """Write the maps to the project: they change no more, or seldom."""
        for transaction in self.__transactions:
            transaction.close()
        self.__transactions.clear()
        for item in self.__live:
            if item in self.__window.document_model.data_items:
                self.__window.document_model.end_data_item_live(item)
        self.__live.clear()

    def __go_live(self, item: DataItem.DataItem) -> None:
        """Say that an item changes all the time, until :meth:`finish`.

        Swift sorts the others anew by date with every change, which moves them about in the Data panel and now and then
        stops Swift for good: thumbnails that are ready at that moment wait for the panel, and it for them.
        """
        if item not in self.__live:
            self.__live.append(item)
            self.__window.document_model.begin_data_item_live(item)

    # --- Swift's ways ------------------------------------------------------------------------------------------------

    def __add(self, xdata: DataAndMetadata.DataAndMetadata, title: str) -> DataItem.DataItem:
        item = DataItem.new_data_item(xdata)
        item.title = title
        self.__window.document_model.append_data_item(item)
        return item

    def __display_item(self, item: DataItem.DataItem) -> DisplayItem.DisplayItem:
        display_item = self.__window.document_model.get_display_item_for_data_item(item)
        assert display_item
        return display_item

    def __put(self, item: DataItem.DataItem, is_survey: bool = False) -> None:
        """Show an item in a display panel: the survey in the first one, others only where nothing is shown."""
        panels = showing.panels(self.__window)
        if is_survey and panels:
            panels[0].set_display_panel_data_item(item)
        else:
            showing.show_in_empty(self.__window, item)


def _image(
    data: NDArray[typing.Any], step: float, first: tuple[float, float], metadata: dict[str, typing.Any]
) -> DataAndMetadata.DataAndMetadata:
    """Return an image with ``step`` Å per pixel, whose first pixel lies at ``first`` (Å, y and x), in nm."""
    calibrations = [Calibration.Calibration(offset / 10, step / 10, "nm") for offset in first]
    return DataAndMetadata.new_data_and_metadata(
        np.ascontiguousarray(data, dtype=np.float32), dimensional_calibrations=calibrations,
        metadata={METADATA_KEY: metadata},
    )  # fmt: skip
