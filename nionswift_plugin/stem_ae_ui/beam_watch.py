"""What is armed, the beam as read, and one STOP for everything, in every window of Swift.

There is one :data:`WATCH`. Panels say there that they are armed; beam lines, banners and the key ask it.
"""

from __future__ import annotations

import contextlib
import threading
import time
import typing

from nion.utils import Registry

from stem_ae.errors import StemAeError
from stem_ae.microscope.deadline import aside
from stem_ae.microscope.interlock import Interlock
from stem_ae.microscope.swift import SwiftInstrument

_READ_S = 0.5  # how often the beam is read while it is not in use
STOP_KEY = "F9"
"""Stops whatever is armed, from any of Swift's windows."""


class Armed(typing.Protocol):
    """Something that is armed, or exposes."""

    @property
    def armed_left_s(self) -> float:
        """Seconds until the arming expires; zero if it has."""

    @property
    def doing(self) -> str:
        """What is going on, in a few words."""

    def stop(self, why: str = "") -> None:
        """Blank and end it. Returns at once."""


class Working:
    """A run that uses the beam without arming, in :data:`WATCH` while it lasts.

    Parameters
    ----------
    describe : callable
        Returns what is going on, in a few words.
    end : callable
        Blanks and ends it. Returns at once.
    """

    armed_left_s = 0.0

    def __init__(self, describe: typing.Callable[[], str], end: typing.Callable[[], object]) -> None:
        self._describe, self._end = describe, end

    @property
    def doing(self) -> str:
        """What is going on."""
        return self._describe()

    def stop(self, why: str = "") -> None:
        """Blank and end it."""
        self._end()

    def tell(self, is_working: bool) -> None:
        """Say whether it goes on."""
        (WATCH.enter if is_working else WATCH.leave)(self)


class BeamWatch:
    """The state of the beam. For the user interface thread; listeners are called in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[typing.Callable[[], object]] = []
        self._stem: object = None
        self._interlock: Interlock | None = None
        self._remove: typing.Callable[[], None] = lambda: None
        self._read_at = -float("inf")
        self._reading = False
        self.armed: list[Armed] = []
        """Everything that is armed or uses the beam."""
        self.refusal = ""
        """Why the alarm could not be cleared."""

    # --- what is armed ----------------------------------------------------------------------------------------------

    def enter(self, who: Armed) -> None:
        """Add something that is armed or uses the beam."""
        if who not in self.armed:
            self.armed.append(who)
            self.tell()

    def leave(self, who: Armed) -> None:
        """Remove something that is no longer armed."""
        if who in self.armed:
            self.armed.remove(who)
            self.tell()

    def stop(self, why: str = "") -> None:
        """Stop everything and blank, whoever has unblanked. Returns at once."""
        armed = list(self.armed)
        for who in armed:
            who.stop(why)
        if interlock := self.interlock:
            if armed or interlock.is_to_be_on:
                interlock.stop()
            else:
                interlock.darken()

    # --- what was read ----------------------------------------------------------------------------------------------

    @property
    def interlock(self) -> Interlock | None:
        """Of Swift's microscope; None if there is none."""
        stem = Registry.get_component("stem_controller")
        if stem is not self._stem:
            self._remove()
            self._stem, self._interlock, self._remove = stem, None, lambda: None
        if self._interlock is None and stem is not None:
            with contextlib.suppress(StemAeError):
                self._interlock = Interlock.of(SwiftInstrument())
                self._remove = self._interlock.listen(self.tell)
        return self._interlock

    @property
    def alarm(self) -> str:
        """The alarm's text; empty if there is none."""
        return self._interlock.alarm if self.interlock and self._interlock else ""

    def acknowledge(self) -> None:
        """Clear the alarm if the beam reads as blanked; otherwise :attr:`refusal` says why not. Returns at once."""
        interlock = self.interlock
        if interlock is None:
            return

        def work() -> None:
            try:
                self.refusal = ""
                interlock.acknowledge()
            except StemAeError as error:
                self.refusal = str(error)
            self.tell()

        aside(work)

    def look(self) -> None:
        """Read the beam regularly in another thread, since users also have Swift's own button for the blanker."""
        interlock, now = self.interlock, time.monotonic()
        if interlock is None or self.armed or self._reading or now - self._read_at < _READ_S:
            return
        self._read_at, self._reading = now, True

        def read() -> None:
            try:
                interlock.read()
            finally:
                self._reading = False

        aside(read)

    # --- listening --------------------------------------------------------------------------------------------------

    def listen(self, callback: typing.Callable[[], object]) -> typing.Callable[[], None]:
        """Call back, in any thread, after every change; returns a function that ends this."""
        with self._lock:
            self._listeners.append(callback)

        def remove() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return remove

    def tell(self) -> None:
        """Tell the listeners."""
        with self._lock:
            listeners = list(self._listeners)
        for callback in listeners:
            callback()


WATCH = BeamWatch()
