"""Everything that differs between the versions of Swift that we support, 16.16 to the newest.

Swift says what it can do by what it has, so ask for that and not for a version number. Nothing else in stem_ae, and
nothing in its tests, uses what only one version has.
"""

from __future__ import annotations

import asyncio
import inspect
import pathlib
import typing

from nion.data import DataAndMetadata
from nion.swift.model import DisplayItem, Persistence, Profile
from nion.utils import Stream

Displayed = typing.Callable[[DataAndMetadata.DataAndMetadata, DataAndMetadata.DataMetadata], None]
"""Called with what is displayed (a slice of a stack, say) and a description of the whole data."""


def new_profile(
    storage_system: Persistence.PersistentStorageInterface, cache_folder: pathlib.Path, loop: asyncio.AbstractEventLoop
) -> Profile.Profile:
    """Return a profile that is kept in the storage; 16.17 and later run its documents' updates in the event loop."""
    make: typing.Any = Profile.Profile
    later = {"event_loop": loop} if "event_loop" in inspect.signature(make).parameters else {}
    return typing.cast(Profile.Profile, make(storage_system=storage_system, cache_dir_path=cache_folder, **later))


def is_dark(window: typing.Any) -> bool:
    """Return whether the theme of a window is a dark one; 16.16 knows, but has no property that says it."""
    if hasattr(window, "color_scheme"):
        return bool(window.color_scheme == "dark")
    native = window._document_window
    if not hasattr(native, "native_document_window"):  # a test's
        return False
    return bool(native.proxy.DocumentWindow_getColorScheme(native.native_document_window) == "dark")


class DisplayedData:
    """Tells what is displayed of an image, now and whenever the data, the slice or the conversion change.

    Swift computes the displayed data in another thread. 16.16 calls back there, later versions in the user
    interface's.

    Parameters
    ----------
    display_item : DisplayItem
        Whose first data channel is followed.
    received : callable
        Called, in any thread, with what is displayed.
    """

    def __init__(self, display_item: DisplayItem.DisplayItem, received: Displayed) -> None:
        self.__received: Displayed | None = received
        self.__last: typing.Any = None
        item: typing.Any = display_item
        channel: typing.Any = display_item.display_data_channel
        self.__listener: typing.Any = None
        if hasattr(item, "display_info_stream"):  # 16.17 and later
            stream = item.display_info_stream
            self.__listener = Stream.ValueStreamAction(stream, self.__info_changed)
            self.__info_changed(stream.value)
        elif channel:
            self.__listener = channel.subscribe_to_latest_computed_display_values(self.__values_changed)
            self.__values_changed(channel.get_latest_computed_display_values())

    def close(self) -> None:
        """Stop telling."""
        self.__received = None
        self.__listener = None

    def __info_changed(self, info: typing.Any) -> None:
        data = info.display_data_info if info else None
        # The stream also tells of every change of a graphic, with the same data.
        if data is None or data is self.__last:
            return
        self.__last = data
        self.__tell(data.display_data_and_metadata, data.data_metadata)

    def __values_changed(self, values: typing.Any) -> None:
        whole = values.data_and_metadata if values else None
        if whole:
            self.__tell(values.display_data_and_metadata, whole.data_metadata)

    def __tell(self, shown: DataAndMetadata.DataAndMetadata | None, whole: DataAndMetadata.DataMetadata | None) -> None:
        received = self.__received
        if received and shown and whole:
            received(shown, whole)
