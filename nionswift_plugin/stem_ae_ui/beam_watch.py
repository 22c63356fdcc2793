"""Who may fire the beam, what was read of it, and one STOP for all of that, in every window of Swift.

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

_READ_S = 0.5  # how often the beam is read while nobody works with it
STOP_KEY = "F9"
"""Stops whatever is armed, from any of Swift's windows."""


class Armed(typing.Protocol):
    """Somebody who may fire the beam, or does."""

    @property
    def armed_left_s(self) -> float:
        """Seconds until the arming expires; zero if it has."""

    @property
    def doing(self) -> str:
        """What is going on, in a few words."""

    def stop(self, why: str = "") -> None:
        """Blank and end it. Returns at once."""


class Working:
    """Somebody who works with the beam without arming it, in :data:`WATCH` as long as that goes on.

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
    """What is known of the beam. For the user interface thread, except that listeners are called in any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[typing.Callable[[], object]] = []
        self._stem: object = None
        self._interlock: Interlock | None = None
        self._remove: typing.Callable[[], None] = lambda: None
        self._read_at = -float("inf")
        self._reading = False
        self.armed: list[Armed] = []
        """Everybody who may fire."""
        self.refusal = ""
        """Why the alarm could not be taken back."""

    # --- who may fire -----------------------------------------------------------------------------------------------

    def enter(self, who: Armed) -> None:
        """Say that somebody is armed or works with the beam."""
        if who not in self.armed:
            self.armed.append(who)
            self.tell()

    def leave(self, who: Armed) -> None:
        """Say that somebody is not armed any more."""
        if who in self.armed:
            self.armed.remove(who)
            self.tell()

    def stop(self, why: str = "") -> None:
        """Stop everybody and blank, whoever has the beam on. Returns at once."""
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
        """What to shout; empty if nothing is wrong."""
        return self._interlock.alarm if self.interlock and self._interlock else ""

    def acknowledge(self) -> None:
        """Take the alarm back, if the beam is read as blanked by now; :attr:`refusal` says why not. Returns at once."""
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
        """Read the beam now and then, beside the user interface: people have a button of their own for the blanker."""
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
        """Call back, in any thread, when anything has changed; returns what ends that."""
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
