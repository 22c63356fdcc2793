"""A page of Swift's preferences, and where what it says is kept: with Swift's own."""

from __future__ import annotations

import asyncio
import collections.abc
import typing

from nion.swift import Application
from nion.swift.model import ApplicationData
from nion.ui import Declarative, UserInterface

from . import swift_versions
from .fitted import FittedInterface


class Page:
    """What Swift asks of a page.

    Parameters
    ----------
    identifier, label : str
        Its name among the pages, and the one that is shown.
    make : callable
        Returns the handler of the page from Swift's user interface.
    """

    def __init__(
        self, identifier: str, label: str, make: typing.Callable[[UserInterface.UserInterface], Declarative.Handler]
    ) -> None:
        self.identifier, self.label = identifier, label
        self.__make = make

    def build(
        self,
        ui: UserInterface.UserInterface,
        event_loop: asyncio.AbstractEventLoop | None = None,
        **kwargs: typing.Any,
    ) -> Declarative.DeclarativeWidget:
        """Return the page."""
        assert event_loop is not None
        windows = Application.app.windows[:1] if Application.app else []
        return _PageWidget(FittedInterface(ui, any(map(swift_versions.is_dark, windows))), event_loop, self.__make(ui))


class _PageWidget(Declarative.DeclarativeWidget):
    """A page whose texts can be read on Swift's theme, as those of a panel can."""

    def __init__(
        self, ui: FittedInterface, event_loop: asyncio.AbstractEventLoop, handler: Declarative.HandlerLike
    ) -> None:
        self.__ui = ui
        super().__init__(typing.cast(UserInterface.UserInterface, ui), event_loop, handler)

    def periodic(self) -> None:
        """Fit the texts to the size that the page has now."""
        super().periodic()
        self.__ui.fit()


def stored(key: str) -> collections.abc.Mapping[str, typing.Any]:
    """Return what is stored under a key; what is no mapping counts as nothing."""
    values = ApplicationData.get_data().get(key)
    return values if isinstance(values, dict) else {}


def store(key: str, values: dict[str, typing.Any]) -> None:
    """Store values under a key."""
    data = ApplicationData.get_data()
    data[key] = values
    ApplicationData.set_data(data)
