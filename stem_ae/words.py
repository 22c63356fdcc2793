"""Numbers and nouns as people write them."""

from __future__ import annotations

import math


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 atom``, ``1,338 atoms``; ``plural`` where it does not just end in s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def clock(seconds: float) -> str:
    """Return the time left as minutes and seconds, ``9:05``, rounded up to whole seconds."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}:{rest:02d}"


def duration(seconds: float) -> str:
    """Return a duration in words, such as ``3 min``."""
    for limit, unit, name in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"
