"""Long tasks in Swift's Activity panel: shown after two seconds, removed when they end."""

from __future__ import annotations

import threading
import time

from nion.swift.model import Activity

from stem_ae.words import duration

PATIENCE_S = 2.0
"""Seconds; tasks that are shorter are not shown."""


class Work(Activity.Activity):
    """A task that may take long. It can be used in any thread, and must be ended.

    Parameters
    ----------
    title : str
        What is done, as in "Adapting".
    """

    def __init__(self, title: str) -> None:
        super().__init__("stem_ae", title)
        self.__lock = threading.Lock()
        self.__progress = ""
        self.__is_shown = self.__has_ended = False
        self.__began = time.monotonic()
        self.__timer = threading.Timer(PATIENCE_S, self.__show)
        self.__timer.daemon = True
        self.__timer.start()

    @property
    def displayed_title(self) -> str:
        """The text that Swift shows."""
        return f"{self.title}: {self.__progress}" if self.__progress else self.title

    def tell(self, progress: str = "", seconds_left: float | None = None) -> None:
        """Report the progress, and the time left if it is known."""
        left = [] if seconds_left is None else [f"{duration(seconds_left)} left"]
        text = ", ".join([progress] * bool(progress) + left)
        if text != self.__progress:
            self.__progress = text
            self.notify_property_changed("displayed_title")

    def tell_done(self, fraction: float, progress: str = "") -> None:
        """Report the fraction done, 0 to 1; the time left is extrapolated from the pace so far."""
        took = time.monotonic() - self.__began
        self.tell(progress, took * (1 - fraction) / fraction if fraction > 0 else None)

    def end(self) -> None:
        """Remove it from the panel; a second call does nothing."""
        self.__timer.cancel()
        with self.__lock:
            was_shown, self.__has_ended = self.__is_shown and not self.__has_ended, True
        if was_shown:
            Activity.activity_finished(self)

    def __show(self) -> None:
        with self.__lock:  # so that it cannot end before it has begun
            if not self.__has_ended:
                self.__is_shown = True
                Activity.append_activity(self)


class Works:
    """The tasks of one panel, at most one of each title.

    They end with :meth:`end`, and all of them with :meth:`close`.
    """

    def __init__(self) -> None:
        self.__works: dict[str, Work] = {}

    def begin(self, title: str) -> Work:
        """Begin a task; it replaces a running one of the same title."""
        self.end(title)
        self.__works[title] = work = Work(title)
        return work

    def keep(self, title: str, is_going_on: bool) -> Work | None:
        """Return the task while it goes on; it is begun or ended as needed."""
        if not is_going_on:
            self.end(title)
        elif title not in self.__works:
            self.begin(title)
        return self.__works.get(title)

    def end(self, title: str) -> None:
        """End a task, if it is running."""
        if work := self.__works.pop(title, None):
            work.end()

    def close(self) -> None:
        """End everything."""
        for title in list(self.__works):
            self.end(title)
