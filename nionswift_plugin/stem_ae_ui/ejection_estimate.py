"""Time, dose and losses of the chosen ejections, computed in another thread. No Swift here."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from stem_ae.errors import StemAeError
from stem_ae.imaging.virtual_microscope import Beam as Column

from . import keeping
from .ejection_intent import Intent, measured_source

_MEASURED_S = 60.0  # how long a measured source size is used


class Estimate:
    """Estimates time, dose and losses in another thread; only the newest request counts.

    Parameters
    ----------
    changed : callable
        Called, in any thread, when there is an estimate.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._turn = 0
        self._source: tuple[float, Column, float] | None = None  # when it was measured, with which settings, Å
        self.words = ""
        """The estimate."""
        self.warning = ""
        """Warnings to read before the run."""

    def clear(self) -> None:
        """Clear the estimate."""
        with self._lock:
            self._turn += 1
            self.words = self.warning = ""

    def begin(self, intent: Intent, snapshot: keeping.Snapshot | None, then: Callable[[], None]) -> None:
        """Estimate an intent; ``then`` is called in the same thread afterwards."""
        self.clear()
        turn = self._turn

        def work() -> None:
            try:
                source = self._measured(intent, snapshot)
                words, warning = dataclasses.replace(intent, source_sigma=source).cost()
            except StemAeError as error:
                words, warning = str(error), ""
            with self._lock:
                if turn == self._turn:
                    self.words, self.warning = words, warning
            self._changed()
            then()

        threading.Thread(target=work, daemon=True, name="stem_ae estimate").start()

    def with_source(self, intent: Intent) -> Intent:
        """Return an intent with the measured size of the beam's source, if there is one."""
        return dataclasses.replace(intent, source_sigma=self._source[2]) if self._source else intent

    def _measured(self, intent: Intent, snapshot: keeping.Snapshot | None) -> float:
        """Return the size of the beam's source in Å, measured again after a change of settings or after a minute."""
        now, known = time.monotonic(), self._source
        if known and known[1] == intent.column and now - known[0] < _MEASURED_S:
            return known[2]
        if snapshot is None:
            return intent.source_sigma
        source = measured_source(snapshot.atoms, snapshot.result.pixels, intent.ladder, intent.column)
        self._source = now, intent.column, source
        return source
