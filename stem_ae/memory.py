"""What the C library does with memory that was freed.

Swift allocates and frees frames in many threads all day. glibc places them between small things that stay, so that its
heaps grow around the gaps by 50 to 100 MB in an hour of scanning, with or without stem_ae's panels, though nothing
is lost. Elsewhere than on glibc these functions do nothing.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of malloc.h
_LARGE = 128 * 1024  # bytes: glibc's own first value, which it raises as it goes unless it is told
_ARENAS = 2


@functools.cache
def _glibc() -> Any:
    """Return the C library if it is glibc, else None."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


@functools.cache
def settle() -> None:
    """Have frames placed in mappings of their own, which go back to the system at once, and few heaps for threads."""
    if glibc := _glibc():
        glibc.mallopt(_MMAP_THRESHOLD, _LARGE)
        glibc.mallopt(_ARENA_MAX, _ARENAS)


def give_back() -> bool:
    """Give freed heap memory back to the system; other threads go on.

    Returns
    -------
    bool
        Whether there was any.
    """
    glibc = _glibc()
    return bool(glibc and glibc.malloc_trim(0))
