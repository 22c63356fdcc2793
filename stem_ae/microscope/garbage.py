"""No long garbage collection while the beam is on.

A full collection goes through every object in the process. In Nion Swift those are more than a million, which takes
tenths of a second, and meanwhile no thread runs: not the one that would stop the beam, and not the watchdog's
heart-beat. While the beam is on, collections skip the objects that existed before; afterwards they include
them again, so nothing leaks.
"""

from __future__ import annotations

import gc
import threading

_lock = threading.Lock()
_count = 0
_is_ours = False


def put_off() -> None:
    """Make collections skip all objects that exist now. Each call needs a call of :func:`allow`."""
    global _count, _is_ours
    with _lock:
        _count += 1
        if _count == 1 and not gc.get_freeze_count():  # otherwise somebody else has done so, for good
            gc.freeze()
            _is_ours = True


def allow() -> None:
    """Make collections include all objects again."""
    global _count, _is_ours
    with _lock:
        _count -= 1
        if _count == 0 and _is_ours:
            gc.unfreeze()
            _is_ours = False
