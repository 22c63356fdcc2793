"""The border to Nion Swift: its images become arrays with a sampling in Å, its scan channels a stream of frames."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from nion.data import DataAndMetadata
from nion.instrumentation import HardwareSource, scan_base
from numpy.typing import NDArray

ANGSTROM_PER_UNIT = {"pm": 1e-2, "\u00c5": 1.0, "A": 1.0, "nm": 10.0, "\u03bcm": 1e4, "um": 1e4, "mm": 1e7, "m": 1e10}
"""Length units as Swift writes them (after Unicode's NFKC, which makes one letter of each of the two Å and µ), in Å."""


# --- images ---------------------------------------------------------------------------------------------------------


def sampling_of(xdata: DataAndMetadata.DataAndMetadata) -> tuple[float, float] | None:
    """Return the Å per pixel along (y, x) that an image states, or ``None`` if its units are not lengths."""
    values = []
    for calibration in xdata.dimensional_calibrations[-2:]:
        unit = ANGSTROM_PER_UNIT.get(unicodedata.normalize("NFKC", calibration.units or ""))
        scale = abs(float(calibration.scale))
        if unit is None or not np.isfinite(scale) or scale == 0.0:
            return None
        values.append(scale * unit)
    return (values[0], values[1]) if len(values) == 2 else None


def image_of(xdata: DataAndMetadata.DataAndMetadata) -> NDArray[Any]:
    """Return a copy of the pixels; colours become their mean, anything else stays as it is.

    Swift may go on writing into its own array, so a copy is what other threads can work on.
    """
    data: NDArray[Any] = xdata.data
    if data.dtype == np.uint8 and data.ndim == 3 and data.shape[-1] in (3, 4):
        data = data[..., :3].mean(axis=-1, dtype=np.float32)  # Swift's colour images are uint8, blue green red (alpha)
    return data.copy()


def is_whole(xdata: DataAndMetadata.DataAndMetadata) -> bool:
    """Return whether the scan has written every row of the image (true of images that no scan wrote)."""
    rows = xdata.metadata.get("scan", {}).get("valid_rows")
    return rows is None or rows >= xdata.data_shape[0]


# --- scan channels --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ScanChannel:
    """One channel of one scan."""

    hardware_source_id: str
    channel_id: str
    name: str
    """Such as ``"HAADF"``."""
    scan_name: str
    """Such as ``"Scan"``."""

    @property
    def key(self) -> str:
        """Names the channel in the settings."""
        return f"{self.hardware_source_id}/{self.channel_id}"


def scan_channels() -> Sequence[ScanChannel]:
    """Return every channel of every scan that Swift knows now."""
    return [
        ScanChannel(source.hardware_source_id, state.channel_id, state.name, source.display_name)
        for source in _scans()
        for state in (source.get_channel_state(index) for index in range(source.channel_count))
    ]


def _scans() -> list[scan_base.ScanHardwareSource]:
    sources = HardwareSource.HardwareSourceManager().hardware_sources
    return [cast(scan_base.ScanHardwareSource, source) for source in sources if source.features.get("is_scanning")]


class ScanFeed:
    """The complete frames of one scan channel, as long as its scan is there. Never starts the scan.

    Parameters
    ----------
    channel : ScanChannel
        What to listen to.
    received : callable
        Called with each complete frame and the key of the data item that shows it (see
        ``DocumentModel.get_data_item_reference``), in the *acquisition* thread: copy and return.
    changed : callable
        Called, in any thread, when the scan has started, stopped or been taken out of Swift.
    """

    def __init__(
        self,
        channel: ScanChannel,
        received: Callable[[DataAndMetadata.DataAndMetadata, str], None],
        changed: Callable[[], None],
    ) -> None:
        self.channel = channel
        self._received = received
        self._changed = changed
        manager = HardwareSource.HardwareSourceManager()
        self._source = manager.get_hardware_source_for_hardware_source_id(channel.hardware_source_id)
        self._listeners: list[Any] = [manager.hardware_source_removed_event.listen(self._source_removed)]
        if self._source:
            self._listeners.append(self._source.data_channel_updated_event.listen(self._updated))
            self._listeners.append(self._source.acquisition_state_changed_event.listen(self._state_changed))

    @property
    def is_there(self) -> bool:
        """Whether Swift (still) has the scan."""
        return self._source is not None

    @property
    def is_playing(self) -> bool:
        """Whether the scan is running."""
        return self._source is not None and self._source.is_playing

    def close(self) -> None:
        """Stop listening."""
        self._source = None  # an event that is being fired just now may still call
        self._listeners.clear()

    def _updated(
        self, update: HardwareSource.DataChannelEventArgs, xdata: DataAndMetadata.DataAndMetadata
    ) -> None:
        source = self._source
        if source is None or update.channel_id != self.channel.channel_id or update.state != "complete":
            return
        if not source.is_aborted:  # what an aborted scan leaves is called complete, too
            self._received(xdata, "_".join([self.channel.hardware_source_id, update.data_channel_id or ""]))

    def _state_changed(self, is_acquiring: bool) -> None:
        if self._source:
            self._changed()

    def _source_removed(self, source: HardwareSource.HardwareSource) -> None:
        if source is self._source:
            self.close()
            self._changed()
