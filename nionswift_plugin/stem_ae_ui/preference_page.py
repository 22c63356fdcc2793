"""A page of Swift's preferences, and where what it says is kept: with Swift's own."""

from __future__ import annotations

import asyncio
import collections.abc
import typing

from nion.swift.model import ApplicationData
from nion.ui import Declarative, UserInterface


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
        return Declarative.DeclarativeWidget(ui, event_loop, self.__make(ui))


def stored(key: str) -> collections.abc.Mapping[str, typing.Any]:
    """Return what is stored under a key; what is no mapping counts as nothing."""
    values = ApplicationData.get_data().get(key)
    return values if isinstance(values, dict) else {}


def store(key: str, values: dict[str, typing.Any]) -> None:
    """Store values under a key."""
    data = ApplicationData.get_data()
    data[key] = values
    ApplicationData.set_data(data)
