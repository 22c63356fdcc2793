"""Heap memory that the C library keeps after it was freed."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it; musl does not


def give_back() -> bool:
    """Give freed heap memory back to the system, where the C library would keep it (glibc); other threads go on.

    Swift allocates and frees frames in many threads all day. Without this a scanning Swift grows by some 50 to 100 MB
    in an hour, with or without stem_ae's panels.

    Returns
    -------
    bool
        Whether there was any.
    """
    trim = _malloc_trim()
    return bool(trim and trim(0))
