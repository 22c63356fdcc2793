"""What a panel looks at: the newest list of jobs, read in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stem_ae.errors import StemAeError
from stem_ae.jobs.queue import OVER, Job, Queue, Row


class Watch:
    """Reads a queue's list in a thread of its own and says when it changed.

    Parameters
    ----------
    queue : Queue
        What to watch.
    interval : float
        Seconds between looks.

    Attributes
    ----------
    rows : tuple of Row
        The newest list, newest job first. Replaced as a whole, so that any thread may read it without waiting.
    message : str
        Why it could not be read, in one sentence; empty if it could.
    changed : callable
        Called without arguments in the watching thread when ``rows`` or ``message`` is another; a panel passes the news
        on to its own thread there.
    ended : callable
        Called in the watching thread with each :class:`Job` that ended since watching began.
    """

    def __init__(
        self,
        queue: Queue,
        interval: float = 1.0,
        changed: Callable[[], None] = lambda: None,
        ended: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self.rows: tuple[Row, ...] = ()
        self.message = ""
        self.changed, self.ended = changed, ended
        self._queue, self._interval = queue, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        first, stamp = True, None
        while True:
            seen = self._queue.record.stamp()
            if seen is not None and seen == stamp and not any(row.state == "running" for row in self.rows):
                if self._stop.wait(self._interval):
                    return
                continue
            stamp = seen
            before, said = {row.id: row.state for row in self.rows}, self.message
            try:
                rows, message = tuple(self._queue.rows()), ""
            except StemAeError as error:
                rows, message = self.rows, str(error)
            except Exception as error:
                rows, message = self.rows, f"The list of jobs cannot be read ({type(error).__name__})."
            differs = rows != self.rows or message != said
            self.rows, self.message = rows, message
            if differs:
                self.changed()
            if not first:
                for row in rows:
                    if row.state in OVER and before.get(row.id) not in OVER:
                        self.ended(Job(self._queue, row.id))
            first = False
            if self._stop.wait(self._interval):
                return
